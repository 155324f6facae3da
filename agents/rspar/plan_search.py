"""R-SPAR as a searcher for ``prune_gym.prune``: plans measured on the reward split, as many as there is budget for."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np

from agents.rspar.agent import RSPARAgent

if TYPE_CHECKING:
    from hessian.support.progress import Progress
    from prune_gym.cost.limits import CountLimits, IntArray
    from prune_gym.cost.target import Target
    from prune_gym.problem.problem import PruningProblem

MANY = 100_000
"""Steps where time is the only limit."""


def search_plans(
    problem: PruningProblem,
    target: Target,
    limits: CountLimits,
    *,
    evaluations: int | None,
    seconds: float | None,
    seed: int,
    progress: Progress,
) -> IntArray:
    """The best plan on a target that R-SPAR measured; the knapsack plan, where it starts, is among them.

    Args:
        problem: what is pruned.
        target: what to reach.
        limits: legal counts; their smallest ones say how deep a layer may be cut.
        evaluations: plans to measure; None: as time allows.
        seconds: wall time; None: as plans allow.
        seed: of the agent.
        progress: called with (description, done, total).

    Returns:
        Kept units, int64 [L].
    """
    import prune_gym  # noqa: F401  registers the environment

    ratio = float(np.max(1.0 - limits.minimum / limits.units))
    env: Any = gym.make(
        "HOBSPrune-v0",
        problem=problem,
        target=target,
        constraint="hard",
        max_pruning_ratio=ratio,
        disable_env_checker=True,
    )
    layout = env.unwrapped.layout
    agent = RSPARAgent(layout.num_layers, layout.feature_dim, seed=seed)
    started = time.perf_counter()
    most = MANY if evaluations is None else evaluations

    def go_on(record: dict[str, Any]) -> bool:
        measured = int(record.get("measured_evaluations", 0))
        spent = time.perf_counter() - started
        progress(
            "plans measured", measured if seconds is None else int(spent), most if seconds is None else int(seconds)
        )
        return measured < most and (seconds is None or spent < seconds)

    agent.learn(env, MANY if evaluations is None else 4 * evaluations, callback=go_on)
    kept, _ = env.unwrapped.best_plan()
    return np.asarray(kept)
