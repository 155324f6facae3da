"""The comparison of methods as rows with intervals and tests, a table and a CSV file."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from benchmarks.common.columns import Column, percent_column, points_column
from benchmarks.common.numbers import count, duration, p_value, percent, plural
from benchmarks.common.table import Table
from benchmarks.stat_tests.runs import difference_of, interval_of, summarise_runs
from benchmarks.studies.methods.cells import mean_over, number, stages_of
from benchmarks.studies.methods.config import OURS

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
HEADINGS = {
    "raw": "raw",
    "bn": "+ BN",
    "refit": "+ refit",
    "reconstructed": "+ reconstruction",
    "finetuned": "fine-tuned",
}
"""Stages of repair, and what tables call them."""

CAPTION = (
    "test accuracy in %, mean over seeds [95 % interval]; raw: as the method returns it; + BN: BatchNorm recalibrated; "
    "+ refit: our sequential refit of its selection; fine-tuned: all alike; difference: fine-tuned to "
    f"{REFERENCE}, paired over seeds, in points; p: paired t-test, Holm-corrected"
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
    rows, stages = [], stages_of(cells)
    for target in sorted({cell["target"] for cell in cells}):
        at_target = [cell for cell in cells if cell["target"] == target]
        methods = list(dict.fromkeys(cell["method"] for cell in at_target))
        groups = {method: [cell for cell in at_target if cell["method"] == method] for method in methods}
        accuracies = {stage: _analysis(groups, stage) for stage in stages}
        for method, group in groups.items():
            row: Row = {"target": target, "method": method, "seeds": sorted(cell["seed"] for cell in group)}
            row["accuracy"] = {stage: accuracies[stage][method] for stage in stages}
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
    """Return the accuracies of the rows of one target as a table.

    Args:
        target: FLOPs reduction.
        rows: of :func:`summarise`.
    """
    seeds = max((len(row["seeds"]) for row in rows), default=0)
    dense = statistics.fmean(row["dense_accuracy"] for row in rows) if rows else math.nan
    stages = stages_of(rows)
    *before, finetuned = (percent_column(HEADINGS[stage]) for stage in stages)
    compared = (replace(finetuned, best="max"), points_column("difference"), Column("p", p_value))
    lines = [
        [
            *(row["method"], len(row["seeds"])),
            *(interval_of(row["accuracy"][stage]) for stage in stages),
            *difference_of(row["accuracy"]["finetuned"]),
        ]
        for row in rows
    ]
    title = f"{100 * target:g} % of the FLOPs removed, {plural(seeds, 'seed')}, dense {percent(dense)} %"
    return Table(title, ("method", "seeds", *before, *compared), lines, CAPTION, apart=["unpruned"])


def cost_table(target: float, rows: Sequence[Row]) -> Table:
    """Return size and speed of the networks of one target as a table, and what the methods took to find them."""
    columns = {
        "method": Column("method"),
        "flops_reduction": percent_column("FLOPs cut, %", 1),
        "parameters": Column("parameters", count),
        "speedup": Column("faster", ".2f", unit="x"),
        "evaluations": Column("plans measured", ".0f"),
        "images": Column("images seen", count),
        "backward_passes": Column("backward passes", count),
        "seconds": Column("time", duration),
    }
    lines = [[row[key] for key in columns] for row in rows]
    title = f"{100 * target:g} % of the FLOPs removed: size, speed, and what every method took, means over seeds"
    return Table(title, list(columns.values()), lines)


def comparison_tables(rows: Sequence[Row]) -> list[Table]:
    """Return the rows of :func:`summarise` as two tables a target: accuracies, then sizes, speeds and costs."""
    by_target = {row["target"]: [other for other in rows if other["target"] == row["target"]] for row in rows}
    return [make(*pair) for pair in sorted(by_target.items()) for make in (comparison_table, cost_table)]


def cells_csv(cells: Sequence[Cell]) -> str:
    """Return one line a cell."""
    stages = stages_of(cells)
    columns = ["target", "method", "seed", *(f"accuracy_{stage}" for stage in stages), "dense_accuracy", *NUMBERS]
    rows = [
        [
            *(cell[key] for key in ("target", "method", "seed")),
            *(cell["accuracy"][stage] for stage in stages),
            *(cell[key] for key in ("dense_accuracy", *NUMBERS)),
        ]
        for cell in cells
    ]
    return Table("", columns, rows).csv()
