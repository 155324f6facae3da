"""One run of the comparison of agents: learning within a budget of measured evaluations, and what came of it."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from agents import RSPARAgent
from agents.interface.learner import Learner
from agents.interface.monitor import Record, until
from agents.interface.protocol import TOLERANCE
from agents.registry import create
from benchmarks.stat_tests.aggregates import hypervolume
from benchmarks.studies.agents.config import AgentEntry, Cell, StudyConfig, serves_targets
from benchmarks.studies.agents.policies import policy_rows
from benchmarks.studies.engine.config import EnvironmentConfig
from benchmarks.studies.engine.plan_store import Plan, PlanStore
from prune_gym.envs.hobs_prune import HOBSPruneEnv
from prune_gym.measuring.evaluation import Evaluation
from prune_gym.problem.problem import PruningProblem
from prune_gym.surgery.pruner import PhysicalPruner
from prune_gym.training.training import evaluate_model

MAX_REVISITS = 20
"""A run ends after this many times its budget in steps, however few of them measured anything."""

Archive = Mapping[Plan, Evaluation]


class CyclingTargets(gym.Wrapper):
    """Episodes ask for several targets in turn.

    Args:
        env: a pruning environment.
        targets: FLOPs reductions.
    """

    def __init__(self, env: gym.Env, targets: Sequence[float]) -> None:
        super().__init__(env)
        self._targets = tuple(targets)
        self._next = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Start an episode at the next target, unless the options name one."""
        if not options:
            options = {"target": self._targets[self._next % len(self._targets)]}
            self._next += 1
        return self.env.reset(seed=seed, options=options)


def run_cell(
    study: StudyConfig, cell: Cell, problem: PruningProblem, store: PlanStore, source: Path | None = None
) -> dict[str, Any]:
    """Run an agent and measure its best plan on the test split; JSON-able.

    The run is a deterministic function of the cell and of what its plans measure. So one that was killed is repeated
    with everything it measured at hand in `store`: it takes the same decisions and ends the same.

    Args:
        study: the configuration.
        cell: which run.
        problem: of the cell's task, loaded.
        store: of the problem.
        source: file of an agent that goes on here with what it learned elsewhere; None: a new one.
    """
    entry = study.entry(cell.agent)
    settings = study.environment_of(entry)
    before = set(problem.evaluator.seconds)
    started = time.perf_counter()
    if cell.is_front and not serves_targets(entry):
        share = cell.evaluations // len(cell.targets)
        learned = [_learn(entry, settings, (target,), cell.seed, share, problem, store) for target in cell.targets]
    else:
        learned = [_learn(entry, settings, cell.targets, cell.seed, cell.evaluations, problem, store, source)]
    archives = [archive for _, archive in learned]
    seconds = time.perf_counter() - started
    fresh = sum(problem.evaluator.seconds[plan] for plan in set(problem.evaluator.seconds) - before)
    rows = [row for number, archive in enumerate(archives) for row in _rows(number, archive, problem)]
    own, evaluating = seconds - fresh, sum(row["seconds"] for row in _with_seconds(rows, store))
    start = "uniform" if entry.name == "uniform" else "knapsack"
    policy = None
    if cell.is_front and serves_targets(entry):
        asked = sorted({*cell.targets, *study.fronts.unseen})
        env = make_env(problem, settings, asked[:1])
        policy = policy_rows(learned[0][0], env, problem, archives[0], asked)
    best = {f"{target:g}": _best(settings, start, target, archives, problem) for target in cell.targets}
    return {
        "task": cell.task,
        "agent": cell.agent,
        "targets": list(cell.targets),
        "seed": cell.seed,
        "evaluations": rows,
        "best": best,
        "policy": policy,
        "hypervolume": _hypervolumes(list(best.values())) if cell.is_front else None,
        "dense": {"accuracy": problem.dense.accuracy, "soft_accuracy": problem.dense.soft_accuracy},
        "seconds": {"own": own, "evaluations": evaluating, "overhead": own / evaluating if evaluating else None},
    }


