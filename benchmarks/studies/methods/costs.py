"""Costs of every published method with its defaults: seconds, images, backward passes and measured plans.

    python -m benchmarks.studies.methods.costs [--task digits-resnet20] [--target 0.5] [--methods NAME ...] ...

Processor seconds are those of all threads of the process, so on one thread they are what an idle machine would take.
"""

from __future__ import annotations

import argparse
import sys
import time
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console

from benchmarks.common.arguments import command_parser, one_of
from benchmarks.common.columns import Column, percent_column
from benchmarks.common.command import reports_errors
from benchmarks.common.provenance import write_result
from benchmarks.common.table import Table, report_console
from benchmarks.studies.methods.config import VARIANTS

if TYPE_CHECKING:
    from prune_gym.tasks.task import PruningTask

COLUMNS: dict[str, Column | str] = {
    "method": "method",
    "processor_seconds": Column("processor s", ".1f"),
    "seconds": Column("wall s", ".1f"),
    "images": "images",
    "backward_passes": "backward passes",
    "evaluations": "plans",
    "flops_reduction": percent_column("FLOPs cut", 1, unit=" %"),
}


@reports_errors(ValueError)
def main(argv: Sequence[str] | None = None) -> int:
    """Run every method once with its defaults; exit code 0, or 2 on bad input."""
    options = _parser().parse_args(argv)
    import torch

    from prune_gym.tasks.registry import make_task

    torch.set_num_threads(options.threads)
    task = make_task(options.task)
    about = {"task": options.task, "target": options.target, "threads": options.threads}
    rows: list[dict[str, Any]] = []
    for name in options.methods or method_names():
        rows.append(cost(task, name, options.target))
        if options.json is not None:
            write_result(options.json, {**about, "rows": rows})
    table = Table("", list(COLUMNS.values()), [[row[key] for key in COLUMNS] for row in rows])
    report_console(Console()).print(table)
    return 0


def method_names() -> list[str]:
    """Return all baselines and their variants."""
    import baselines

    return [*baselines.available(), *VARIANTS]


def cost(task: PruningTask, name: str, target: float) -> dict[str, Any]:
    """Prune once with the method's defaults; JSON-able.

    Args:
        task: it needs a train split.
        name: of :func:`method_names`.
        target: FLOPs reduction.

    Raises:
        ValueError: the task has no train split.
    """
    import baselines

    if task.train is None:
        raise ValueError(f"the task {task.name!r} has no train split, which methods learn from")
    registered, options = VARIANTS.get(name, (name, {}))
    started = time.process_time()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a missed target stands in the row
        _, info = baselines.get(registered).prune(
            task.model, task.train, target, ratio_of="flops", validation=task.reward, return_info=True, **options
        )
    return {
        "method": name,
        "processor_seconds": time.process_time() - started,
        "seconds": info.seconds,
        "images": info.images,
        "backward_passes": info.backward_passes,
        "evaluations": info.evaluations,
        "flops_reduction": info.flops_reduction,
    }


def _parser() -> argparse.ArgumentParser:
    module, what = "benchmarks.studies.methods.costs", "What every published method costs with its defaults."
    parser = command_parser(module, what, "task", "threads", "json")
    parser.set_defaults(task="digits-resnet20", threads=1)
    add = parser.add_argument
    add("--target", type=float, default=0.5, help="FLOPs reduction (default: %(default)s)")
    add("--methods", nargs="+", type=one_of("method", method_names), metavar="NAME", help="default: all")
    return parser


if __name__ == "__main__":
    sys.exit(main())
