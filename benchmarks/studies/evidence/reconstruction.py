"""Worth and cost of a reconstruction without labels.

``python -m benchmarks.studies.evidence.reconstruction`` cuts the packaged Fashion-MNIST networks by knapsack plans,
repairs them by least squares (plain, and minding ReLUs) and reconstructs them on 5,000 images of dense-train; seeds
draw the images, the held-out part and the order. ``--networks`` does the same, once each, to six small networks trained
on digits here, at two ratios: is the reconstructed network ever worse than the refit? Accuracy is on the test split,
seconds are those of the processor (one thread), from the cut to the reconstructed network. Every cell is a row of
``--json``, written as it is done; the same command goes on with the next.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor, nn
from torch.nn.functional import kl_div, log_softmax

from benchmarks.common.arguments import check_distinct, writable
from benchmarks.common.columns import Columns, Spread, Value, percent_column
from benchmarks.common.command import reports_errors
from benchmarks.common.provenance import describe_machine, write_result
from benchmarks.common.signed import read_signed
from benchmarks.common.table import Table
from benchmarks.visualization.seeds import plot_accuracy_flops
from hessian.refit.sequential import SequentialRefitter
from prune_gym.data.splits import TensorSplit, load_digits_splits
from prune_gym.problem.problem import PruningProblem
from prune_gym.reconstruction import Reconstruction, reconstruct
from prune_gym.surgery.pruner import PhysicalPruner
from prune_gym.tasks.models import build_model
from prune_gym.training.training import train_dense

RESULTS = Path("results")
CUTS = (
    *(("fashion-resnet20", target) for target in (0.76, 0.84, 0.91)),
    *(("fashion-vgg11", target) for target in (0.76, 0.94)),
)
"""Tasks and FLOPs reductions."""

IMAGES = 5000
RATIOS = (0.5, 0.75)
"""Channels removed from every layer of the small networks."""

Cell = dict[str, Any]


class Depthwise(nn.Module):
    """Separable convolutions with ReLU6, as in MobileNet."""

    def __init__(self) -> None:
        super().__init__()
        widths = (16, 24, 32, 48)
        self.stem = _block(nn.Conv2d(1, 16, 3, stride=2, padding=1, bias=False), nn.ReLU6())
        self.blocks = nn.Sequential(
            *(
                nn.Sequential(
                    _block(nn.Conv2d(a, a, 3, padding=1, groups=a, bias=False), nn.ReLU6()),
                    _block(nn.Conv2d(a, b, 1, bias=False), nn.ReLU6()),
                )
                for a, b in itertools.pairwise(widths)
            )
        )
        self.head = nn.Linear(48, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Logits [N, 10]."""
        return self.head(self.blocks(self.stem(x)).mean(dim=(2, 3)))


class DenselyConnected(nn.Module):
    """Every layer reads all before it, as in DenseNet."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = _block(nn.Conv2d(1, 16, 3, stride=2, padding=1, bias=False), nn.ReLU())
        self.layers = nn.ModuleList(
            _block(nn.Conv2d(16 + 12 * index, 12, 3, padding=1, bias=False), nn.ReLU()) for index in range(3)
        )
        self.head = nn.Linear(52, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Logits [N, 10]."""
        maps = [self.stem(x)]
        for layer in self.layers:
            maps.append(layer(torch.cat(maps, dim=1)))
        return self.head(torch.cat(maps, dim=1).mean(dim=(2, 3)))


def _block(layer: nn.Conv2d, activation: nn.Module) -> nn.Sequential:
    return nn.Sequential(layer, nn.BatchNorm2d(layer.out_channels), activation)


def _plain(norm: bool) -> nn.Module:
    layers: list[nn.Module] = []
    for inputs, outputs, stride in ((1, 16, 2), (16, 24, 1), (24, 32, 2)):
        layer = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=not norm)
        layers.append(_block(layer, nn.ReLU()) if norm else nn.Sequential(layer, nn.ReLU()))
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10))


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "plain": lambda: _plain(norm=True),
    "plain without batch norms": lambda: _plain(norm=False),
    "residual": lambda: build_model("resnet20", widths=(8, 12, 16)),
    "VGG-11": lambda: build_model("vgg11", widths=(8, 16, 24, 24, 32, 32, 32, 32)),
    "depthwise": Depthwise,
    "densely connected": DenselyConnected,
}
"""Small networks for digits at 16x16."""


