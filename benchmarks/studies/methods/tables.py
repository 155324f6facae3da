"""The comparison of methods as rows with intervals and tests, a table and a CSV file."""

from __future__ import annotations

import csv
import io
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from benchmarks.common.table import TextTable
from benchmarks.stat_tests.runs import summarise_runs
from benchmarks.studies.methods.cells import OURS, STAGES, mean_over, number
from hessian.support.files import write_atomic

REFERENCE = OURS[-1]
"""Methods are tested against this one, R-SPAR, where it is among them."""

NUMBERS = (
    "flops",
    "flops_reduction",
    "parameters",
    "speedup",
    "evaluations",
    "images",
    "backward_passes",
    "seconds",
)
HEADINGS = ("raw", "+ BN", "+ refit", "fine-tuned", "p", "FLOPs cut", "parameters", "speed-up", "plans", "seconds")
MARKDOWN_HEADINGS = (
    "method",
    "seeds",
    "raw",
    "+ BN",
    "+ refit",
    "fine-tuned",
    "95 % interval",
    "p",
    "FLOPs cut, %",
    "parameters",
    "speed-up",
    "plans",
    "images",
    "seconds",
)

Cell = Mapping[str, Any]
Row = dict[str, Any]


def summarise(cells: Sequence[Cell]) -> list[Row]:
    """One row a (target, method): means over seeds, spread, bootstrap intervals, paired tests against R-SPAR.

    Args:
        cells: finished cells.

    Returns:
        Rows with ``accuracy`` (stage -> mean, std, confidence_interval, comparison) and means of everything else.
        Intervals and comparisons are None below two seeds; comparisons also for seeds the reference lacks.
    """
    rows = []
    for target in sorted({cell["target"] for cell in cells}):
        at_target = [cell for cell in cells if cell["target"] == target]
        methods = list(dict.fromkeys(cell["method"] for cell in at_target))
        groups = {method: [cell for cell in at_target if cell["method"] == method] for method in methods}
        accuracies = {stage: _analysis(groups, stage) for stage in STAGES}
        for method, group in groups.items():
            row: Row = {"target": target, "method": method, "seeds": sorted(cell["seed"] for cell in group)}
            row["accuracy"] = {stage: accuracies[stage][method] for stage in STAGES}
            row["dense_accuracy"] = mean_over(list(group), "dense_accuracy")
            row.update({key: mean_over(list(group), key) for key in NUMBERS})
            rows.append(row)
    return rows


def _analysis(groups: Mapping[str, Sequence[Cell]], stage: str) -> dict[str, dict[str, Any]]:
    results = {
        method: {cell["seed"]: number(cell, f"accuracy.{stage}") for cell in group} for method, group in groups.items()
    }
    return summarise_runs(results, REFERENCE)


def comparison_table(target: float, rows: Sequence[Row]) -> Table:
    """The rows of one target; accuracies in percent, mean and standard deviation over seeds."""
    seeds = max((len(row["seeds"]) for row in rows), default=0)
    dense = 100 * statistics.fmean(row["dense_accuracy"] for row in rows) if rows else float("nan")
    title = f"{100 * target:g} % of the FLOPs removed, {seeds} seed{'s' * (seeds != 1)}, dense {dense:.1f} %"
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD)
    table.add_column("method", no_wrap=True)
    for heading in HEADINGS:
        table.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(
            row["method"],
            *(_accuracy(row["accuracy"][stage], len(row["seeds"])) for stage in STAGES),
            _p_value(row["accuracy"]["finetuned"]["comparison"]),
            f"{100 * row['flops_reduction']:.1f} %",
            f"{row['parameters'] / 1e3:,.1f} k",
            f"{row['speedup']:.2f} x",
            f"{row['evaluations']:.0f}",
            f"{row['seconds']:.1f}",
        )
    table.caption = f"p: fine-tuned against {REFERENCE}, paired over seeds, Holm-corrected"
    table.caption_justify = "left"
    return table


def _accuracy(entry: Mapping[str, Any], seeds: int) -> str:
    mean = f"{100 * entry['mean']:.1f}"
    return mean if seeds < 2 else f"{mean} ± {100 * entry['std']:.1f}"


def _p_value(comparison: Mapping[str, Any] | None) -> str:
    """The p-value; a dash where all seeds differ alike, which no test can judge."""
    if comparison is None:
        return ""
    return "-" if comparison["t_statistic"] is None else f"{comparison['p_value_holm']:.3f}"


def markdown_tables(rows: Sequence[Row]) -> str:
    """The rows as Markdown, a table a target; accuracies in percent, mean and standard deviation over seeds."""
    return "\n".join(
        _markdown_table(target, [row for row in rows if row["target"] == target])
        for target in sorted({row["target"] for row in rows})
    )


def _markdown_table(target: float, rows: Sequence[Row]) -> str:
    dense = 100 * statistics.fmean(row["dense_accuracy"] for row in rows)
    pruned = [row["accuracy"]["finetuned"]["mean"] for row in rows if row["method"] != "unpruned"]
    best = max(pruned, default=None)
    title = f"{100 * target:g} % of the FLOPs removed (dense {dense:.1f} %)"
    return TextTable(title, MARKDOWN_HEADINGS, [_markdown_cells(row, best) for row in rows]).markdown()


def _markdown_cells(row: Row, best: float | None) -> list[str]:
    """Cells of a method; the best fine-tuned accuracy is set in bold."""
    seeds = len(row["seeds"])
    accuracies = [_accuracy(row["accuracy"][stage], seeds) for stage in STAGES]
    if row["accuracy"]["finetuned"]["mean"] == best:
        accuracies[-1] = f"**{accuracies[-1]}**"
    return [
        row["method"],
        str(seeds),
        *accuracies,
        _interval(row["accuracy"]["finetuned"]["confidence_interval"]),
        _p_value(row["accuracy"]["finetuned"]["comparison"]),
        f"{100 * row['flops_reduction']:.1f}",
        f"{row['parameters'] / 1e3:,.1f} k",
        f"{row['speedup']:.2f}x",
        f"{row['evaluations']:.0f}",
        f"{row['images'] / 1e3:,.1f} k",
        f"{row['seconds']:,.0f}",
    ]


def _interval(interval: Sequence[float] | None) -> str:
    return "" if interval is None else f"{100 * interval[0]:.1f} to {100 * interval[1]:.1f}"


def write_csv(path: Path, cells: Sequence[Cell]) -> None:
    """Write one line a cell, whole or not at all."""
    columns = ["target", "method", "seed", *(f"accuracy_{stage}" for stage in STAGES), "dense_accuracy", *NUMBERS]
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(columns)
    for cell in cells:
        accuracies = [cell["accuracy"][stage] for stage in STAGES]
        rest = [cell[key] for key in ("dense_accuracy", *NUMBERS)]
        writer.writerow([cell["target"], cell["method"], cell["seed"], *accuracies, *rest])
    write_atomic(path, text.getvalue())
