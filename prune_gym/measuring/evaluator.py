"""Accuracy of a candidate plan without rebuilding the model.

A candidate's weights are slices of the dense ones, repaired (:mod:`prune_gym.measuring.repair`) and installed on a
private copy of the network. The small network really runs small, and nothing is rebuilt. The physically pruned network
gives the same outputs (tested).
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from hessian.channels.slicing import Cut, NetworkSlicer, installed
from hessian.hobs import HOBSSensitivityAnalyzer
from hessian.support.layout import layout_for
from prune_gym.cost.limits import FloatArray
from prune_gym.data.splits import equal_parts
from prune_gym.measuring.evaluation import Evaluation, Metric
from prune_gym.measuring.folding import FoldedNetwork
from prune_gym.measuring.grading import GraderOfParts, evaluation_of, make_grader
from prune_gym.measuring.repair import make_repair
from prune_gym.measuring.stacked.side_by_side import SideBySide
from prune_gym.support.device import module_device

if TYPE_CHECKING:
    from prune_gym.tasks.task import PruningTask

CPU_BATCH_SIZE = 128
"""Images a forward pass on a CPU: few enough for a layer's maps to stay in its cache."""

BATCH_SIZE = 512
"""Images a forward pass elsewhere."""

RACE_BLOCK = 128
"""Images between two looks at whether a plan can still reach its rival."""

_ROUNDING = 1e-9


