"""Everything about one pruning task that environments, agents and benchmarks share."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias

import torch

from hessian.channels.group import ChannelGroup, PinnedChannels
from hessian.channels.layer_types import MIXING_TYPES
from hessian.discovery.discover import discover, layers_found
from hessian.support.names import unknown
from prune_gym.allocation.loss_curves import LossCurves
from prune_gym.cost.budgeted import BudgetedCost
from prune_gym.cost.latency import BATCH_SIZE as LATENCY_BATCH
from prune_gym.cost.latency import LatencyTable, latency_table
from prune_gym.cost.latency_cost import LatencyCost
from prune_gym.cost.limits import FloatArray, IntArray
from prune_gym.cost.model import CostModel
from prune_gym.measuring import magnitude
from prune_gym.measuring.curvature_cache import CurvatureSettings, analyse
from prune_gym.measuring.evaluation import Evaluation
from prune_gym.measuring.evaluator import Evaluator
from prune_gym.measuring.measurement_key import measurement_key
from prune_gym.measuring.monotone import PredictedMetrics
from prune_gym.measuring.repair import REPAIRS
from prune_gym.problem.analysed import AnalysedTask
from prune_gym.problem.features import FeatureSet
from prune_gym.problem.predictions import PredictedPlans
from prune_gym.support.cache import cache_path, remember
from prune_gym.support.device import module_device, resolve_device
from prune_gym.support.files import cache_dir as default_cache_dir
from prune_gym.support.kernel_cache import bound_kernels
from prune_gym.tasks.registry import make_task, structure_of
from prune_gym.tasks.task import AGREEMENT, PruningTask

if TYPE_CHECKING:
    from torch import nn

    from hessian import HOBSSensitivityAnalyzer
    from prune_gym.surgery.pruner import Refit

Judge: TypeAlias = Literal["labels", "dense"]
JUDGES = ("labels", "dense")
"""Judges of plans: labels (or a task's metric), or the dense network."""

SELECTIONS = {"hobs": analyse, "magnitude": magnitude.rank_by_magnitude}
"""Rules for the units of a layer that leave first: the H-OBS elimination order, or the size of the filters."""


class Pool(Protocol):
    """Pool that measures plans side by side; :class:`prune_gym.problem.plan_pool.PlanPool` is one."""

    def fill(self, evaluator: Evaluator, plans: Sequence[Sequence[int]]) -> None:
        """Measure the plans that the evaluator does not know yet, so that asking for them is free."""
        ...


class PruningProblem(PredictedPlans):
    """A task with its structure, costs, predicted losses and measurements.

    Only the network's structure is built at once; data, weights and curvature load at :meth:`load`, or when something
    that needs them is first asked for.

    Args:
        task: a registered name, or a task object.
        device: where everything is computed: ``"cpu"``, ``"cuda:0"``, a GPU index; None means the device a task object
            is on, for a named task the GPU if there is exactly one, else the CPU.
        cache_dir: folder for curvature and predictions; None means ``$PRUNE_GYM_CACHE`` or the user's cache.
        progress: called with (description, done, total) during long steps.
        curvature: how curvature is measured.
        repair: how surviving weights are repaired before a plan is scored, a name in
            :data:`prune_gym.measuring.repair.REPAIRS`.
        judge: what plans are held to on the reward split: ``"labels"`` (or the task's metric), or ``"dense"``, the
            dense network's outputs there: rewards then measure agreement with it, and labels are not looked at.
        selection: which units of a layer leave first, ``"hobs"`` or ``"magnitude"``
            (:mod:`prune_gym.measuring.magnitude`; no curvature is measured then).
        task_options: arguments for :func:`prune_gym.tasks.make_task`, for example ``{"data_dir": ...}``.

    Attributes:
        name: the task's name.
        groups: the prunable layers, in execution order.
        pinned: channels that stay, with the place and the reason.
        cost: the network's cost model.
        default_target: the task's default FLOPs reduction.
        pool: where several plans are measured side by side (:mod:`prune_gym.problem.plan_pool`); None: here, one
            by one.

    Raises:
        KeyError: unknown task; the message names the nearest.
        TypeError: ``task`` is neither a name nor a task.
        ValueError: no such device, or a network that cannot be pruned.
    """

    cost: CostModel

    def __init__(
        self,
        task: str | PruningTask = "digits-resnet20",
        *,
        device: str | int | torch.device | None = None,
        cache_dir: str | Path | None = None,
        progress: Callable[[str, int, int], None] | None = None,
        curvature: CurvatureSettings | None = None,
        repair: str = "sequential",
        judge: Judge = "labels",
        selection: str = "hobs",
        task_options: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        if repair not in REPAIRS:
            raise ValueError(unknown("repair", repair, tuple(REPAIRS)))
        if judge not in JUDGES:
            raise ValueError(unknown("judge", judge, JUDGES))
        if selection not in SELECTIONS:
            raise ValueError(unknown("selection", selection, tuple(SELECTIONS)))
        if selection == "magnitude" and repair == "closed_form":
            raise ValueError("the closed-form repair needs curvature, and selection='magnitude' measures none")
        if not isinstance(task, (str, PruningTask)):
            raise TypeError(f"task is a registered name or a PruningTask; got {type(task).__name__}")
        structure = structure_of(task)
        own_device = module_device(structure.model) if isinstance(task, PruningTask) else None
        self.device = own_device if device is None and own_device is not None else resolve_device(device)
        self.name = task if isinstance(task, str) else task.name
        self.default_target = structure.default_target
        bound_kernels(sum(isinstance(module, MIXING_TYPES) for module in structure.model.modules()))
        found = discover(structure.model, structure.example_input[:1], structure.ignored_layers)
        self.groups: list[ChannelGroup] = layers_found(structure.model, found)
        self.pinned: list[PinnedChannels] = found.pinned
        self.cost = CostModel(self.groups, structure.model, structure.example_input)
        self._input_shape = tuple(structure.example_input.shape[1:])
        self.curvature = curvature if curvature is not None else CurvatureSettings()
        self.repair = repair
        self.judge: Judge = judge
        self.selection = selection
        self.progress = progress
        self.pool: Pool | None = None
        self._given = task
        self._task_options = dict(task_options or {})
        self._cache_dir = Path(cache_dir) if cache_dir is not None else None
        self._loaded: AnalysedTask | None = None
        self._predictor: PredictedMetrics | None = None
        self._latencies: dict[int, LatencyTable] = {}
        self._latency_cost: LatencyCost | None = None

    # ------------------------------------------------------------------ structure

    @property
    def layer_names(self) -> list[str]:
        """Names of the layers, in execution order."""
        return [group.name for group in self.groups]

    @property
    def num_layers(self) -> int:
        """Number of prunable layers L."""
        return len(self.groups)

    # ------------------------------------------------------------------ data, weights, curvature

    @property
    def is_loaded(self) -> bool:
        """True where data, weights and curvature are there."""
        return self._loaded is not None

    def load(self) -> PruningProblem:
        """Build the task, analyse it (from the cache where possible) and measure the dense network; returns itself.

        Raises:
            FileNotFoundError: the task's data or weights are missing.
            ValueError: the task's network is not the one its structure showed.
        """
        if self._loaded is None:
            task = self._build_task().to(self.device)
            # A task by name is built anew, and may turn out to be another network than its structure showed.
            known = self.groups if isinstance(self._given, PruningTask) else None
            hobs = SELECTIONS[self.selection](task, self.curvature, self._folder, self.progress, known)
            self._check_structure(hobs.groups, task)
            self._loaded = AnalysedTask(task, hobs, self.cost, self.repair)
        return self

    def _build_task(self) -> PruningTask:
        task = make_task(self._given, **self._task_options) if isinstance(self._given, str) else self._given
        return replace(task, metric=AGREEMENT) if self.judge == "dense" else task

    @property
    def _folder(self) -> Path:
        return self._cache_dir if self._cache_dir is not None else default_cache_dir()

    def _check_structure(self, groups: list[ChannelGroup], task: PruningTask) -> None:
        expected, found = ([(group.name, group.num_units) for group in side] for side in (self.groups, groups))
        if expected != found:
            raise ValueError(f"task {self.name!r} promised layers {expected} but its network has {found}")
        promised, shape = self._input_shape, tuple(task.example_input.shape[1:])
        if promised != shape:
            raise ValueError(
                f"FLOPs were counted for inputs {list(promised)}, but with its options task {self.name!r} has "
                f"{list(shape)}; pass the built task instead of its name"
            )

    @property
    def _parts(self) -> AnalysedTask:
        self.load()
        assert self._loaded is not None
        return self._loaded

    @property
    def task(self) -> PruningTask:
        """The task, on :attr:`device`."""
        return self._parts.task

    @property
    def hobs(self) -> HOBSSensitivityAnalyzer:
        """The analysis of the task's network."""
        return self._parts.hobs

    @property
    def evaluator(self) -> Evaluator:
        """Measures plans on the reward split."""
        return self._parts.evaluator

    def cut(self, kept: Sequence[int], *, refit: Refit = "sequential") -> nn.Module:
        """The network of a plan, physically smaller, on the calibration images of the task.

        Args:
            kept: units of every layer that stay, in the order of :attr:`groups`.
            refit: how the weights that stay are repaired, as in :meth:`prune_gym.PhysicalPruner.prune`.

        Raises:
            ValueError: another number of entries than layers, or an entry out of range.
        """
        return self._parts.cut(kept, refit)

    def prefetch(self, plans: Sequence[Sequence[int]]) -> None:
        """Measure plans side by side, so that asking for them is free: on the :attr:`pool`, or on an accelerator.

        Where there is neither (:attr:`prune_gym.measuring.evaluator.Evaluator.one_by_one` says why), nothing happens.

        Prefetched plans count as measured evaluations of an environment only when it asks for them.

        Args:
            plans: kept units a layer.

        Raises:
            PoolError: a process of the pool was lost.
        """
        if self.pool is not None:
            self.pool.fill(self.evaluator, plans)
        elif self.is_loaded and self.evaluator.one_by_one is None:
            self.evaluator.evaluate_many(plans)

    @property
    def dense(self) -> Evaluation:
        """Scores of the unpruned network on the reward split."""
        return self._parts.dense

    def features_of(self, features: FeatureSet) -> FloatArray:
        """Features of the layers that no plan changes, float64 [L, F]; not to be modified."""
        return self._parts.features_of(features)

    @property
    def latency_table(self) -> LatencyTable:
        """Latencies of plans on :attr:`device`, batches of 32 images; measured once (seconds) and kept on disk."""
        return self.latency_of_batches(LATENCY_BATCH)

    def latency_of_batches(self, batch_size: int) -> LatencyTable:
        """Latencies of plans for batches of so many images."""
        if batch_size not in self._latencies:
            task = self.task
            self._latencies[batch_size] = latency_table(
                task.model, task.example_input, self.cost, self.name, self._folder, self.progress, batch_size
            )
        return self._latencies[batch_size]

    @property
    def params_cost(self) -> BudgetedCost:
        """Parameters of plans as a cost that a target can limit."""
        return self.cost.params_cost

    def latency_cost(self) -> LatencyCost:
        """Latency of plans as a cost that a target can limit, of :attr:`latency_table`."""
        if self._latency_cost is None:
            self._latency_cost = LatencyCost(self.latency_table)
        return self._latency_cost

    # ------------------------------------------------------------------ predictions

    @property
    def losses(self) -> LossCurves:
        """Predicted losses of every layer."""
        return self._parts.losses

    def predicted_metrics(self, kept: IntArray) -> FloatArray:
        """Accuracy, soft accuracy and loss expected on the reward split: kept int [..., L] -> float64 [..., 3]."""
        return self.predictor(self.log_predicted_loss(kept))

    @property
    def measurement_key(self) -> str:
        """Digest of all that decides what a plan measures: network, data, selection, repair and code."""
        return measurement_key(self.task, self.curvature, self.repair, self.selection)

    @property
    def network_key(self) -> str:
        """Digest of the dense network and its calibration, reward and test images, whatever code measures them."""
        return self._parts.network_key

    @property
    def predictor(self) -> PredictedMetrics:
        """The fitted map from log predicted losses to metrics; fitting measures about 20 plans, once a task.

        These measurements are kept apart from :attr:`evaluator`: they are in no archive and in no agent's count.
        """
        if self._predictor is None:
            path = cache_path(self._folder, self.name, "predictor", self.measurement_key)
            self._predictor = remember(
                path, lambda: self._parts.fit_predictor(self.progress).tensors(), PredictedMetrics.restore
            )
        return self._predictor

    def __getstate__(self) -> dict[str, Any]:
        """Everything but the progress callback and the pool, which belong to this process."""
        return {**self.__dict__, "progress": None, "pool": None}
