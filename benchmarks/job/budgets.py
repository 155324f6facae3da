"""Decisions of a search or a published method, in memory and in run folders."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import nn

from prune_gym.measuring.evaluation import Evaluation
from prune_gym.problem.problem import PruningProblem
from prune_gym.saving.checkpoint import load_pruned, save_pruned
from prune_gym.tasks.task import PruningTask

Record = dict[str, Any]
"""Everything known of one episode."""

Archive = dict[tuple[int, ...], Evaluation]
"""Kept units of every layer -> what that plan measured."""


@dataclass(frozen=True)
class Budgets:
    """The decision of a search or of a published method.

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


def save_network(path: Path, network: nn.Module, task: PruningTask, problem: PruningProblem, budgets: Budgets) -> None:
    """Write a pruned network and its manifest."""
    save_pruned(
        path,
        network,
        factory=task.model_factory or _copy_of(task),
        factory_kwargs=task.model_kwargs if task.model_factory else {},
        kept={name: row["kept_channels"] for name, row in budget_table(problem, budgets).items()},
        metrics={"flops_reduction": budgets.flops_reduction},
    )


def load_network(path: Path, task: PruningTask) -> nn.Module:
    """Return a network :func:`save_network` wrote, on the CPU."""
    return load_pruned(path, factory=None if task.model_factory else _copy_of(task))


def _copy_of(task: PruningTask) -> Callable[..., nn.Module]:
    """Return the factory of the dense network of a task that names no registered one: a copy of its own."""

    def dense_network() -> nn.Module:
        return copy.deepcopy(task.model).cpu()

    return dense_network
