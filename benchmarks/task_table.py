"""The table of the named tasks: how large each is, and whether its data and weights are at hand."""

from __future__ import annotations

from rich.console import Console

from benchmarks.common.columns import Column, Columns, Value, percent_column
from benchmarks.common.numbers import count
from benchmarks.common.table import Table
from prune_gym.support.files import cache_dir
from prune_gym.tasks.registry import task_default_target, task_names, task_size, task_status
from prune_gym.tasks.task import TaskStatus

FACTORY_ERRORS = (
    ArithmeticError,
    AttributeError,
    ImportError,
    LookupError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
)
"""Errors a user's factory may well raise; no reason not to list the other tasks."""

COLOURS = {"missing": "yellow", "unusable": "red"}
COLUMNS: Columns = (
    *("task", "layers", "channels", Column("FLOPs", count), Column("parameters", count), "default target"),
    percent_column("dense accuracy", unit=" %"),
    *(Column(name, align="left", styles=COLOURS) for name in ("weights", "data")),
)


def print_tasks(console: Console) -> None:
    """Print a row for every registered task and, below, how to get what is missing.

    A task of a user's own that cannot be built is shown as such; the others are listed all the same.
    """
    rows: list[list[Value]] = []
    to_do: dict[str, list[str]] = {}
    for name in task_names():
        values, status = _row(name)
        rows.append([name, *values])
        for line in status.to_do:
            to_do.setdefault(line, []).append(name)
    console.print(Table("named tasks", COLUMNS, rows))
    for line, names in to_do.items():
        console.print(f"\n{', '.join(names)}", style="yellow", markup=False, soft_wrap=True)
        console.print(f"  {line}", markup=False, soft_wrap=True)
    console.print(f"\ncache: {cache_dir()}", markup=False, soft_wrap=True)


def _row(name: str) -> tuple[list[Value], TaskStatus]:
    status = task_status(name)
    try:
        size, target = task_size(name), task_default_target(name)
    except FACTORY_ERRORS as error:
        status = TaskStatus(None, "unusable", "unusable", (f"{type(error).__name__}: {error}",))
        return [*[""] * 6, status.weights, status.data], status
    numbers = (size.layers, size.channels, size.flops, size.parameters, target)
    accuracy = "" if status.dense_accuracy is None else status.dense_accuracy
    return [*numbers, accuracy, status.weights, status.data], status
