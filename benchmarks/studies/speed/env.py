"""Cost of a candidate: measured against the masked network and the machine's floor, and predicted.

A *masked* candidate is what most pruning searches evaluate: the full-size network with channels multiplied by zero, one
forward pass over the reward images, nothing repaired. Measured candidates here include their repair.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from itertools import cycle
from statistics import median
from typing import Any
from unittest import mock

import gymnasium as gym
import numpy as np
import torch

from benchmarks.metrics.measured_memory import memory_of_plans
from benchmarks.studies.speed.bench import EnvBench, laid_out
from benchmarks.studies.speed.forward import formats, measured_vs_floor, vector_bound
from benchmarks.studies.speed.rows import SpeedRow, interleaved, median_ratio, seconds_of
from hessian.audit.rank_correlation import spearman
from hessian.support.layout import preferred_layout
from prune_gym.cost.latency import BATCH_SIZE
from prune_gym.cost.latency import measure as measure_table
from prune_gym.envs.hobs_prune import HOBSPruneEnv
from prune_gym.measuring.repair import REPAIRS
from prune_gym.problem.problem import PruningProblem
from prune_gym.support.kernel_cache import MOST, VARIABLES
from prune_gym.support.timing import compare_models
from prune_gym.surgery.pruner import PhysicalPruner
from prune_gym.tasks.task import PruningTask

Report = Callable[[str], None]

TARGETS = {"050": 0.5, "084": 0.84}
MASKED = "candidates a second of the masked network, one forward pass, same dtype and memory format"
SEARCHED = 64
"""Plans repaired before the row of a search in progress."""
PREDICTED_BATCH = 4096
STEPS = 2000
MEMORY_PLANS = (20, 50, 100, 250, 500)
MEMORY_IMAGES = 32
"""Calibration and reward images of the plans whose memory is measured."""
LATENCY_TARGETS = (0.3, 0.5, 0.7, 0.84, 0.9)
IMPORTS = "import time; start = time.perf_counter(); import torch; middle = time.perf_counter(); import prune_gym; "
IMPORTS += "print(middle - start, time.perf_counter() - middle)"


def measure(options: argparse.Namespace, report: Report) -> Iterator[SpeedRow]:
    """Measure row after row.

    Args:
        options: what :func:`benchmarks.studies.speed.options.env` added, and ``device``.
        report: told what is going on.
    """
    report(f"loading {options.task}")
    problem = PruningProblem(options.task, device=options.device)
    bench = EnvBench(problem.load(), options.images, options.repeats)
    for name in options.rows or ROWS:
        report(f"measuring {name}")
        yield from ROWS[name](bench)


def _against_masked(bench: EnvBench, name: str) -> Iterator[SpeedRow]:
    """Every repair, its share of a candidate's time, and the bound of all: the repaired network's pass alone.

    The closed-form repair keeps its refits by layer and kept channels; it is measured on the first plans of a search
    and on plans that follow others.
    """
    target, dense = TARGETS[name], bench.dense()
    masked = partial(bench.masked, laid_out(dense), bench.images)
    bare, whole = interleaved(partial(bench.masked, bench.small(target), bench.images), masked, bench.repeats)
    bound, alone = median_ratio(whole, bare), 1.0 / median(bare)

    def rows(repair: str, suffix: str) -> Iterator[SpeedRow]:
        plans = cycle(bench.candidates(target))
        times, whole = interleaved(partial(bench.measured, bench.evaluator(repair), plans), masked, bench.repeats)
        ratio = median_ratio(whole, times)
        yield SpeedRow(f"measured_vs_masked_{name}{suffix}", 1.0 / median(times), "candidates/s", MASKED, ratio)
        yield SpeedRow(f"repair_share_{name}{suffix}", 1.0 - ratio / bound, "of a candidate's time", "", None)

    for repair in REPAIRS:
        yield from rows(repair, "" if repair == "sequential" else f"_{repair}")
    for kept in bench.searched(target, SEARCHED):
        bench.problem.hobs.compensate(bench.problem.hobs.plan(kept.tolist()))
    yield from rows("closed_form", "_closed_form_in_search")
    yield SpeedRow(f"measured_vs_masked_{name}_without_repair", alone, "candidates/s", MASKED, bound)
    small, dense = bench.small(target).to(torch.bfloat16), dense.to(torch.bfloat16)
    images = preferred_layout(bench.images.to(torch.bfloat16))
    bare, whole = interleaved(partial(bench.masked, small, images), partial(bench.masked, dense, images), bench.repeats)
    row = f"measured_vs_masked_{name}_bfloat16_without_repair"
    yield SpeedRow(row, 1.0 / median(bare), "candidates/s", MASKED, median_ratio(whole, bare))


def latency_table(bench: EnvBench) -> Iterator[SpeedRow]:
    """The latency table's predictions against whole pruned networks, both relative to the dense one timed alongside."""
    task, cost = bench.problem.task, bench.problem.cost
    table = measure_table(task.model, task.example_input, cost)
    pruner = PhysicalPruner(task.model, task.example_input, ignored_layers=task.ignored_layers)
    images = bench.images[:1].expand(BATCH_SIZE, *bench.images.shape[1:]).contiguous()
    plans = [plan for target in LATENCY_TARGETS for plan in bench.candidates(target)[:2]]
    pairs = np.empty((len(plans), 2))
    for pair, kept in zip(pairs, plans, strict=True):
        networks = {"dense": task.model, "small": pruner.prune(bench.problem.hobs.plan(kept.tolist()))}
        times = compare_models(networks, images, num_iterations=10 * bench.repeats, num_warmup=3)
        pair[:] = table.relative(kept), times["small"].p50_ms / times["dense"].p50_ms
    error = float(np.median(np.abs(pairs[:, 0] / pairs[:, 1] - 1.0)))
    yield SpeedRow("latency_table_error", error, "of a network's latency, median", "", None)
    yield SpeedRow("latency_table_spearman", spearman(pairs), f"over {len(plans)} plans", "", None)


