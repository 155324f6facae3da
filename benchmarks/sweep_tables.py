"""The results of a sweep on the terminal: a row for every task, target and method, means over seeds."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

GROUP = ("task", "target_flops_reduction", "method")


def summary_table(results: Sequence[Mapping[str, Any]]) -> Table:
    """Means (and standard deviations) over seeds.

    Args:
        results: contents of ``result.json`` files.
    """
    table = Table(box=SIMPLE_HEAD, caption="test accuracy and FLOPs removed, %; +- standard deviation over seeds")
    for column in ("task", "target", "method"):
        table.add_column(column)
    for column in ("seeds", "FLOPs removed", "dense", "one-shot", "final", "plans measured"):
        table.add_column(column, justify="right")
    groups: dict[tuple[Any, ...], list[Mapping[str, Any]]] = defaultdict(list)
    for result in results:
        groups[tuple(result[key] for key in GROUP)].append(result)
    for (task, target, method), rows in sorted(groups.items()):
        table.add_row(
            *(task, f"{100 * target:g}", method, str(len(rows))),
            f"{100 * statistics.mean(row['flops_reduction'] for row in rows):.1f}",
            *(_percent([row[network]["accuracy"] for row in rows]) for network in ("dense", "one_shot", "final")),
            f"{statistics.mean(row['search']['measured_evaluations'] for row in rows):g}",
        )
    return table


def _percent(values: Sequence[float]) -> str:
    spread = f" +- {100 * statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{100 * statistics.mean(values):.2f}{spread}"
