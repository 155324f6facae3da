"""What a search or a published method decided, and how run folders hold it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from prune_gym.evaluator import Evaluation
from prune_gym.problem import PruningProblem

Record = dict[str, Any]
"""What is known of one episode."""

Archive = dict[tuple[int, ...], Evaluation]
"""Kept units of every layer -> what that plan measured."""


@dataclass(frozen=True)
class Budgets:
    """What a search or a published method decided.

    Attributes:
        kept: kept units of every layer, in the problem's order.
        plan: layer name -> removed channel indices.
        accuracy: of the plan on the reward split, a fraction.
        soft_accuracy: mean probability of the true class there.
        flops_reduction: of the plan, a fraction.
        measured_evaluations: distinct plans the search measured, the start plan included.
        history: one record an episode.
    """

    kept: list[int]
    plan: dict[str, list[int]]
    accuracy: float
    soft_accuracy: float
    flops_reduction: float
    measured_evaluations: int
    history: list[Record]


def budget_table(problem: PruningProblem, budgets: Budgets) -> dict[str, dict[str, Any]]:
    """Return what ``budgets.json`` holds: for every layer its ratio, units, and kept and removed channels."""
    table = {}
    for group, kept in zip(problem.groups, budgets.kept, strict=True):
        removed = sorted(budgets.plan.get(group.name, []))
        table[group.name] = {
            "pruning_ratio": 1 - kept / group.num_units,
            "channels": group.size,
            "kept_channels": sorted(set(range(group.size)) - set(removed)),
            "removed_channels": removed,
        }
    return table


def archive_to_json(archive: Mapping[tuple[int, ...], Evaluation]) -> list[dict[str, Any]]:
    """Return measured plans as JSON can hold them."""
    return [{"kept": list(kept), **asdict(evaluation)} for kept, evaluation in archive.items()]


def archive_from_json(rows: list[dict[str, Any]] | None) -> Archive:
    """Inverse of :func:`archive_to_json`; nothing for None."""
    return {tuple(row["kept"]): Evaluation(row["accuracy"], row["soft_accuracy"], row["loss"]) for row in rows or []}
