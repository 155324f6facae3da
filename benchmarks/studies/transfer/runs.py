"""One run of the study of transfer: a policy carried to another task, at once and after learning there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from agents import RSPARAgent
from agents.interface.protocol import TOLERANCE
from agents.registry import create
from benchmarks.studies.agents.cells import learn, make_env, tested
from benchmarks.studies.agents.curves import best_so_far
from benchmarks.studies.engine.plan_store import PlanStore
from benchmarks.studies.transfer.config import TransferConfig
from prune_gym.problem.problem import PruningProblem


def carry_over(
    config: TransferConfig, seed: int, target: float, problem: PruningProblem, source: Path
) -> dict[str, Any]:
    """Measure a policy on a task it was not trained on; JSON-able.

    Args:
        config: the study.
        seed: of the agents.
        target: FLOPs reduction.
        problem: of the task it is carried to, loaded.
        source: the saved policy.

    Returns:
        ``start`` and ``zero_shot`` (plans: ``kept``, ``flops_reduction``, ``accuracy`` and ``soft_accuracy`` on the
        reward split, ``test_accuracy``), and for ``transferred`` and ``scratch`` a ``curve`` (best soft accuracy on the
        target after every evaluation) and the ``best`` plan of it.
    """
    writer = f"{problem.name}-{target:g}-from-{config.source.task}-seed{seed}"
    store = PlanStore(config.plans_folder, problem, writer)
    layers = problem.num_layers
    row: dict[str, Any] = {"task": problem.name, "target": target, "seed": seed}
    policy = RSPARAgent.load(source, num_layers=layers)
    env = make_env(problem, config.environment, (target,))
    observation, info = env.reset(seed=seed)
    row["start"] = _as_tested(info, problem)
    action, _ = policy.predict(observation, deterministic=True)
    row["zero_shot"] = _as_tested(env.step(action)[4], problem)
    store.sync()
    for name in ("transferred", "scratch"):
        env = make_env(problem, config.environment, (target,))
        agent = policy if name == "transferred" else create("rspar", env, seed, **config.options)
        row[name] = _learned(agent, env, config.evaluations, target, problem, store)
    return row


def _learned(
    agent: Any, env: Any, evaluations: int, target: float, problem: PruningProblem, store: PlanStore
) -> dict[str, Any]:
    learn(agent, env, evaluations, store)
    rows = [
        {
            "index": index,
            "soft_accuracy": found.soft_accuracy,
            "flops_reduction": float(problem.cost.reduction(np.array(plan))),
        }
        for index, (plan, found) in enumerate(env.unwrapped.archive.items(), start=1)
    ]
    curve = best_so_far({"targets": [target], "evaluations": rows}, evaluations)
    kept, found = env.unwrapped.best_plan(TOLERANCE)
    return {"curve": curve.tolist(), "best": tested(kept, found, problem)}


def _as_tested(info: dict[str, Any], problem: PruningProblem) -> dict[str, Any]:
    kept = np.asarray(info["kept"])
    return tested(kept, problem.evaluator.archive[tuple(kept.tolist())], problem)
