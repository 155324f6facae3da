"""Everything about one pruning task that environments, agents and benchmarks share."""

from __future__ import annotations

import copy
import dataclasses
import importlib
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from hessian.channels import ChannelGroup, find_channel_groups
from prune_gym import magnitude, predicted
from prune_gym.cache import cache_path, code_digest, remember
from prune_gym.cost import CostModel
from prune_gym.curvature_cache import CurvatureSettings, analyse, analysis_key
from prune_gym.device import module_device, resolve_device
from prune_gym.evaluator import Evaluation, Evaluator
from prune_gym.features import FeatureSet
from prune_gym.files import cache_dir as default_cache_dir
from prune_gym.files import sha256_of
from prune_gym.knapsack import knapsack
from prune_gym.latency import LatencyTable, latency_table
from prune_gym.limits import CountLimits, FloatArray, IntArray
from prune_gym.pruning_task import network_digest
from prune_gym.repair import REPAIRS
from prune_gym.reward import unknown
from prune_gym.tasks import PruningTask, TaskStructure, make_task, task_structure

if TYPE_CHECKING:
    from hessian import HOBSSensitivityAnalyzer
    from prune_gym.plan_pool import PlanPool

START_NAMES = ("knapsack", "uniform")
"""Start plans :meth:`PruningProblem.start_plan` knows."""

SELECTIONS = {"hobs": analyse, "magnitude": magnitude.rank_by_magnitude}
"""What decides which units of a layer leave first: the H-OBS elimination order, or the size of the filters."""

_MEASURING_CODE = (
    "evaluator",
    "folding",
    "repair",
    "predicted",
    "knapsack",
    "cost",
    "quadratic",
    "limits",
    "projection",
)


