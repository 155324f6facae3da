"""Does pruning work on this architecture? Everything the project promises of a network, checked on torchvision's.

``python -m benchmarks.studies.evidence.coverage`` analyses every network of :data:`NETWORKS` (random weights, lively
BatchNorm statistics), removes half the units of every layer, and compares the candidate that the evaluator scores with
the network that surgery makes, under both repairs. It prints a table and writes ``benchmarks/results/coverage.json``.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from benchmarks.common.arguments import positive, writable
from benchmarks.common.columns import Column, Columns, Value, percent_column
from benchmarks.common.command import reports_errors
from benchmarks.common.provenance import write_result
from benchmarks.common.table import Table
from benchmarks.metrics.system_metrics import SystemMetrics
from benchmarks.studies.speed.random_networks import random_images, random_network
from hessian import HOBSSensitivityAnalyzer
from prune_gym.cost.model import CostModel
from prune_gym.data.splits import TensorSplit
from prune_gym.measuring.evaluator import Evaluator
from prune_gym.measuring.repair import REPAIRS
from prune_gym.support.device import resolve_device
from prune_gym.tasks.task import PruningTask

NETWORKS = (
    "resnet18",
    "resnet50",
    "resnext50_32x4d",
    "wide_resnet50_2",
    "vgg16_bn",
    "mobilenet_v2",
    "mobilenet_v3_small",
    "efficientnet_b0",
    "densenet121",
    "regnet_y_400mf",
    "convnext_tiny",
    "googlenet",
)
TOLERANCE = 1e-4
"""Largest difference of logits, relative to the largest logit."""
RESULTS = Path(__file__).parents[2] / "results" / "coverage.json"


@dataclass(frozen=True)
class Coverage:
    """What was found of one network.

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
        """Whether the evaluator, surgery and the cost model agree and the pruned network can be trained."""
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


@reports_errors(OSError, ValueError)
def main(argv: Sequence[str] | None = None) -> int:
    """Check networks and report; the exit code is 1 if one fails, 2 on bad input.

    Args:
        argv: arguments; absent means those of the process.
    """
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.studies.evidence.coverage", description=__doc__.splitlines()[0]
    )
    parser.add_argument("networks", nargs="*", metavar="NETWORK", help="torchvision names; all twelve by default")
    parser.add_argument("--images", type=positive, default=4, help="calibration images (default: %(default)s)")
    parser.add_argument("--image-size", type=positive, default=64, help="pixels a side (default: %(default)s)")
    parser.add_argument("--gpu", type=int, help="GPU index; the only GPU, else the CPU, by default")
    parser.add_argument(
        "--json",
        type=writable,
        help="where the numbers go (default: benchmarks/results/coverage.json for all twelve, nowhere for some)",
    )
    arguments = parser.parse_args(argv)
    names = arguments.networks or list(NETWORKS)
    unknown = [name for name in names if name not in NETWORKS]
    if unknown:
        parser.error(f"unknown network {unknown[0]!r}; choose among {', '.join(NETWORKS)}")
    path = arguments.json or (None if arguments.networks else RESULTS)
    device, console, found = resolve_device(arguments.gpu), Console(), {}
    for name in names:
        images, labels = random_images(arguments.images, arguments.image_size, classes=1000)
        found[name] = check_network(random_network(name).to(device), images.to(device), labels.to(device))
        console.print(f"{name}: {'passed' if found[name].passed else 'FAILED'}", highlight=False)
        content = {"images": arguments.images, "image_size": arguments.image_size, "networks": _rows(found)}
        if path is not None:
            write_result(path, content)
    console.print(coverage_table(found))
    return 0 if all(coverage.passed for coverage in found.values()) else 1


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


def _rows(found: dict[str, Coverage]) -> list[dict[str, Any]]:
    rows = []
    for name, coverage in found.items():
        errors = {repair: error if math.isfinite(error) else None for repair, error in coverage.logit_error.items()}
        rows.append({"network": name, "passed": coverage.passed, **asdict(coverage), "logit_error": errors})
    return rows


if __name__ == "__main__":
    sys.exit(main())
