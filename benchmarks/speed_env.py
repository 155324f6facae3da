"""What a candidate costs: measured against the masked network and the machine's floor, and predicted.

A *masked* candidate is what most pruning searches evaluate: the full-size network with channels multiplied by zero, one
forward pass over the reward images, nothing repaired. Measured candidates here include their repair.
"""

from __future__ import annotations

import argparse
import copy
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from itertools import cycle
from statistics import median
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.speed_rows import SpeedRow, interleaved, median_ratio, seconds_of
from hessian.layout import preferred_layout
from prune_gym.env import HOBSPruneEnv
from prune_gym.evaluator import CPU_BATCH_SIZE, Evaluator
from prune_gym.folding import FoldedNetwork
from prune_gym.limits import IntArray
from prune_gym.problem import PruningProblem
from prune_gym.repair import REPAIRS

Report = Callable[[str], None]

TARGETS = {"050": 0.5, "084": 0.84}
PREDICTED_BATCH = 4096
STEPS = 2000
IMPORTS = "import time; start = time.perf_counter(); import torch; middle = time.perf_counter(); import prune_gym; "
IMPORTS += "print(middle - start, time.perf_counter() - middle)"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``python -m benchmarks.speed env``."""
    parser.add_argument("--rows", nargs="+", choices=ROWS, metavar="NAME", help=f"only these: {', '.join(ROWS)}")
    parser.add_argument("--task", default="fashion-resnet20", help="what is pruned (default: %(default)s)")
    parser.add_argument("--images", type=int, default=1000, help="reward images (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=5, help="timed runs of each side (default: %(default)s)")


def measure(options: argparse.Namespace, report: Report) -> Iterator[SpeedRow]:
    """Measure row after row.

    Args:
        options: what :func:`add_arguments` added, and ``device``.
        report: told what is going on.
    """
    report(f"loading {options.task}")
    problem = PruningProblem(options.task, device=options.device)
    bench = _Bench(problem.load(), options.images, options.repeats)
    for name in options.rows or ROWS:
        report(f"measuring {name}")
        yield from ROWS[name](bench)


class _Bench:
    """One loaded problem, its reward images cut to a number."""

    def __init__(self, problem: PruningProblem, images: int, repeats: int) -> None:
        self.problem = problem
        self.repeats = repeats
        self.images = problem.task.reward.images[:images].to(problem.device)
        self.labels = problem.task.reward.labels[:images].to(problem.device)

    def evaluator(self, repair: str) -> Evaluator:
        return Evaluator(self.problem.task, self.problem.hobs, repair)

    def candidates(self, target: float) -> list[IntArray]:
        """Distinct plans on the target: random moves from the knapsack plan."""
        env = HOBSPruneEnv(problem=self.problem, constraint="hard", target_flops_reduction=target, fidelity="predicted")
        env.reset(seed=0)
        moves = np.random.default_rng(0).uniform(-0.3, 0.3, (40 * (self.repeats + 1), self.problem.num_layers))
        plans = np.unique(env.decode(moves), axis=0)
        if len(plans) <= self.repeats:
            raise ValueError(f"only {len(plans)} distinct plans around the start; fewer --repeats are needed")
        return list(np.random.default_rng(1).permutation(plans)[: self.repeats + 1])

    def dense(self) -> nn.Module:
        """A copy of the full-size network."""
        return copy.deepcopy(self.problem.task.model).eval()

    def small(self, name: str) -> nn.Module:
        """A candidate at one of :data:`TARGETS`, ready to run: repaired, batch norms folded, laid out."""
        plan = self.candidates(TARGETS[name])[0].tolist()
        pruned = self.evaluator("closed_form").export(plan)
        return _laid_out(FoldedNetwork(pruned, self.problem.task.example_input).model)

    def masked(self, model: nn.Module, images: Tensor) -> None:
        """One pass of a full-size network; masks multiply weights and cost nothing at this size."""
        with torch.no_grad():
            outputs = torch.cat([model(part) for part in images.split(CPU_BATCH_SIZE)])
            (outputs.argmax(dim=1) == self.labels).double().mean().item()

    def measured(self, evaluator: Evaluator, plans: Iterator[IntArray]) -> None:
        """Repair and run one plan never seen before."""
        outputs = evaluator.logits(next(plans).tolist(), self.images)
        (outputs.argmax(dim=1) == self.labels).double().mean().item()


def _against_masked(bench: _Bench, name: str) -> Iterator[SpeedRow]:
    """Every repair, its share of a candidate's time, and the bound of all: the repaired network's pass alone."""
    baseline = "candidates a second of the masked network, one forward pass, same dtype and memory format"
    row = f"measured_vs_masked_{name}"
    dense = bench.dense()
    masked = partial(bench.masked, _laid_out(dense), bench.images)
    bare, whole = interleaved(partial(bench.masked, bench.small(name), bench.images), masked, bench.repeats)
    bound = median_ratio(whole, bare)
    for repair in REPAIRS:
        plans = cycle(bench.candidates(TARGETS[name]))
        times, whole = interleaved(partial(bench.measured, bench.evaluator(repair), plans), masked, bench.repeats)
        suffix = "" if repair == "sequential" else f"_{repair}"
        ratio = median_ratio(whole, times)
        yield SpeedRow(row + suffix, 1.0 / median(times), "candidates/s", baseline, ratio)
        yield SpeedRow(f"repair_share_{name}{suffix}", 1.0 - ratio / bound, "of a candidate's time", "", None)
    yield SpeedRow(f"{row}_without_repair", 1.0 / median(bare), "candidates/s", baseline, bound)
    small, dense = bench.small(name).to(torch.bfloat16), dense.to(torch.bfloat16)
    images = preferred_layout(bench.images.to(torch.bfloat16))
    bare, whole = interleaved(partial(bench.masked, small, images), partial(bench.masked, dense, images), bench.repeats)
    row = f"{row}_bfloat16_without_repair"
    yield SpeedRow(row, 1.0 / median(bare), "candidates/s", baseline, median_ratio(whole, bare))


def _laid_out(model: nn.Module) -> nn.Module:
    """The network with its weights as the evaluator lays them out."""
    model.load_state_dict({name: preferred_layout(tensor) for name, tensor in model.state_dict().items()}, assign=True)
    return model


def measured_vs_floor(bench: _Bench) -> Iterator[SpeedRow]:
    """A candidate, its pass alone, and the dense network against the same FLOPs at the machine's peak convolution."""
    flops_per_second, peak = _peak(bench.problem.device, bench.repeats)
    baseline = f"FLOPs of the pass at {flops_per_second / 1e9:.0f} GFLOP/s ({peak})"

    def row(name: str, run: Callable[[], None], kept: IntArray) -> SpeedRow:
        run()
        seconds = median(seconds_of(run) for _ in range(bench.repeats))
        floor = float(bench.problem.cost.flops(kept)) * len(bench.images) / flops_per_second
        return SpeedRow(name, seconds * 1e3, "ms", baseline, seconds / floor)

    dense = _laid_out(bench.dense())
    yield row("dense_vs_floor", partial(bench.masked, dense, bench.images), bench.problem.cost.units)
    for name, target in TARGETS.items():
        plans = bench.candidates(target)
        run = partial(bench.measured, bench.evaluator("sequential"), cycle(plans))
        yield row(f"measured_vs_floor_{name}", run, plans[0])
        yield row(
            f"measured_vs_floor_{name}_without_repair", partial(bench.masked, bench.small(name), bench.images), plans[0]
        )