class PruningProblem:
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
            :data:`prune_gym.repair.REPAIRS`.
        selection: which units of a layer leave first, ``"hobs"`` or ``"magnitude"`` (:mod:`prune_gym.magnitude`; no
            curvature is measured then).
        task_options: arguments for :func:`prune_gym.tasks.make_task`, for example ``{"data_dir": ...}``.

    Attributes:
        name: the task's name.
        groups: the prunable layers, in execution order.
        cost: the network's cost model.
        default_target: the task's default FLOPs reduction.
        pool: where several plans are measured side by side (:mod:`prune_gym.plan_pool`); None: here, one by one.

    Raises:
        KeyError: unknown task; the message names the nearest.
        TypeError: ``task`` is neither a name nor a task.
        ValueError: no such device, or a network that cannot be pruned.
    """

    def __init__(
        self,
        task: str | PruningTask = "digits-resnet20",
        *,
        device: str | int | torch.device | None = None,
        cache_dir: str | Path | None = None,
        progress: Callable[[str, int, int], None] | None = None,
        curvature: CurvatureSettings | None = None,
        repair: str = "sequential",
        selection: str = "hobs",
        task_options: Mapping[str, Any] | None = None,
    ) -> None:
        if repair not in REPAIRS:
            raise ValueError(unknown("repair", repair, tuple(REPAIRS)))
        if selection not in SELECTIONS:
            raise ValueError(unknown("selection", selection, tuple(SELECTIONS)))
        if selection == "magnitude" and repair == "closed_form":
            raise ValueError("the closed-form repair needs curvature, and selection='magnitude' measures none")
        if not isinstance(task, (str, PruningTask)):
            raise TypeError(f"task is a registered name or a PruningTask; got {type(task).__name__}")
        structure = _structure(task)
        own_device = module_device(structure.model) if isinstance(task, PruningTask) else None
        self.device = own_device if device is None and own_device is not None else resolve_device(device)
        self.name = task if isinstance(task, str) else task.name
        self.default_target = structure.default_target
        self.groups: list[ChannelGroup] = find_channel_groups(
            structure.model, structure.example_input[:1], structure.ignored_layers
        )
        self.cost = CostModel(self.groups, structure.model, structure.example_input)
        self._input_shape = tuple(structure.example_input.shape[1:])
        self.curvature = curvature if curvature is not None else CurvatureSettings()
        self.repair = repair
        self.selection = selection
        self.progress = progress
        self.pool: PlanPool | None = None
        self._given = task
        self._task_options = dict(task_options or {})
        self._cache_dir = Path(cache_dir) if cache_dir is not None else None
        self._loaded: _Loaded | None = None
        self._predictor: predicted.PredictedMetrics | None = None
        self._latency: LatencyTable | None = None
        self._starts: dict[tuple[Any, ...], IntArray] = {}

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
        """Whether data, weights and curvature are there."""
        return self._loaded is not None

    def load(self) -> PruningProblem:
        """Build the task, analyse it (from the cache where possible) and measure the dense network; returns itself.

        Raises:
            FileNotFoundError: the task's data or weights are missing.
            ValueError: the task's network is not the one its structure showed.
        """
        if self._loaded is None:
            task = _on_device(self._build_task(), self.device)
            hobs = SELECTIONS[self.selection](task, self.curvature, self._folder, self.progress)
            self._check_structure(hobs.groups, task)
            self._loaded = _Loaded(task, hobs, self.cost, self.repair)
        return self

    def _build_task(self) -> PruningTask:
        return make_task(self._given, **self._task_options) if isinstance(self._given, str) else self._given

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
    def _parts(self) -> _Loaded:
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

    def prefetch(self, plans: Sequence[Sequence[int]]) -> None:
        """Measure plans side by side, so that asking for them is free; without a :attr:`pool` nothing happens.

        Prefetched plans count as measured evaluations of an environment only when it asks for them.

        Args:
            plans: kept units a layer.

        Raises:
            PoolError: a process of the pool was lost.
        """
        if self.pool is None:
            return
        evaluator = self.evaluator
        keys = dict.fromkeys(tuple(int(count) for count in plan) for plan in plans)
        missing = [plan for plan in keys if plan not in evaluator.archive]
        if missing:
            for plan, (evaluation, seconds) in zip(missing, self.pool.measure(missing), strict=True):
                evaluator.archive[plan], evaluator.seconds[plan] = evaluation, seconds

    @property
    def dense(self) -> Evaluation:
        """What the unpruned network scores on the reward split."""
        return self._parts.dense

    @property
    def features(self) -> FloatArray:
        """The default features of the layers, standardised, float64 [L, F] (:mod:`prune_gym.features`)."""
        return self.features_of(FeatureSet())

    def features_of(self, features: FeatureSet) -> FloatArray:
        """Features of the layers that no plan changes, float64 [L, F]; not to be modified."""
        parts = self._parts
        if features not in parts.features:
            parts.features[features] = features.fixed(parts.hobs, self.cost)
        return parts.features[features]

    @property
    def latency_table(self) -> LatencyTable:
        """Latencies of plans on :attr:`device`, measured once (seconds) and kept on disk."""
        if self._latency is None:
            task = self.task
            self._latency = latency_table(
                task.model, task.example_input, self.cost, self.name, self._folder, self.progress
            )
        return self._latency

    # ------------------------------------------------------------------ predictions

    @property
    def curves(self) -> list[FloatArray]:
        """Predicted loss curves: a float64 array [num_units] a layer, nats, non-decreasing, [0] = 0."""
        return self._parts.curves

    @property
    def log_curves(self) -> list[FloatArray]:
        """Logarithms of :attr:`curves`, finite: losses below a thousandth of the median layer's at 50 % count alike."""
        return self._parts.log_curves

    def layer_losses(self, kept: IntArray) -> FloatArray:
        """Predicted loss increase of every layer, nats: kept int [..., L] -> float64 [..., L]."""
        parts = self._parts
        return parts.table[parts.offsets + kept]

    def predicted_loss(self, kept: IntArray) -> FloatArray:
        """Predicted loss increase of plans, nats, summed over layers: kept int [..., L] -> float64 [...]."""
        return self.layer_losses(kept).sum(axis=-1)

    def log_predicted_loss(self, kept: IntArray) -> FloatArray:
        """Finite logarithm of :meth:`predicted_loss`, float64 [...]."""
        return np.log(self.predicted_loss(kept) + self._parts.floor)

    def predicted_metrics(self, kept: IntArray) -> FloatArray:
        """Accuracy, soft accuracy and loss expected on the reward split: kept int [..., L] -> float64 [..., 3]."""
        return self.predictor(self.log_predicted_loss(kept))

    def predicted_score(self, kept: IntArray) -> FloatArray:
        """Soft accuracy expected on the reward split: kept int [..., L] -> float64 [...]."""
        return self.predicted_metrics(kept)[..., 1]

    @property
    def measurement_key(self) -> str:
        """Digest of all that decides what a plan measures: network, data, selection, repair and code."""
        own_code = [code_digest(magnitude)] if self.selection == "magnitude" else []
        return sha256_of(
            analysis_key(self.task, self.curvature),
            self.task.reward.images,
            self.task.reward.labels,
            self.repair,
            code_digest(*(importlib.import_module(f"prune_gym.{name}") for name in _MEASURING_CODE)),
            *own_code,
        )

    @property
    def network_key(self) -> str:
        """Digest of the dense network and its calibration, reward and test images, whatever code measures them."""
        return self._parts.network_key

    @property
    def predictor(self) -> predicted.PredictedMetrics:
        """The fitted map from log predicted losses to metrics; fitting measures about 20 plans, once a task.

        These measurements are kept apart from :attr:`evaluator`: they are in no archive and in no agent's count.
        """
        if self._predictor is None:
            path = cache_path(self._folder, self.name, "predictor", self.measurement_key)
            self._predictor = remember(
                path, lambda: self._fit_predictor().tensors(), predicted.PredictedMetrics.restore
            )
        return self._predictor

    def _fit_predictor(self) -> predicted.PredictedMetrics:
        evaluator = Evaluator(self.task, self.hobs, self.repair)
        plans = [self.cost.units, *predicted.probe_plans(self.curves, self.cost, self.cost.limits())]
        measured = []
        for done, plan in enumerate(plans, start=1):
            measured.append(dataclasses.astuple(evaluator.evaluate(plan.tolist())))
            if self.progress is not None:
                self.progress("fitting predictions", done, len(plans))
        return predicted.fit(self.log_predicted_loss(np.array(plans)), np.array(measured))

    # ------------------------------------------------------------------ start plans

    def start_plan(
        self, start: str, target: float, max_ratio: float = 0.95, *, limits: CountLimits | None = None
    ) -> IntArray:
        """Where a search begins: a plan on the target.

        Args:
            start: ``"knapsack"`` (least summed predicted loss) or ``"uniform"`` (equal ratios).
            target: FLOPs reduction.
            max_ratio: largest pruning ratio of a layer; ignored when ``limits`` are given.
            limits: legal counts.

        Returns:
            int64 [L] kept units; ``cost.reduction(kept) >= target``.

        Raises:
            ValueError: unknown start, or a target out of reach.
        """
        if start not in START_NAMES:
            raise ValueError(unknown("start", start, START_NAMES))
        limits = self.cost.limits(max_ratio) if limits is None else limits
        key = (start, float(target), limits.minimum.tobytes(), limits.step.tobytes())
        if key not in self._starts:
            if start == "knapsack":
                self._starts[key] = knapsack(self.curves, self.cost, target, limits=limits)
            else:
                self._starts[key] = self.cost.project(np.full(self.num_layers, 0.5), target, limits=limits)
        return self._starts[key].copy()

    def __deepcopy__(self, memo: dict[int, Any]) -> PruningProblem:
        """Itself: what it computes never changes, so copies of an environment go on sharing one loaded problem."""
        return self

    def __getstate__(self) -> dict[str, Any]:
        """Everything but the progress callback and the pool, which belong to this process."""
        return {**self.__dict__, "progress": None, "pool": None}


