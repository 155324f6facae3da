"""Accuracy of a candidate plan without rebuilding the model.

A candidate's weights are slices of the dense ones, refitted in closed form (:mod:`hessian.compensation`), run through
``torch.func.functional_call`` on a private copy of the network. The small network really runs small, and nothing is
rebuilt. Before scoring, BatchNorm statistics are recalibrated on the calibration split. The physically pruned network
gives the same outputs (tested).
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from hessian.hobs import HOBSSensitivityAnalyzer
from hessian.norms import BATCH_NORM
from prune_gym.datasets import equal_parts
from prune_gym.device import module_device

if TYPE_CHECKING:
    from prune_gym.tasks import PruningTask

BATCH_SIZE = 512
"""Images a forward pass; calibration splits of at most this many are recalibrated in one pass."""


@dataclass(frozen=True)
class Evaluation:
    """What a plan scores on the reward split.

    Attributes:
        accuracy: top-1, fraction in [0, 1].
        soft_accuracy: mean probability of the true class, in [0, 1].
        loss: mean cross-entropy (nats).
    """

    accuracy: float
    soft_accuracy: float
    loss: float


class Evaluator:
    """Measures plans of one task; every distinct plan is measured once and remembered.

    Args:
        task: data and dense network; its model gives the device.
        hobs: a finished analysis of the task's model.

    Attributes:
        archive: kept vector -> :class:`Evaluation`, every distinct plan measured, in order.
    """

    def __init__(self, task: PruningTask, hobs: HOBSSensitivityAnalyzer) -> None:
        self.task = task
        self.hobs = hobs
        self.archive: dict[tuple[int, ...], Evaluation] = {}
        self.device = module_device(task.model)
        self._model = copy.deepcopy(task.model).eval().requires_grad_(False)
        self._modules: dict[str, Any] = dict(self._model.named_modules())
        self._norms = {name: module for name, module in self._modules.items() if isinstance(module, BATCH_NORM)}
        self._calibration = task.calibration.images.to(self.device)
        self._images = task.reward.images.to(self.device)
        self._labels = task.reward.labels.to(self.device)

    @property
    def num_measured(self) -> int:
        """Distinct plans measured so far."""
        return len(self.archive)

    def evaluate(self, kept: Sequence[int]) -> Evaluation:
        """Score a plan on the reward split: refit, BatchNorm recalibration, one pass. Revisits are free.

        Args:
            kept: kept units a layer, each in [1, num_units].
        """
        key = tuple(int(count) for count in kept)
        if key not in self.archive:
            self.archive[key] = self._measure(key)
        return self.archive[key]

    def evaluate_many(self, candidates: Sequence[Sequence[int]]) -> list[Evaluation]:
        """Score several plans, in order."""
        return [self.evaluate(kept) for kept in candidates]

    def logits(self, kept: Sequence[int], images: Tensor) -> Tensor:
        """Outputs of the pruned, refitted and recalibrated network, [N, classes]."""
        plan = self.hobs.plan(kept)
        with self._attributes(plan):
            return self._forward(self.pruned_state(kept), images.to(self.device))

    def pruned_state(self, kept: Sequence[int]) -> dict[str, Tensor]:
        """State dict of the pruned, refitted and recalibrated network."""
        plan = self.hobs.plan(kept)
        state = self.hobs.compensate(plan)
        with self._attributes(plan):
            self._recalibrate(state)
        return state

    def export(self, kept: Sequence[int]) -> nn.Module:
        """The same network physically small, in evaluation mode."""
        from prune_gym.pruner import PhysicalPruner

        small = PhysicalPruner(self.task.model, self.task.example_input).prune(self.hobs.plan(kept))
        small.load_state_dict(self.pruned_state(kept))
        return small.eval()

    # ------------------------------------------------------------------ measuring

    def _measure(self, kept: tuple[int, ...]) -> Evaluation:
        plan = self.hobs.plan(kept)
        state = self.hobs.compensate(plan)
        with self._attributes(plan):
            self._recalibrate(state)
            outputs = self._forward(state, self._images)
        log_p = F.log_softmax(outputs.float(), dim=1)
        truth = log_p.gather(1, self._labels[:, None])[:, 0]
        return Evaluation(
            accuracy=float((outputs.argmax(dim=1) == self._labels).float().mean()),
            soft_accuracy=float(truth.exp().mean()),
            loss=float(-truth.mean()),
        )

    @torch.no_grad()
    def _forward(self, state: Mapping[str, Tensor], images: Tensor) -> Tensor:
        parts = [functional_call(self._model, dict(state), (part,)) for part in images.split(BATCH_SIZE)]
        return torch.cat(parts)

    @torch.no_grad()
    def _recalibrate(self, state: dict[str, Tensor]) -> None:
        """Replace the BatchNorm statistics of a state by those of the pruned network on the calibration split."""
        tracked = [name for name, module in self._norms.items() if module.track_running_stats]
        if not tracked:
            return
        for name in tracked:
            for statistic in ("running_mean", "running_var"):
                state[f"{name}.{statistic}"] = state[f"{name}.{statistic}"].clone()
            state[f"{name}.num_batches_tracked"] = torch.zeros_like(state[f"{name}.num_batches_tracked"])
        with self._batch_statistics(tracked):
            for part in equal_parts(torch.arange(len(self._calibration)), BATCH_SIZE):
                functional_call(self._model, state, (self._calibration[part],))

    @contextmanager
    def _batch_statistics(self, names: Sequence[str]) -> Iterator[None]:
        """Only the BatchNorms use and average batch statistics; everything else stays in evaluation mode."""
        momenta = {name: self._norms[name].momentum for name in names}
        try:
            for name in names:
                self._norms[name].train()
                self._norms[name].momentum = None
            yield
        finally:
            for name in names:
                self._norms[name].eval()
                self._norms[name].momentum = momenta[name]

    @contextmanager
    def _attributes(self, plan: Mapping[str, Sequence[int]]) -> Iterator[None]:
        """Give modules that check their sizes the pruned sizes, on the private copy."""
        changed = self.hobs.compensator.slicer.attributes(plan)
        original = {
            (name, attribute): getattr(self._modules[name], attribute)
            for name, attributes in changed.items()
            for attribute in attributes
        }
        try:
            for name, attributes in changed.items():
                for attribute, value in attributes.items():
                    setattr(self._modules[name], attribute, value)
            yield
        finally:
            for (name, attribute), value in original.items():
                setattr(self._modules[name], attribute, value)
