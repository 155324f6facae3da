"""Seconds, throughput and peak memory on one device, each beside the limit it is asked to keep.

Weights are random and images are noise: time does not depend on them. Everything runs once, on a small piece, before it
is timed.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import nn

from benchmarks.metrics.comparison import compare_networks
from benchmarks.metrics.memory import peak_of
from benchmarks.metrics.system_metrics import SystemMetrics
from benchmarks.studies.speed.prune import uniform_plan
from benchmarks.studies.speed.random_networks import enliven, random_images, random_network
from benchmarks.studies.speed.rows import seconds_of
from hessian.hobs import HOBSSensitivityAnalyzer
from hessian.support.layout import in_float64
from prune_gym.data.splits import TensorSplit, equal_parts
from prune_gym.measuring.evaluator import Evaluator
from prune_gym.reconstruction import Reconstruction, reconstruct
from prune_gym.reconstruction.settings import Setting
from prune_gym.support.timing import time_callable
from prune_gym.surgery.pruner import PhysicalPruner
from prune_gym.tasks.models import resnet20
from prune_gym.tasks.task import PruningTask

SMALL_PLANS, SMALL_IMAGES, SMALL_PIXELS = 16, 1000, 32
"""Plans measured together, images and pixels a side of the small network: ResNet-20, as on CIFAR-10."""


@dataclass(frozen=True)
class Sizes:
    """Sizes of what is measured.

    Attributes:
        network: torchvision network.
        image_size: pixels a side.
        analysis_images: images of the analysis.
        reward_images: images a plan is measured on.
        steps: of the reconstruction.
        batch_size: of the analysis and of the throughput.
        reduction: FLOPs that leave, in (0, 1).
        repeats: timed plans, and timed passes of each network.
    """

    network: str = "resnet50"
    image_size: int = 224
    analysis_images: int = 1024
    reward_images: int = 5000
    steps: int = 1000
    batch_size: int = 64
    reduction: float = 0.76
    repeats: int = 10


@dataclass(frozen=True)
class Measured:
    """One number.

    Attributes:
        name: what was measured.
        value: in the unit.
        unit: its unit.
        limit: what is asked for; at most, or at least where the unit is ``"x dense"``. None asks for nothing.
        peak_bytes: most memory in use meanwhile; None where the device does not say, or nothing was run for it.
    """

    name: str
    value: float
    unit: str
    limit: float | None = None
    peak_bytes: int | None = None

    @property
    def kept(self) -> bool | None:
        """True where the limit is kept; None without one."""
        if self.limit is None:
            return None
        return self.value >= self.limit if self.unit == "x dense" else self.value <= self.limit


def measure(device: torch.device, sizes: Sizes) -> Iterator[Measured]:
    """Measure number after number.

    Args:
        device: where everything runs.
        sizes: of everything.

    Raises:
        ValueError: the network does not run at the batch size.
    """
    dense = random_network(sizes.network).to(device)
    task = _task(dense, sizes)
    hobs = HOBSSensitivityAnalyzer(dense, example_input=task.example_input)
    shown = task.calibration
    batches = list(zip(shown.images.split(sizes.batch_size), shown.labels.split(sizes.batch_size), strict=True))
    hobs.measure_curvature(batches[:1])
    yield _timed(
        f"analysis_{sizes.analysis_images}_images",
        lambda: hobs.compute_sensitivity(batches, num_batches=None),
        20.0,
        device,
    )
    pruner = PhysicalPruner(dense, task.example_input)
    plan = uniform_plan(pruner, sizes.reduction)
    yield from _plans(task, hobs, sizes, device)
    yield from _plans_of_a_small_network(sizes, device)
    yield _reconstruction(pruner.prune(plan), dense, shown, sizes, device)
    shape = (3, sizes.image_size, sizes.image_size)
    networks = {"dense": dense, "pruned": pruner.prune(plan)}
    (row,) = compare_networks(networks, shape, (sizes.batch_size,), num_iterations=sizes.repeats, faster_format=True)
    if row.problem is not None:
        raise ValueError(row.problem)
    peaks = {name: SystemMetrics.peak_memory(network, (sizes.batch_size, *shape)) for name, network in networks.items()}
    pruned, whole = (None if peak is None else peak[0] for peak in (peaks["pruned"], peaks["dense"]))
    yield Measured(f"throughput_at_{sizes.batch_size}", row.speedup("pruned", "dense"), "x dense", 3.1, pruned)
    yield Measured("dense_throughput", row.throughput("dense"), "images/s", peak_bytes=whole)


def _task(dense: nn.Module, sizes: Sizes) -> PruningTask:
    count = max(sizes.analysis_images, sizes.reward_images)
    images, labels = random_images(count, sizes.image_size, classes=2)
    split = TensorSplit(images, labels)
    return PruningTask(
        name=sizes.network,
        model=dense,
        example_input=images[:1].to(next(dense.parameters()).device),
        calibration=split.subset(slice(sizes.analysis_images)),
        reward=split.subset(slice(sizes.reward_images)),
        test=None,
        train=None,
    )


def _plans(task: PruningTask, hobs: HOBSSensitivityAnalyzer, sizes: Sizes, device: torch.device) -> Iterator[Measured]:
    """Distinct plans around the reduction, refitted in closed form and scored; then the last one's forward passes."""
    evaluator = Evaluator(task, hobs, "closed_form")
    share = (1 - sizes.reduction) ** 0.5
    plans = [
        [max(1, round(group.num_units * share) - shift) for group in hobs.groups] for shift in range(sizes.repeats + 1)
    ]
    evaluator.evaluate(plans[0])
    peak = peak_of(lambda: evaluator.evaluate(plans[1]), device)
    seconds = sorted(evaluator.seconds[tuple(plan)] for plan in plans[1:] if evaluator.evaluate(plan))
    middle = seconds[len(seconds) // 2]
    peak_bytes = None if peak is None else peak[0]
    yield Measured(f"plan_on_{sizes.reward_images}_images", middle, "s", 2.0, peak_bytes)
    network = evaluator.export(plans[-1])
    parts = equal_parts(task.reward.images.to(device), evaluator.batch_size)

    @torch.no_grad()
    def forward() -> float:
        return float(in_float64(torch.cat([network(part) for part in parts])).sum())

    timing = time_callable(forward, device=device, num_iterations=max(1, sizes.repeats // 2), num_warmup=1)
    yield Measured("plan_over_its_forward_pass", middle / (timing.p50_ms / 1e3), "x forward", 1.3)


def _plans_of_a_small_network(sizes: Sizes, device: torch.device) -> Iterator[Measured]:
    """Plans of ResNet-20, which leave a device idle, measured together and one by one; refitted in closed form."""
    small = dataclasses.replace(
        sizes, network="resnet20", image_size=SMALL_PIXELS, reward_images=min(sizes.reward_images, SMALL_IMAGES)
    )
    task = _task(enliven(resnet20(2, in_channels=3)).to(device), small)
    hobs = HOBSSensitivityAnalyzer(task.model, example_input=task.example_input)
    hobs.compute_sensitivity(task.calibration.batches(sizes.batch_size))
    alone, together = (Evaluator(task, hobs, "closed_form", together=each) for each in (False, True))
    plans = [[max(1, group.num_units // 2 + shift) for group in hobs.groups] for shift in range(-4, SMALL_PLANS - 2)]
    seconds = []
    for evaluator in (together, alone):
        evaluator.evaluate_many(plans[:2])
        hobs.compensator.forget()
        seconds.append(seconds_of(partial(evaluator.evaluate_many, plans[2:])) / SMALL_PLANS)
    yield Measured(f"plan_of_resnet20_one_of_{SMALL_PLANS}", seconds[0], "s")
    yield Measured("plans_together", seconds[1] / seconds[0], "x one by one")


def _reconstruction(
    small: nn.Module, dense: nn.Module, shown: TensorSplit, sizes: Sizes, device: torch.device
) -> Measured:
    one = Setting(1e-3, batch_statistics=False)
    reconstruct(copy.deepcopy(small), dense, shown, Reconstruction(steps=2, candidates=(one,)))
    settings = Reconstruction(steps=sizes.steps, candidates=(one,))
    return _timed(
        f"reconstruction_{sizes.steps}_steps", lambda: reconstruct(small, dense, shown, settings), 60.0, device
    )


def _timed(name: str, run: Callable[[], object], limit: float, device: torch.device) -> Measured:
    seconds: list[float] = []
    peak = peak_of(lambda: seconds.append(seconds_of(run)), device)
    return Measured(name, seconds[0], "s", limit, None if peak is None else peak[0])