def _learn(
    entry: AgentEntry,
    settings: EnvironmentConfig,
    targets: tuple[float, ...],
    seed: int,
    evaluations: int,
    problem: PruningProblem,
    store: PlanStore,
    source: Path | None = None,
) -> tuple[Learner, dict[Plan, Evaluation]]:
    """An agent that has learned, and what it measured within its budget, in the order it did."""
    env = make_env(problem, settings, targets)
    agent: Learner
    if source is None:
        agent = create(entry.name, env, seed, **entry.options)
    else:
        agent = RSPARAgent.load(source, num_layers=problem.num_layers, seed=seed)

    learn(agent, env, evaluations, store)
    return agent, dict(cast(HOBSPruneEnv, env.unwrapped).archive)


def learn(agent: Learner, env: gym.Env, evaluations: int, store: PlanStore) -> None:
    """Learn within a budget of measured evaluations; what was measured is kept, whatever happens.

    Args:
        agent: any.
        env: from :func:`make_env`.
        evaluations: measured evaluations, the start plan included.
        store: of the environment's problem.
    """

    def remember(record: Record) -> None:
        store.sync()

    try:
        agent.learn(env, MAX_REVISITS * evaluations, callback=until(evaluations, remember))
    finally:
        store.sync()


def make_env(
    problem: PruningProblem, settings: EnvironmentConfig, targets: Sequence[float], start: str = "knapsack"
) -> gym.Env:
    """The environment of a run, with an empty archive; several targets take turns."""
    env = gym.make(
        "HOBSPrune-v0",
        problem=problem,
        target_flops_reduction=targets[0],
        constraint=settings.constraint,
        reward=settings.reward,
        max_pruning_ratio=settings.max_pruning_ratio,
        lambda_0=settings.lambda_0,
        tau=settings.tau,
        start=start,
        disable_env_checker=True,
    )
    return CyclingTargets(env, targets) if len(targets) > 1 else env


def _rows(run: int, archive: Archive, problem: PruningProblem) -> list[dict[str, Any]]:
    """Every evaluation of a run, in order; the index counts from 1, the start plan included."""
    return [
        {
            "run": run,
            "index": index,
            "kept": list(plan),
            "accuracy": found.accuracy,
            "soft_accuracy": found.soft_accuracy,
            "loss": found.loss,
            "flops_reduction": float(problem.cost.reduction(np.array(plan))),
        }
        for index, (plan, found) in enumerate(archive.items(), start=1)
    ]


def _with_seconds(rows: list[dict[str, Any]], store: PlanStore) -> list[dict[str, Any]]:
    """The rows, each with how long its plan took when it was measured."""
    for row in rows:
        row["seconds"] = store.measurements[tuple(row["kept"])].seconds
    return rows


def _best(
    settings: EnvironmentConfig, start: str, target: float, archives: Sequence[Archive], problem: PruningProblem
) -> dict[str, Any]:
    """The best plan measured for a target, tested."""
    env = cast(HOBSPruneEnv, make_env(problem, settings, (target,), start).unwrapped)
    env.reset(options={"target": target})
    for archive in archives:
        env.archive.update(archive)
    return tested(*env.best_plan(TOLERANCE), problem)


def tested(kept: NDArray[np.int64], found: Evaluation, problem: PruningProblem) -> dict[str, Any]:
    """A measured plan, cut, refitted in sequence and measured on the test split.

    Args:
        kept: units of every layer [L].
        found: what it scored on the reward split.
        problem: what is pruned; its task has a test split.
    """
    task = problem.task
    assert task.test is not None
    pruner = PhysicalPruner(task.model, task.example_input, ignored_layers=tuple(task.ignored_layers))
    plan = problem.hobs.plan(kept.tolist())
    network = pruner.prune(plan, refit="sequential", calibration=task.calibration)
    seen = evaluate_model(network, task.test)
    return {
        "kept": kept.tolist(),
        "accuracy": found.accuracy,
        "soft_accuracy": found.soft_accuracy,
        "flops_reduction": float(problem.cost.reduction(kept)),
        "test_images": len(task.test),
        "test_accuracy": seen.accuracy,
        "test_soft_accuracy": seen.soft_accuracy,
    }


def _hypervolumes(best: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Area under the front of the best plans, for every way to look at accuracy."""
    reductions = [plan["flops_reduction"] for plan in best]
    return {
        metric: hypervolume(reductions, [plan[metric] for plan in best])
        for metric in ("accuracy", "soft_accuracy", "test_accuracy", "test_soft_accuracy")
    }