def predicted_steps_per_s(bench: EnvBench) -> Iterator[SpeedRow]:
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


def predicted_batched_per_s(bench: EnvBench) -> Iterator[SpeedRow]:
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


def revisit_ms(bench: EnvBench) -> Iterator[SpeedRow]:
    """A measured step to a plan that was visited before."""
    env = HOBSPruneEnv(problem=bench.problem, horizon=1_000_000)
    env.reset(seed=0)
    stay = np.zeros(bench.problem.num_layers, dtype=np.float32)
    seconds = [seconds_of(partial(env.step, stay)) for _ in range(100)]
    yield SpeedRow("revisit_ms", median(seconds) * 1e3, "ms", "", None)


def import_s(bench: EnvBench) -> Iterator[SpeedRow]:
    """Seconds that ``import prune_gym`` adds to ``import torch``, in fresh processes."""
    times = []
    for _ in range(bench.repeats):
        found = subprocess.run([sys.executable, "-c", IMPORTS], capture_output=True, text=True, check=True)
        times.append([float(word) for word in found.stdout.split()])
    torch_seconds, own = zip(*times, strict=True)
    yield SpeedRow("import_s", median(own), "s", "import torch", median_ratio(own, torch_seconds))


def memory(bench: EnvBench) -> Iterator[SpeedRow]:
    """Resident memory after many plans, in processes that keep as many kernels as here, or as oneDNN does of itself."""
    task = bench.problem.task.to(torch.device("cpu"))
    images = slice(MEMORY_IMAGES)
    few = replace(task, calibration=task.calibration.subset(images), reward=task.reward.subset(images), train=None)
    here, elsewhere = {name: os.environ[name] for name in VARIABLES}, dict.fromkeys(VARIABLES, str(MOST))
    (own, seconds), (most, others_seconds) = (_in_process(few, bounds) for bounds in (here, elsewhere))
    against = f"{MOST:,} kernels kept"
    for count, value, other in zip(MEMORY_PLANS, own, most, strict=True):
        yield SpeedRow(f"memory_after_{count}_plans", value, "MiB", against, value / other)
    for first, start, other in zip(MEMORY_PLANS[:-1], own[:-1], most[:-1], strict=True):
        growth, other = own[-1] / start - 1.0, most[-1] / other - 1.0
        unit = f"of memory, from {first} to {MEMORY_PLANS[-1]} plans"
        yield SpeedRow(f"memory_growth_from_{first}", growth, unit, against, growth / other if other else 0.0)
    yield SpeedRow("memory_plan_s", seconds, "processor s a plan", against, seconds / others_seconds)


def _in_process(task: PruningTask, bounds: Mapping[str, str]) -> tuple[list[float], float]:
    with (
        mock.patch.dict(os.environ, bounds),
        ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as fresh,
    ):
        return fresh.submit(memory_of_plans, task, MEMORY_PLANS).result()


ROWS: dict[str, Callable[[EnvBench], Iterator[SpeedRow]]] = {
    "measured_vs_masked_050": partial(_against_masked, name="050"),
    "measured_vs_masked_084": partial(_against_masked, name="084"),
    "measured_vs_floor": partial(measured_vs_floor, targets=TARGETS),
    "vector_bound": partial(vector_bound, targets=TARGETS),
    "formats": formats,
    "latency_table": latency_table,
    "predicted_steps_per_s": predicted_steps_per_s,
    "predicted_batched_per_s": predicted_batched_per_s,
    "revisit_ms": revisit_ms,
    "import_s": import_s,
    "memory": memory,
}
"""Row (or family of rows) -> what measures it."""
