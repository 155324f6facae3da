"""Pruned networks of a task as files."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

from torch import nn

from benchmarks.budgets import Budgets, budget_table
from prune_gym.checkpoint import load_pruned, save_pruned
from prune_gym.problem import PruningProblem
from prune_gym.pruning_task import PruningTask


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
    """What builds the dense network of a task that names no registered one: a copy of its own."""

    def dense_network() -> nn.Module:
        return copy.deepcopy(task.model).cpu()

    return dense_network