def _peak(device: torch.device, repeats: int) -> tuple[float, str]:
    """FLOPs a second of a large convolution, and its description."""
    channels, size, images = 256, 28, 32
    layer = nn.Conv2d(channels, channels, 3, padding=1, bias=False).to(device)
    inputs = torch.randn(images, channels, size, size, device=device)

    def run() -> None:
        with torch.no_grad():
            layer(inputs).sum().item()

    run()
    seconds = min(seconds_of(run) for _ in range(max(repeats, 3)))
    flops = 2 * images * size * size * channels * channels * 9
    return flops / seconds, f"3x3 convolution, {channels} channels, {size}x{size}, {images} images"


def formats(bench: _Bench) -> Iterator[SpeedRow]:
    """What other memory formats and types add to a pass of the full-size network."""
    model = bench.problem.task.model.eval()
    plain = partial(bench.masked, model, bench.images)
    variants: dict[str, tuple[Any, Any]] = {
        "channels_last": (None, torch.channels_last),
        "bfloat16": (torch.bfloat16, None),
        "bfloat16_channels_last": (torch.bfloat16, torch.channels_last),
        "folded_channels_last": (None, torch.channels_last),
    }
    for name, (dtype, layout) in variants.items():
        folded = FoldedNetwork(model, bench.problem.task.example_input).model
        changed = folded if name.startswith("folded") else copy.deepcopy(model)
        images = bench.images
        if dtype is not None:
            changed, images = changed.to(dtype), images.to(dtype)
        if layout is not None:
            changed, images = changed.to(memory_format=layout), images.contiguous(memory_format=layout)
        times, base = interleaved(partial(bench.masked, changed, images), plain, bench.repeats)
        yield SpeedRow(f"format_{name}", median(times) * 1e3, "ms", "float32, contiguous", median_ratio(base, times))