class _Loaded:
    """What :meth:`PruningProblem.load` builds."""

    def __init__(self, task: PruningTask, hobs: HOBSSensitivityAnalyzer, cost: CostModel, repair: str) -> None:
        self.task = task
        self.hobs = hobs
        self.evaluator = Evaluator(task, hobs, repair)
        self.dense = self._measure_dense(cost)
        self.curves = [np.maximum.accumulate(hobs.curves[group.name].double().cpu().numpy()) for group in hobs.groups]
        middle = np.median([curve[len(curve) // 2] for curve in self.curves])
        self.floor = max(1e-3 * float(middle), 1e-12)
        self.log_curves = [np.log(curve + self.floor) for curve in self.curves]
        # One table for all layers: the entry at offset + kept is the loss of a layer that keeps so many units.
        self.table = np.concatenate([np.append(np.nan, curve[::-1]) for curve in self.curves])
        self.offsets = np.cumsum([0, *(len(curve) + 1 for curve in self.curves[:-1])])
        self.features: dict[FeatureSet, FloatArray] = {}

    @cached_property
    def network_key(self) -> str:
        """Digest of network and data, computed when first asked for."""
        return network_digest(self.task)

    def _measure_dense(self, cost: CostModel) -> Evaluation:
        """The unpruned network, measured apart so that it does not count as a plan someone asked for."""
        units = tuple(cost.units.tolist())
        dense = self.evaluator.evaluate(units)
        del self.evaluator.archive[units]
        return dense


def _structure(task: str | PruningTask) -> TaskStructure:
    if isinstance(task, str):
        return task_structure(task)
    return TaskStructure(task.model, task.example_input, tuple(task.ignored_layers), task.default_target)


def _on_device(task: PruningTask, device: torch.device) -> PruningTask:
    """The task with its network and example on a device; the task given is left alone."""
    if module_device(task.model) == device and task.example_input.device == device:
        return task
    model = copy.deepcopy(task.model).to(device)
    return dataclasses.replace(task, model=model, example_input=task.example_input.to(device))
