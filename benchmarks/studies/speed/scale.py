"""Growth of cost with layers and width: every part that a search goes through, and fitted exponents.

Networks have random weights and see noise, 8 x 8 pixels: what is timed is structure, algebra and bookkeeping, not
convolutions. Seconds are processor time where the CPU computes, so that a machine with other work tells the same; on
another device they are wall time. What is done in a moment and can be done again is timed three times, and the fewest
seconds count.

At some widths the analysis is made again from every second position of the maps along both axes, which an analysis does
only where it is told to (``position_stride``): what that saves, and what it does to prices and plans.

An exponent is the slope of log seconds over log layers (or width), fitted over sizes at which a part takes more than a
hundredth of a second.
"""

from __future__ import annotations

import argparse
import gc
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from agents.rspar.agent import RSPARAgent
from benchmarks.common.columns import Column
from benchmarks.common.table import Table
from benchmarks.metrics.memory import peak_rss_bytes
from benchmarks.studies.speed.random_networks import deep_network
from benchmarks.studies.speed.rows import SpeedRow
from hessian.audit.rank_correlation import spearman
from prune_gym.allocation.knapsack import knapsack
from prune_gym.cost.limits import FloatArray, IntArray
from prune_gym.data.splits import TensorSplit
from prune_gym.envs.fidelity import Archive
from prune_gym.envs.hobs_prune import HOBSPruneEnv
from prune_gym.measuring.curvature_cache import CurvatureSettings
from prune_gym.measuring.evaluator import Evaluation
from prune_gym.problem.problem import PruningProblem
from prune_gym.support.timing import synchronize
from prune_gym.tasks.task import PruningTask

Report = Callable[[str], None]

PARTS = ("discovery", "analysis", "knapsack", "projection", "reset", "step", "rspar", "first_plan")
"""Layers found; curvature and sweeps; the start plan; 4,096 plans moved to the target; the environment's first reset
after that (it measures the start plan); one measured step; R-SPAR's own time for eight plans, where measuring is free;
and all from nothing to the first plan."""

APPROXIMATION = {
    "analysis": "s",
    "coarse_analysis": "s",
    "analysis_memory": "MiB",
    "coarse_analysis_memory": "MiB",
    "unit_agreement": "Spearman",
    "plan_agreement": "Spearman",
}
"""Numbers of an analysis from every second position, beside the whole one's: time; peak memory of the process; rank
agreement of the prices of single units, averaged over layers, and of the losses predicted for random plans."""

STRIDE = 2
TARGET = 0.5
PLANS = 4096
EPISODES = 8
REPEATS = 3
MOMENT = 1.0
"""Seconds up to which a part is timed again."""
SHORTEST = 0.01
"""Seconds below which a part says nothing of its growth."""


def measure(options: argparse.Namespace, report: Report) -> Iterator[SpeedRow]:
    """Measure network after network, then fit.

    Args:
        options: those of :func:`benchmarks.studies.speed.options.scale`, and ``device``.
        report: told what is going on.
    """
    measure_network("plain", 3, 4, options)  # what is imported on the way is no part of the first network
    for kind in options.kinds:
        growth = _Growth()
        sizes = [(layers, options.width) for layers in options.layers]
        sizes += [(options.depth, width) for width in options.widths if (options.depth, width) not in sizes]
        for layers, width in sizes:
            report(f"measuring {kind}, {layers} layers of {width}")
            found = measure_network(kind, layers, width, options)
            growth.found[layers, width] = found
            for part, value in found.items():
                unit = "MiB" if part == "peak_memory" else APPROXIMATION.get(part, "s")
                yield SpeedRow(f"{kind}_{layers}x{width}_{part}", value, unit, "", None)
        yield from growth.rows(kind, options.width, options.depth)


def measure_network(kind: str, layers: int, width: int, options: argparse.Namespace) -> dict[str, float]:
    """Seconds of every part, and the peak memory of the process (MiB).

    Args:
        kind: of the network.
        layers: its prunable layers.
        width: channels of each.
        options: number of images, and the device.
    """
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(options.images, 3, 8, 8, generator=generator)
    split = TensorSplit(images, torch.arange(options.images) % 10)
    model = deep_network(kind, layers, width, images)
    task = PruningTask("scale", model, images[:1], split, split, None, default_target=TARGET).to(options.device)
    found: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as cache:
        found.update(_parts(task, Path(cache), options.device))
        if width in options.coarse and layers == options.depth:
            found.update(_approximation(task, Path(cache), options.device))
    gc.collect()
    return found