class Evaluator:
    """Measures plans of one task; every distinct plan is measured once and remembered.

    Args:
        task: data and dense network; its model gives the device.
        hobs: a finished analysis of the task's model.
        repair: how surviving weights are repaired, a name in :data:`prune_gym.measuring.repair.REPAIRS`.
        together: whether :meth:`evaluate_many` runs several plans in one pass where it can
            (:mod:`prune_gym.measuring.stacked`); scores then differ from those of a plan alone by rounding. None: on
            accelerators. On a CPU it takes twice as long.

    Attributes:
        archive: kept vector -> :class:`Evaluation`, every distinct plan measured, in order.
        batch_size: images a forward pass.
        seconds: kept vector -> wall time its measuring took (s), of the plans :meth:`evaluate` measured here.

    Raises:
        ValueError: unknown repair.
    """

    def __init__(
        self,
        task: PruningTask,
        hobs: HOBSSensitivityAnalyzer,
        repair: str = "sequential",
        *,
        together: bool | None = None,
    ) -> None:
        self.task = task
        self.hobs = hobs
        self.archive: dict[tuple[int, ...], Evaluation] = {}
        self.seconds: dict[tuple[int, ...], float] = {}
        self.device = module_device(task.model)
        self.batch_size = CPU_BATCH_SIZE if self.device.type == "cpu" else BATCH_SIZE
        self.together = self.device.type != "cpu" if together is None else together
        self._repair = make_repair(repair, task, hobs)
        self._slicer = NetworkSlicer(task.model, hobs.groups)
        self._folded = FoldedNetwork(task.model, task.example_input)
        self._layout = layout_for(task.model, task.example_input.to(self.device))
        self._reward = task.reward.to(self.device)
        self._grade = make_grader(task, self.batch_size, self._reward)

    @property
    def num_measured(self) -> int:
        """Distinct plans measured so far."""
        return len(self.archive)

    def evaluate(self, kept: Sequence[int]) -> Evaluation:
        """Score a plan on the reward split: repair and one forward pass. Revisits are free.

        Args:
            kept: kept units a layer, each in [1, num_units].
        """
        key = tuple(int(count) for count in kept)
        if key not in self.archive:
            started = time.perf_counter()
            self.archive[key] = self._measure(key)
            self.seconds[key] = time.perf_counter() - started
        return self.archive[key]

    def evaluate_many(self, candidates: Sequence[Sequence[int]]) -> list[Evaluation]:
        """Score several plans, in order; those not known yet together, where :attr:`one_by_one` names no reason."""
        keys = [tuple(int(count) for count in kept) for kept in candidates]
        missing = [key for key in dict.fromkeys(keys) if key not in self.archive]
        if len(missing) > 1 and self.one_by_one is None:
            parts = equal_parts(torch.arange(len(missing)), self._plans_at_once)
            for part in (part.tolist() for part in parts if len(part) > 1):
                self._measure_together([missing[index] for index in part])
        return [self.evaluate(key) for key in keys]

    @property
    def one_by_one(self) -> str | None:
        """Reason for which :meth:`evaluate_many` measures plans one by one; None where it measures them together."""
        return "not asked for: together is False, as it is on a CPU" if not self.together else self._obstacle

    @cached_property
    def _obstacle(self) -> str | None:
        if not isinstance(self._grade, GraderOfParts):
            return "the task's metric runs the network itself"
        if self._plans_at_once < 2:
            return "two plans need more memory than prune_gym.measuring.stacked.side_by_side.STACK_BYTES"
        return self._side_by_side.problem

    @cached_property
    def _side_by_side(self) -> SideBySide:
        units = [group.num_units for group in self.hobs.groups]
        return SideBySide(self._folded, self._cut, self._repair, units, self._reward.images)

    @cached_property
    def _plans_at_once(self) -> int:
        return self._side_by_side.plans_at_once(min(self.batch_size, len(self._reward)))

    @torch.no_grad()
    def _measure_together(self, keys: Sequence[tuple[int, ...]]) -> None:
        """Repair and run distinct plans together, and put their scores into the archive."""
        started, grade, notes = time.perf_counter(), self._grade, list[Tensor]()
        assert isinstance(grade, GraderOfParts)
        with self._side_by_side.installed(keys) as run:
            for index, part in enumerate(grade.parts):
                notes.append(torch.func.vmap(lambda outputs, index=index: grade.noted(index, outputs))(run(part)))
        scores = torch.func.vmap(lambda *of_one: grade.scores(of_one))(*notes).tolist()
        seconds = (time.perf_counter() - started) / len(keys)
        for key, row in zip(keys, scores, strict=True):
            self.archive[key], self.seconds[key] = Evaluation(*row), seconds

    @torch.no_grad()
    def race(self, kept: Sequence[int], rival: float, metric: Metric = "soft_accuracy") -> Evaluation | None:
        """Score a plan, but stop as soon as it is certain to stay below a rival.

        It is certain when even full marks on all images not seen yet would not reach the rival; no plan that does reach
        it is ever stopped. A stopped plan has no score and enters no archive: evaluating it later measures it whole.

        Args:
            kept: kept units a layer.
            rival: what the plan has to reach, in the metric.
            metric: ``"soft_accuracy"`` or ``"accuracy"``.

        Returns:
            What :meth:`evaluate` returns, or None where the plan was stopped.
        """
        key = tuple(int(count) for count in kept)
        if key in self.archive or self.task.metric is not None:  # half a split says nothing about other metrics
            return self.evaluate(key)
        outputs: list[Tensor] = []
        seen, total, images = 0, 0.0, len(self._reward)
        with self.candidate(key) as model:
            for part, labels in self._reward.batches(RACE_BLOCK):
                outputs.append(model(part))
                seen += len(part)
                total += getattr(evaluation_of(outputs[-1], labels), metric) * len(part)
                if (total + images - seen) / images < rival - _ROUNDING:
                    return None
        self.archive[key] = evaluation_of(torch.cat(outputs), self._reward.labels)
        return self.archive[key]

    @torch.no_grad()
    def logits(self, kept: Sequence[int], images: Tensor) -> Tensor:
        """Outputs of the pruned and repaired network, [N, classes]."""
        # Parts of one size: every size of a batch has kernels of its own, made at a plan's first pass.
        parts = equal_parts(images.to(self.device), self.batch_size)
        with self.candidate(kept) as model:
            return torch.cat([model(part) for part in parts])

    def export(self, kept: Sequence[int]) -> nn.Module:
        """The same network physically small, in evaluation mode."""
        from prune_gym.surgery.pruner import PhysicalPruner

        plan = self.hobs.plan(kept)
        small = PhysicalPruner(self.task.model, self.task.example_input, ignored_layers=self.task.ignored_layers).prune(
            plan
        )
        small.load_state_dict(self._repair.state(self._slicer.cut(plan)))
        return small.eval()

    @contextmanager
    def candidate(self, kept: Sequence[int]) -> Iterator[nn.Module]:
        """The pruned and repaired network, ready to run: batch norms folded, laid out as the device likes it.

        It is a loan: the next plan is installed on the same network.

        Args:
            kept: kept units a layer.
        """
        cut = self._cut(kept)
        state = self._folded.fold(self._repair.state(cut))
        state = {name: self._layout(tensor) for name, tensor in state.items()}
        with installed(self._folded.model, state, self._folded.attributes(cut.attributes)):
            yield self._folded.model

    def _cut(self, kept: Sequence[int]) -> Cut:
        return self._slicer.cut(self.hobs.plan(kept))

    @property
    def layer_errors(self) -> FloatArray | None:
        """Of the plan repaired last, float64 [L]: the error that the repair left behind every layer.

        The share of the variance missed in the outputs of the modules that read the layer, averaged over them; 0 where
        the repair had nothing to do. None where the repair reports none.
        """
        errors = getattr(self._repair, "errors", None)
        if errors is None:
            return None
        readers = [{member.module for member in group.consumers} for group in self.hobs.groups]
        return np.array([np.mean([errors.get(name, 0.0) for name in sorted(names)]) for names in readers])

    @torch.no_grad()
    def _measure(self, kept: tuple[int, ...]) -> Evaluation:
        with self.candidate(kept) as model:
            return self._grade(model)
