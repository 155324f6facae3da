"""Plans that a policy knows by itself: its deterministic action at a target, measured but not searched for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium as gym
import numpy as np

from benchmarks.common.columns import Columns, Value, percent_column
from benchmarks.common.table import Table
from prune_gym.measuring.evaluation import Evaluation
from prune_gym.problem.problem import PruningProblem

Row = dict[str, Any]
Plan = tuple[int, ...]


def policy_rows(
    agent: Any, env: gym.Env, problem: PruningProblem, archive: Mapping[Plan, Evaluation], targets: Sequence[float]
) -> list[Row]:
    """The policy at targets, beside the start plan and the best plan measured for any target at or above it.

    Args:
        agent: with a policy (``predict``).
        env: a pruning environment; its archive grows by what is measured here.
        problem: what is pruned.
        archive: plans measured while the agent learned.
        targets: FLOPs reductions.

    Returns:
        One row a target: ``target``, and for ``policy``, ``start`` and ``archive`` each ``kept``,
        ``flops_reduction``, ``accuracy`` and ``soft_accuracy`` on the reward split. ``archive`` is None where no
        measured plan removes that much.
    """
    known = np.array(list(archive))
    reductions = problem.cost.reduction(known)
    qualities = np.array([found.soft_accuracy for found in archive.values()])
    rows: list[Row] = []
    for target in targets:
        observation, info = env.reset(seed=0, options={"target": target})
        start = _row(info["kept"], info["accuracy"], info["soft_accuracy"], info["flops_reduction"])
        action, _ = agent.predict(observation, deterministic=True)
        _, _, _, _, info = env.step(action)
        policy = _row(info["kept"], info["accuracy"], info["soft_accuracy"], info["flops_reduction"])
        best = None
        if (reductions >= target).any():
            index = int(np.where(reductions >= target, qualities, -np.inf).argmax())
            found = list(archive.values())[index]
            best = _row(known[index], found.accuracy, found.soft_accuracy, reductions[index])
        rows.append({"target": target, "policy": policy, "start": start, "archive": best})
    return rows


def _row(kept: np.ndarray, accuracy: float, soft_accuracy: float, reduction: float) -> Row:
    return {
        "kept": np.asarray(kept).tolist(),
        "flops_reduction": float(reduction),
        "accuracy": float(accuracy),
        "soft_accuracy": float(soft_accuracy),
    }


def policy_table(results: Sequence[Mapping[str, Any]]) -> Table | None:
    """Return means over the runs of every agent that has a policy; None where no run looked at one."""
    looked = [result for result in results if result.get("policy")]
    rows: list[list[Value]] = []
    for agent in dict.fromkeys(result["agent"] for result in looked):
        runs = [result for result in looked if result["agent"] == agent]
        # Runs may have looked at different targets: `unseen` can be changed while a study grows.
        for target in sorted({row["target"] for run in runs for row in run["policy"]}):
            at = [row for run in runs for row in run["policy"] if row["target"] == target]
            met = any(abs(target - asked) < 1e-9 for asked in runs[0]["targets"])
            best = [one["archive"]["soft_accuracy"] for one in at if one["archive"]]
            means = [float(np.mean([one[plan]["soft_accuracy"] for one in at])) for plan in ("policy", "start")]
            rows.append(
                [
                    agent,
                    f"{target:g}",
                    "yes" if met else "no",
                    *means,
                    float(np.mean(best)) if best else None,
                    len(at),
                ]
            )
    caption = (
        "soft accuracy on the reward split in %, of the deterministic action; best measured: of all plans of the run "
        "that remove at least as much"
    )
    accuracies = map(percent_column, ("policy", "start plan", "best measured"))
    columns: Columns = ("agent", "target", "asked for in training", *accuracies, "runs")
    return Table("The policy alone", columns, rows, caption) if looked else None
