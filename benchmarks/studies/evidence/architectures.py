"""Everything the project promises of a network, checked on one of random weights."""

from __future__ import annotations

import math
import time
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from benchmarks.common.columns import Column, Columns, Value, percent_column
from benchmarks.common.table import Table
from benchmarks.metrics.system_metrics import SystemMetrics
from hessian import HOBSSensitivityAnalyzer
from prune_gym.cost.model import CostModel
from prune_gym.data.splits import TensorSplit
from prune_gym.measuring.evaluator import Evaluator
from prune_gym.measuring.repair import REPAIRS
from prune_gym.tasks.task import PruningTask

TOLERANCE = 1e-4
"""Largest difference of logits, relative to the largest logit."""


@dataclass(frozen=True)
class Coverage:
    """Findings on one network.

    Attributes:
        layers: prunable layers.
        units: their units, all together.
        flops_reduction: of removing half the units of every layer, a fraction.
        uncounted_flops: cost model minus ``torch.utils.flop_counter`` on the pruned network.
        logit_error: by repair, largest difference between the evaluator's and the pruned network's logits, relative to
            the largest logit.
        untrained: parameters of the pruned network that get no finite gradient although the dense ones do.
        analysis_seconds: time of the curvature and the sweeps.
    """

    layers: int
    units: int
    flops_reduction: float
    uncounted_flops: int
    logit_error: dict[str, float]
    untrained: tuple[str, ...]
    analysis_seconds: float

    @property
    def passed(self) -> bool:
        """True where the evaluator, surgery and the cost model agree and the pruned network can be trained."""
        # All of them, not the largest: NaN is larger than nothing.
        agree = all(error <= TOLERANCE for error in self.logit_error.values())
        return agree and not self.uncounted_flops and not self.untrained


def check_network(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    analyzer: type[HOBSSensitivityAnalyzer] = HOBSSensitivityAnalyzer,
) -> Coverage:
    """Remove half the units of every layer of a network, and compare all ways of looking at the result.

    Args:
        model: a classifier in evaluation mode.
        images: [N, ...], a few.
        labels: [N].
        analyzer: class of the analysis.
    """
    split = TensorSplit(images, labels)
    task = PruningTask("coverage", model, images[:1], calibration=split, reward=split, test=None)
    hobs = analyzer(model, example_input=images[:1])
    started = time.perf_counter()
    hobs.compute_sensitivity(split.batches(8), num_batches=None)
    seconds = time.perf_counter() - started
    kept = [max(1, group.num_units // 2) for group in hobs.groups]
    cost = CostModel(hobs.groups, model, images[:1])
    errors = {}
    for repair in REPAIRS:
        evaluator = Evaluator(task, hobs, repair)
        small = evaluator.export(kept)
        with torch.no_grad():
            physical = small(images)
        errors[repair] = float((evaluator.logits(kept, images) - physical).abs().max() / physical.abs().max())
    counted = SystemMetrics.count_flops(small, (1, *images.shape[1:]))
    return Coverage(
        layers=len(hobs.groups),
        units=sum(group.num_units for group in hobs.groups),
        flops_reduction=float(cost.reduction(torch.tensor(kept).numpy())),
        uncounted_flops=int(cost.flops(torch.tensor(kept).numpy())) - counted,
        logit_error=errors,
        untrained=tuple(sorted(_trained(model, images, labels) - _trained(small, images, labels))),
        analysis_seconds=seconds,
    )


def _trained(model: nn.Module, images: Tensor, labels: Tensor) -> set[str]:
    """Parameters that get a finite gradient in a forward and backward pass."""
    parameters = dict(model.requires_grad_(True).named_parameters())
    loss = cross_entropy(model(images), labels)
    gradients = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
    return {
        name
        for name, gradient in zip(parameters, gradients, strict=True)
        if gradient is not None and torch.isfinite(gradient).all()
    }


def coverage_table(found: dict[str, Coverage]) -> Table:
    """Return the findings as a table, a row a network."""
    errors = (Column(f"error, {repair}", ".1e") for repair in REPAIRS)
    numbers = (percent_column("FLOPs removed", 1, unit=" %"), *errors, Column("analysis", ".1f", unit=" s"))
    columns: Columns = ("network", "layers", "units", *numbers, Column("", styles={"FAILED": "red"}))
    rows: list[list[Value]] = [
        [
            *(name, coverage.layers, coverage.units, coverage.flops_reduction),
            *(coverage.logit_error[repair] for repair in REPAIRS),
            coverage.analysis_seconds,
            ("passed" if coverage.passed else "FAILED") + (", FLOPs miscounted" if coverage.uncounted_flops else ""),
        ]
        for name, coverage in found.items()
    ]
    return Table("half the units of every layer removed", columns, rows)


def rows_of(found: dict[str, Coverage]) -> list[dict[str, Any]]:
    """Return the findings as JSON can hold them."""
    rows = []
    for name, coverage in found.items():
        errors = {repair: error if math.isfinite(error) else None for repair, error in coverage.logit_error.items()}
        rows.append({"network": name, "passed": coverage.passed, **asdict(coverage), "logit_error": errors})
    return rows