def _approximation(task: PruningTask, cache: Path, device: torch.device) -> dict[str, float]:
    """The coarse analysis's numbers, see :data:`APPROXIMATION`; the whole one is in the cache."""
    timed = _Timed(device)
    settings = CurvatureSettings(position_stride=STRIDE)
    coarse = PruningProblem(task, device=device, cache_dir=cache, curvature=settings)
    gc.collect()  # the whole analysis, which was made before, is no part of this one's memory
    peak = _peak_mib(lambda: timed("coarse_analysis", coarse.load))
    kept = coarse.cost.project(np.random.default_rng(1).uniform(0.2, 0.8, (PLANS, coarse.num_layers)), TARGET)
    whole = PruningProblem(task, device=device, cache_dir=cache).load()
    sides = [_judged(problem, kept) for problem in (coarse, whole)]
    pairs = [np.stack(both, axis=1) for both in zip(*sides, strict=True)]
    found = {"unit_agreement": float(np.mean([spearman(layer) for layer in pairs[1:]]))}
    return {**timed.seconds, **_known(coarse_analysis_memory=peak), **found, "plan_agreement": spearman(pairs[0])}


def _judged(problem: PruningProblem, kept: IntArray) -> list[FloatArray]:
    """Predicted losses of plans [N, L], and the prices of single units, layer by layer."""
    prices = problem.hobs.prices
    return [problem.predicted_loss(kept), *(prices[name].double().cpu().numpy() for name in problem.layer_names)]


def _parts(task: PruningTask, cache: Path, device: torch.device) -> dict[str, float]:
    """Seconds of every part, and the peaks of memory (MiB) of the analysis and of all."""
    timed, peaks = _Timed(device), dict[str, float]()
    problem = timed.again("discovery", lambda: PruningProblem(task, device=device, cache_dir=cache))
    peaks["analysis_memory"] = _peak_mib(lambda: timed("analysis", problem.load))
    rest = _peak_mib(lambda: _search(problem, timed))
    whole = sum(timed.seconds[part] for part in ("discovery", "analysis", "reset"))
    peaks["peak_memory"] = max(peaks["analysis_memory"], rest)
    return {**timed.seconds, "first_plan": whole, **_known(**peaks)}


def _known(**peaks: float) -> dict[str, float]:
    """Peaks that were measured, not those that the kernel would not tell."""
    return {name: peak for name, peak in peaks.items() if peak}


def _peak_mib(run: Callable[[], Any]) -> float:
    """Peak memory of the process during a call; 0 where the kernel will not tell."""
    return (peak_rss_bytes(run) or 0) / 2**20


def _search(problem: PruningProblem, timed: _Timed) -> None:
    """Everything after the analysis."""
    curves, limits = problem.curves, problem.cost.limits()
    timed.again("knapsack", lambda: knapsack(curves, problem.cost, TARGET, limits=limits))
    rng = np.random.default_rng(0)
    ratios = rng.uniform(0.2, 0.8, (PLANS, problem.num_layers))
    timed.again("projection", lambda: problem.cost.project(ratios, TARGET))
    env = HOBSPruneEnv(problem=problem, target_flops_reduction=TARGET, constraint="hard")
    timed("reset", lambda: env.reset(seed=0))
    action = rng.uniform(-0.3, 0.3, problem.num_layers).astype(np.float32)
    timed("step", lambda: env.step(action))
    free = HOBSPruneEnv(
        problem=problem, target_flops_reduction=TARGET, constraint="hard", fidelity=cast("str", _FreeFidelity())
    )
    agent = RSPARAgent(problem.num_layers, free.layout.feature_dim, device=problem.device)
    timed("rspar", lambda: agent.learn(free, EPISODES))


