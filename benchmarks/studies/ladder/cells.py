"""One run of the ladder: an agent on a network of the bench, and the best plan after so many scored ones."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np

from agents.interface.monitor import until
from agents.registry import create
from benchmarks.studies.ladder.submission import CHECKPOINTS, Networks
from prune_gym.bench.problem import BenchProblem
from prune_gym.bench.protocol import EVALUATIONS, surrogate_scale

MOST_STEPS = 20 * EVALUATIONS
"""Steps after which a run ends, however few plans were new."""

ABOUT = {
    "knapsack": "the knapsack's plan on the predicted loss curves, no search",
    "random": "random moves around the knapsack's plan",
    "cmaes": "CMA-ES around the knapsack's plan",
    "gp": "Bayesian optimisation by a Gaussian process over log predicted losses",
    "rspar": "R-SPAR from scratch on every network",
    "ppo": "PPO of Stable-Baselines3 from scratch on every network",
    "sac": "SAC of Stable-Baselines3 from scratch on every network",
}
"""Agents of the ladder, with what the leaderboard says of them."""


@dataclass(frozen=True)
class LadderCell:
    """A run.

    Attributes:
        agent: a key of :data:`ABOUT`.
        network: of the bench.
        target: FLOPs reduction.
        seed: of the agent.
    """

    agent: str
    network: str
    target: float
    seed: int

    @property
    def name(self) -> str:
        """Name on disk."""
        return f"{self.agent}-{self.network}-{self.target:g}-s{self.seed}"


def run_cell(cell: LadderCell, networks: Networks = None) -> dict[str, Any]:
    """Let an agent search within the protocol's evaluations; JSON-able.

    Args:
        cell: which run.
        networks: file of the bench.
    """
    problem = BenchProblem.shared(cell.network, networks)
    env = gym.make(
        "HOBSPrune-v0",
        problem=problem,
        fidelity="surrogate",
        constraint="hard",
        target_flops_reduction=cell.target,
        disable_env_checker=True,
    )
    started = time.process_time()
    create(cell.agent, env, cell.seed).learn(env, MOST_STEPS, callback=until(EVALUATIONS))
    seconds = time.process_time() - started
    archive: Any = env.unwrapped.archive  # type: ignore[attr-defined]
    plans = np.array(list(archive))[:EVALUATIONS]
    soft = np.array([found.soft_accuracy for found in archive.values()])[:EVALUATIONS]
    soft[problem.cost.reduction(plans) < cell.target] = -np.inf
    best = {str(count): plans[int(soft[:count].argmax())].tolist() for count in CHECKPOINTS}
    scale = surrogate_scale(problem, cell.target)
    return {
        "agent": cell.agent,
        "network": cell.network,
        "target": cell.target,
        "seed": cell.seed,
        "plans": best,
        "scored": len(plans),
        "score": float(scale(soft.max())),
        "cpu_seconds": seconds,
    }