@dataclass(frozen=True)
class Subject:
    """A dense network, a plan, and the images it is repaired with and tested on."""

    dense: nn.Module
    pruner: PhysicalPruner
    plan: dict[str, list[int]]
    calibration: TensorSplit
    train: TensorSplit
    test: TensorSplit


def fashion_subject(task_name: str, target: float) -> Subject:
    """The packaged network of a task under the knapsack's plan at a FLOPs reduction."""
    problem = PruningProblem(task_name, device="cpu").load()
    task = problem.task
    assert isinstance(task.train, TensorSplit)
    assert isinstance(task.test, TensorSplit)
    plan = problem.hobs.plan(problem.start_plan("knapsack", target).tolist())
    pruner = PhysicalPruner(task.model, task.example_input, ignored_layers=task.ignored_layers)
    return Subject(task.model, pruner, plan, task.calibration, task.train, task.test)


def small_subject(name: str, ratio: float) -> Subject:
    """A small network trained on digits here, the smallest filters of every layer removed."""
    splits = load_digits_splits()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        dense = NETWORKS[name]()
    lr = 0.05 if name == "plain without batch norms" else 0.1
    train_dense(dense, splits.train, epochs=15, lr=lr, batch_size=32, seed=0)
    pruner = PhysicalPruner(dense.eval(), splits.train.images[:1])
    plan = {}
    for group in pruner.groups:
        weight = dense.get_parameter(f"{group.producers[0].module}.weight").detach()
        order = weight.flatten(1).norm(dim=1)[: group.size].argsort().tolist()
        plan[group.name] = sorted(order[: int(ratio * group.size)])
    return Subject(dense, pruner, plan, splits.calibration, splits.train, splits.test)


@dataclass(frozen=True)
class Refitted:
    """Results that do not depend on a seed: the repaired networks of a subject, and what they score.

    Attributes:
        network: after the refit that minds ReLUs.
        seconds: processor time of the cut and that refit.
        logits: of the dense network on the test images.
        accuracy: network -> fraction of the test images.
        divergence: network -> from the dense network, nats.
    """

    network: nn.Module
    seconds: float
    logits: Tensor
    accuracy: dict[str, float]
    divergence: dict[str, float]


def refitted(subject: Subject) -> Refitted:
    """Repair a subject by least squares, with and without minding ReLUs, and test both."""
    plain = subject.pruner.prune(subject.plan)
    batches = subject.calibration.batches(100)
    refitter = SequentialRefitter(subject.dense, subject.pruner.groups, batches, relu_aware=False, store_bytes=0)
    plain.load_state_dict(refitter.state(subject.plan))
    started = time.process_time()
    network = subject.pruner.prune(subject.plan, refit="sequential", calibration=subject.calibration)
    seconds = time.process_time() - started
    dense = logits_of(subject.dense, subject.test.images)
    found = {name: logits_of(one, subject.test.images) for name, one in (("plain_refit", plain), ("refit", network))}
    accuracy = {name: accuracy_of(logits, subject.test.labels) for name, logits in {"dense": dense, **found}.items()}
    return Refitted(network, seconds, dense, accuracy, {name: divergence(dense, one) for name, one in found.items()})


def measure(subject: Subject, start: Refitted, seed: int, settings: Reconstruction) -> Cell:
    """Reconstruct a refitted network, and test it.

    Args:
        subject: what is cut.
        start: its refit.
        seed: of the images drawn, the held-out part and the order.
        settings: of the reconstruction.
    """
    images = torch.randperm(len(subject.train), generator=torch.Generator().manual_seed(seed))[:IMAGES]
    network = copy.deepcopy(start.network)
    started = time.process_time()
    found = reconstruct(network, subject.dense, subject.train.images[images], settings, seed=seed)
    seconds = start.seconds + time.process_time() - started
    logits = logits_of(network, subject.test.images)
    return {
        "seed": seed,
        "accuracy": {**start.accuracy, "reconstructed": accuracy_of(logits, subject.test.labels)},
        "divergence": {**start.divergence, "reconstructed": divergence(start.logits, logits)},
        "held_out": {"before": found.before, "after": found.after},
        "chosen": "as refitted" if found.chosen is None else str(found.chosen.setting),
        "steps": sum(trial.steps for trial in found.trials),
        "seconds": {"refit": start.seconds, "reconstructed": seconds},
    }


@torch.no_grad()
def logits_of(model: nn.Module, images: Tensor) -> Tensor:
    """Outputs of a network in evaluation mode, [N, classes]."""
    model.eval()
    return torch.cat([model(part) for part in images.split(500)])