class _FreeFidelity:
    """Plans score what their predicted losses make of them, and count as measured: what is left is the agent's time."""

    name = "measured"

    def evaluate(self, problem: PruningProblem, archive: Archive, kept: IntArray) -> Evaluation:
        """The score of one plan [L]; adds it to the archive."""
        return archive.setdefault(tuple(kept.tolist()), Evaluation(*self.metrics(problem, kept).tolist()))

    def metrics(self, problem: PruningProblem, kept: IntArray) -> FloatArray:
        """Accuracy, soft accuracy and loss of plans: kept int [..., L] -> float64 [..., 3]."""
        loss = problem.predicted_loss(kept)
        return np.stack([np.exp(-loss), np.exp(-loss), loss], axis=-1)


@dataclass
class _Timed:
    """Seconds of named calls on a device."""

    device: torch.device
    seconds: dict[str, float] = field(default_factory=dict)

    def __call__(self, part: str, call: Callable[[], Any]) -> Any:
        clock = time.process_time if self.device.type == "cpu" else time.perf_counter
        synchronize(self.device)
        started = clock()
        result = call()
        synchronize(self.device)
        self.seconds[part] = clock() - started
        return result

    def again(self, part: str, call: Callable[[], Any]) -> Any:
        """Time a call that can be made again: the fewest seconds of several where it is a matter of a moment."""
        result = self(part, call)
        for _ in range(REPEATS - 1):
            fewest = self.seconds[part]
            if fewest < MOMENT:
                self(part, call)
                self.seconds[part] = min(fewest, self.seconds[part])
        return result


@dataclass
class _Growth:
    """Measurements of one kind of network, and the exponents."""

    found: dict[tuple[int, int], dict[str, float]] = field(default_factory=dict)

    def rows(self, kind: str, width: int, depth: int) -> Iterator[SpeedRow]:
        """An exponent a part, over layers and over widths."""
        for along, sizes in (
            ("layers", {layers: row for (layers, other), row in self.found.items() if other == width}),
            ("width", {other: row for (layers, other), row in self.found.items() if layers == depth}),
        ):
            for part in PARTS:
                points = [(size, row[part]) for size, row in sorted(sizes.items()) if row[part] >= SHORTEST]
                if len(points) >= 3:
                    unit = f"exponent, {points[0][0]} to {points[-1][0]}"
                    yield SpeedRow(f"{kind}_{part}_by_{along}", exponent(points), unit, "", None)


def exponent(points: list[tuple[int, float]]) -> float:
    """Slope of the logarithm of seconds over that of sizes.

    Args:
        points: (size, seconds), at least two.
    """
    sizes, seconds = np.log(np.array(points)).T
    return float(np.polyfit(sizes, seconds, 1)[0])


def scale_tables(rows: Sequence[Mapping[str, Any]]) -> tuple[Table, Table, Table]:
    """Return the seconds of every network, the exponents, and what the coarse analysis saves and costs.

    Args:
        rows: of the result file, in order.
    """
    measured: dict[str, dict[str, float]] = {}
    exponents: dict[str, dict[str, float]] = {}
    for row in rows:
        if row["unit"].startswith("exponent"):
            kind, rest = row["name"].split("_", 1)
            part, along = rest.rsplit("_by_", 1)
            exponents.setdefault(f"{kind}, by {along}", {})[part] = row["value"]
        else:
            kind, size, part = row["name"].split("_", 2)
            layers, width = size.split("x")
            measured.setdefault(f"{kind}, {layers} layers of {width}", {})[part] = row["value"]
    parts = [part for part in PARTS if any(part in found for found in measured.values())]
    columns = [Column(part.replace("_", " ") + ", s", ".3g") for part in parts]
    slopes = [Column(part.replace("_", " "), ".2f") for part in parts]
    formats = {"s": ".3g", "MiB": ".0f", "Spearman": ".3f"}
    coarse = [Column(f"{part.replace('_', ' ')}, {unit}", formats[unit]) for part, unit in APPROXIMATION.items()]
    again = {name: found for name, found in measured.items() if "coarse_analysis" in found}
    return (
        Table(
            "Processor seconds, one thread",
            ("network", *columns, Column("peak memory, MiB", ".0f")),
            [[name, *(found.get(part) for part in (*parts, "peak_memory"))] for name, found in measured.items()],
        ),
        Table(
            "Exponents",
            ("", *slopes),
            [[name, *(found.get(part) for part in parts)] for name, found in exponents.items()],
        ),
        Table(
            "Analysis from every second position",
            ("network", *coarse),
            [[name, *(found.get(part) for part in APPROXIMATION)] for name, found in again.items()],
        ),
    )