def predicted_steps_per_s(bench: _Bench) -> Iterator[SpeedRow]:
    """Steps a second through ``gymnasium.make``, resets included, one move an episode."""
    for constraint in ("soft", "hard"):
        env = gym.make("HOBSPrune-v0", fidelity="predicted", constraint=constraint, problem=bench.problem)
        env.reset(seed=0)
        env.action_space.seed(0)
        actions = [env.action_space.sample() for _ in range(STEPS)]
        for action in actions[:50]:
            env.step(action)
            env.reset()
        seconds = [seconds_of(partial(_steps, env, actions)) for _ in range(bench.repeats)]
        yield SpeedRow(f"predicted_steps_per_s_{constraint}", STEPS / median(seconds), "steps/s", "", None)


def _steps(env: gym.Env, actions: list[Any]) -> None:
    for action in actions:
        env.step(action)
        env.reset()


def predicted_batched_per_s(bench: _Bench) -> Iterator[SpeedRow]:
    """Candidates a second decoded, predicted and scored in batches, and stepped through the vector environment."""
    for constraint in ("soft", "hard"):
        env = HOBSPruneEnv(problem=bench.problem, fidelity="predicted", constraint=constraint)
        env.reset(seed=0)
        moves = np.random.default_rng(0).uniform(-1, 1, (PREDICTED_BATCH, bench.problem.num_layers)).astype(np.float32)
        seconds = [seconds_of(partial(_score, env, moves)) for _ in range(bench.repeats + 1)][1:]
        name = f"predicted_batched_per_s_{constraint}"
        yield SpeedRow(name, PREDICTED_BATCH / median(seconds), "candidates/s", "", None)
        vector: Any = gym.make_vec(
            "HOBSPrune-v0",
            num_envs=PREDICTED_BATCH,
            fidelity="predicted",
            constraint=constraint,
            problem=bench.problem,
            horizon=1_000_000,
        )
        vector.reset(seed=0)
        seconds = [seconds_of(partial(vector.step, moves)) for _ in range(bench.repeats + 1)][1:]
        name = f"predicted_vector_env_per_s_{constraint}"
        yield SpeedRow(name, PREDICTED_BATCH / median(seconds), "steps/s", "", None)


def _score(env: HOBSPruneEnv, moves: np.ndarray) -> np.ndarray:
    kept = env.decode(moves)
    return env.score_of(env.problem.predicted_score(kept), env.problem.cost.reduction(kept))


def revisit_ms(bench: _Bench) -> Iterator[SpeedRow]:
    """A measured step to a plan that was visited before."""
    env = HOBSPruneEnv(problem=bench.problem, horizon=1_000_000)
    env.reset(seed=0)
    stay = np.zeros(bench.problem.num_layers, dtype=np.float32)
    seconds = [seconds_of(partial(env.step, stay)) for _ in range(100)]
    yield SpeedRow("revisit_ms", median(seconds) * 1e3, "ms", "", None)


def import_s(bench: _Bench) -> Iterator[SpeedRow]:
    """What ``import prune_gym`` adds to ``import torch``, in fresh processes."""
    times = []
    for _ in range(bench.repeats):
        found = subprocess.run([sys.executable, "-c", IMPORTS], capture_output=True, text=True, check=True)
        times.append([float(word) for word in found.stdout.split()])
    torch_seconds, own = zip(*times, strict=True)
    yield SpeedRow("import_s", median(own), "s", "import torch", median_ratio(own, torch_seconds))


ROWS: dict[str, Callable[[_Bench], Iterator[SpeedRow]]] = {
    "measured_vs_masked_050": partial(_against_masked, name="050"),
    "measured_vs_masked_084": partial(_against_masked, name="084"),
    "measured_vs_floor": measured_vs_floor,
    "formats": formats,
    "predicted_steps_per_s": predicted_steps_per_s,
    "predicted_batched_per_s": predicted_batched_per_s,
    "revisit_ms": revisit_ms,
    "import_s": import_s,
}
"""Row (or family of rows) -> what measures it."""
