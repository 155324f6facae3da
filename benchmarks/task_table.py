"""The table of the named tasks: how large each is, and whether its data and weights are at hand."""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from prune_gym.support.files import cache_dir
from prune_gym.tasks.registry import task_default_target, task_names, task_size, task_status
from prune_gym.tasks.task import TaskStatus

WHOLE_WIDTH = 120
"""Columns of text the whole table takes."""

LEFT_OUT_WHERE_NARROW = ("channels", "parameters")
"""What a narrower terminal does without: names cut short would be no help to anyone."""

HEADINGS = ("layers", "channels", "FLOPs", "parameters", "default target", "dense accuracy", "weights", "data")
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
"""What a user's factory may well raise; no reason not to list the other tasks."""

COLOURS = {"missing": "yellow", "unusable": "red"}


def print_tasks(console: Console) -> None:
    """Print a row for every registered task and, below, how to get what is missing.

    A task of a user's own that cannot be built is shown as such; the others are listed all the same.
    """
    table = Table(title="named tasks", title_justify="left", box=None, pad_edge=False)
    table.add_column("task", no_wrap=True)
    narrow = console.width < WHOLE_WIDTH
    shown = [number for number, heading in enumerate(HEADINGS) if not (narrow and heading in LEFT_OUT_WHERE_NARROW)]
    for number in shown:
        heading = HEADINGS[number]
        table.add_column(heading, justify="left" if heading in ("weights", "data") else "right", min_width=7)
    to_do: dict[str, list[str]] = {}
    for name in task_names():
        cells, status = _row(name)
        table.add_row(name, *(cells[number] for number in shown))
        for line in status.to_do:
            to_do.setdefault(line, []).append(name)
    console.print(table)
    for line, names in to_do.items():
        console.print(f"\n{', '.join(names)}", style="yellow", markup=False, soft_wrap=True)
        console.print(f"  {line}", markup=False, soft_wrap=True)
    console.print(f"\ncache: {cache_dir()}", markup=False, soft_wrap=True)


def _row(name: str) -> tuple[list[str], TaskStatus]:
    status = task_status(name)
    try:
        size, target = task_size(name), task_default_target(name)
    except FACTORY_ERRORS as error:
        status = TaskStatus(None, "unusable", "unusable", (f"{type(error).__name__}: {error}",))
        return [*[""] * 6, *map(_coloured, (status.weights, status.data))], status
    accuracy = "" if status.dense_accuracy is None else f"{status.dense_accuracy:.2%}"
    numbers = [
        str(size.layers),
        f"{size.channels:,}",
        f"{size.flops / 1e6:,.1f} M",
        f"{size.parameters / 1e3:,.1f} k",
        f"{target:g}",
        accuracy,
    ]
    return [*numbers, *map(_coloured, (status.weights, status.data))], status


def _coloured(word: str) -> str:
    colour = COLOURS.get(word)
    return f"[{colour}]{word}[/]" if colour else escape(word)