def accuracy_of(logits: Tensor, labels: Tensor) -> float:
    """Fraction of the images whose label has the largest logit."""
    return float((logits.argmax(dim=1) == labels).double().mean())


def divergence(dense: Tensor, pruned: Tensor) -> float:
    """Mean KL divergence of class probabilities from the dense ones, nats, of logits [N, classes]."""
    target, given = (log_softmax(logits.double(), dim=1) for logits in (dense, pruned))
    return float(kl_div(given, target, reduction="batchmean", log_target=True))


def table(cells: Sequence[Cell]) -> Table:
    """Test accuracy of every cut, mean and deviation over seeds, and the processor seconds of its quietest run."""
    groups: dict[tuple[str, float], list[Cell]] = {}
    for cell in cells:
        groups.setdefault((cell["network"], cell["removed"]), []).append(cell)
    columns: Columns = (
        *("network", percent_column("removed", 0, unit=" %"), "seeds"),
        *(percent_column(name) for name in ("dense", "plain refit", "refit", "reconstructed")),
        "seconds",
    )
    rows: list[list[Value]] = []
    for (network, removed), members in groups.items():
        accuracies = {
            name: [cell["accuracy"][name] for cell in members]
            for name in ("dense", "plain_refit", "refit", "reconstructed")
        }
        rows.append(
            [
                *(network, removed, len(members)),
                *(accuracies[name][0] for name in ("dense", "plain_refit", "refit")),
                Spread.of(accuracies["reconstructed"]),
                round(min(cell["seconds"]["reconstructed"] for cell in members)),
            ]
        )
    return Table(
        "", columns, rows, "test accuracy, %; seconds of one processor core in the quietest run, from the cut on"
    )


def draw(cells: Sequence[Cell], path: Path, network: str = "fashion-resnet20") -> None:
    """Draw the test accuracy of a network by FLOPs reduction, a line a stage."""
    stages = {"refit, ReLUs ignored": "plain_refit", "refit": "refit", "reconstructed, no labels": "reconstructed"}
    chosen = [cell for cell in cells if cell["network"] == network]
    fronts: dict[str, dict[float, list[float]]] = {name: {} for name in stages}
    for cell in chosen:
        for name, stage in stages.items():
            fronts[name].setdefault(cell["removed"], []).append(cell["accuracy"][stage])
    dense = chosen[0]["accuracy"]["dense"]
    plot_accuracy_flops(fronts, path, dense_accuracy=dense, title=f"{network}: before and after reconstruction")


@reports_errors(OSError, ValueError, interrupted="interrupted: the same command goes on with the next cell")
def main(argv: Sequence[str] | None = None) -> int:
    """Run what is left of the study and print its table.

    Args:
        argv: arguments; absent means those of the process.
    """
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.studies.evidence.reconstruction", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4], metavar="N")
    parser.add_argument("--networks", action="store_true", help="small networks, one seed, instead of Fashion-MNIST")
    parser.add_argument("--json", type=writable, metavar="FILE", help="default: results/reconstruction[_networks].json")
    parser.add_argument("--plot", type=writable, metavar="FILE", help="draw the ResNet-20")
    options = parser.parse_args(argv)
    path = options.json or RESULTS / f"reconstruction{'_networks' * options.networks}.json"
    check_distinct("--seeds", options.seeds)
    torch.set_num_threads(1)
    console, settings = Console(), Reconstruction()
    cells: list[Cell] = []
    if path.is_file():
        cells = read_signed(path, "delete it to start again")["cells"]
    todo = (
        [(name, ratio, 0) for name in NETWORKS for ratio in RATIOS]
        if options.networks
        else [(task, target, seed) for seed in options.seeds for task, target in CUTS]
    )
    done = {(cell["network"], cell["removed"], cell["seed"]) for cell in cells}
    prepared: dict[tuple[str, float], tuple[Subject, Refitted]] = {}
    for name, removed, seed in todo:
        if (name, removed, seed) in done:
            continue
        if (name, removed) not in prepared:
            subject = (small_subject if options.networks else fashion_subject)(name, removed)
            prepared[name, removed] = subject, refitted(subject)
        cell = measure(*prepared[name, removed], seed, settings)
        cells.append({"network": name, "removed": removed, **cell})
        write_result(path, {"images": IMAGES, "machine": describe_machine(), "cells": cells})
        console.print(f"{name}, {100 * removed:g} %, seed {seed}: {cell['accuracy']}", highlight=False)
    console.print(table(cells))
    if options.plot is not None:
        draw(cells, options.plot)
    return 0


if __name__ == "__main__":
    sys.exit(main())
