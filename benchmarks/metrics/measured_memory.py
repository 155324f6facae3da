"""Resident memory of a process that measures plan after plan in an environment, as a search does."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from prune_gym.envs.hobs_prune import HOBSPruneEnv
from prune_gym.problem.problem import PruningProblem
from prune_gym.tasks.task import PruningTask

TARGET = 0.6
REPAIR = "closed_form"
"""The repair whose plans are the quickest, and that keeps what it refits: kernels and refits weigh most."""

MOVE = 0.3
"""Largest move of a layer at a step; it grows while steps lead to plans that were measured before."""

PATIENCE = 500
"""Steps in a row without a new plan after which a network has too few plans."""


def memory_of_plans(task: PruningTask, counts: Sequence[int]) -> tuple[list[float], float]:
    """Measure plans on one thread of the CPU, in a fresh process: what a kernel needs is kept for all that come after.

    Args:
        task: what is pruned.
        counts: distinct plans after which memory is read, rising.

    Returns:
        Resident memory at every count (MiB), and processor seconds a plan.

    Raises:
        ValueError: so many distinct plans are not found on the target.
    """
    torch.set_num_threads(1)
    problem = PruningProblem(task, device="cpu", repair=REPAIR)
    env = HOBSPruneEnv(problem=problem, target_flops_reduction=TARGET, constraint="hard")
    env.reset(seed=0)
    rng, found, stale = np.random.default_rng(0), list[float](), 0
    started = time.process_time()
    for count in counts:
        while (measured := problem.evaluator.num_measured) < count:
            if stale > PATIENCE:
                raise ValueError(f"only {measured} plans of {task.name} were found, {count} are to be measured")
            move = min(1.0, MOVE * (1.0 + stale / 20))
            action = rng.uniform(-move, move, problem.num_layers).astype(np.float32)
            *_, terminated, truncated, _ = env.step(action)
            if terminated or truncated:
                env.reset()
            stale = 0 if problem.evaluator.num_measured > measured else stale + 1
        found.append(resident_mib())
    return found, (time.process_time() - started) / counts[-1]


def resident_mib() -> float:
    """Resident memory of this process (MiB); Linux tells."""
    status = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in status if line.startswith("VmRSS:"))
