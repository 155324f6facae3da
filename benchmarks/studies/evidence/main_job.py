"""Mean and spread of finished runs of the main job, by task, target and method.

    python -m benchmarks.studies.evidence.main_job DIR [DIR ...] [--json FILE]

Every ``seed_<n>/result.json`` below the folders is one run.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.common.arguments import writable
from benchmarks.common.columns import Columns, Spread, Value, percent_column
from benchmarks.common.command import reports_errors
from benchmarks.common.provenance import write_result
from benchmarks.common.table import Table, report_console
from benchmarks.files.models import read_result

STAGES = ("dense", "one_shot", "reconstructed", "final")
"""Networks of a run, in the order in which they come about; a run without a stage has no number of it."""

Row = dict[str, Any]


@reports_errors(ValueError)
def main(argv: Sequence[str] | None = None) -> int:
    """Print and write the table.

    Args:
        argv: arguments; absent means those of the process.

    Returns:
        Exit code: 0 done, 2 no finished run, or one that cannot be read.
    """
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.studies.evidence.main_job", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("folders", nargs="+", type=Path, metavar="DIR", help="save_dir of runs, or a folder of them")
    parser.add_argument("--json", type=writable, metavar="FILE", help="write the rows")
    options = parser.parse_args(argv)
    rows = summarise(finished(options.folders))
    report_console(Console()).print(main_job_table(rows))
    if options.json is not None:
        write_result(options.json, {"rows": rows})
    return 0


def finished(folders: Iterable[Path]) -> list[Mapping[str, Any]]:
    """Results of all finished runs below folders.

    Raises:
        FileNotFoundError: there is none below a folder.
        ValueError: two are the same task, target, method and seed.
    """
    results: dict[tuple[Any, ...], Mapping[str, Any]] = {}
    for folder in folders:
        paths = sorted(folder.rglob("seed_*/result.json"))
        if not paths:
            raise FileNotFoundError(f"no finished run (seed_*/result.json) below {folder}")
        for path in paths:
            result = read_result(path)
            run = tuple(result[key] for key in ("task", "target_flops_reduction", "method", "seed"))
            if run in results:
                raise ValueError(f"{path} is the run {run}, which another folder has, too")
            results[run] = result
    return list(results.values())


def summarise(results: Iterable[Mapping[str, Any]]) -> list[Row]:
    """One row a (task, target, method), sorted.

    Args:
        results: contents of ``result.json`` files.

    Returns:
        Number of runs, seeds, and of every stage the mean, the standard deviation (0 of one run) and every run's test
        accuracy in the order of the seeds; the smallest and the largest FLOPs reduction; plans measured.
    """
    grouped: dict[tuple[str, float, str], list[Mapping[str, Any]]] = {}
    for result in results:
        key = (result["task"], result["target_flops_reduction"], result["method"])
        grouped.setdefault(key, []).append(result)
    return [_row(key, sorted(runs, key=lambda run: run["seed"])) for key, runs in sorted(grouped.items())]


def _row(key: tuple[str, float, str], runs: Sequence[Mapping[str, Any]]) -> Row:
    row: Row = dict(zip(("task", "target_flops_reduction", "method"), key, strict=True))
    row |= {"runs": len(runs), "seeds": [run["seed"] for run in runs]}
    for stage in STAGES:
        if any(run.get(stage) is None for run in runs):
            continue
        accuracies = [run[stage]["accuracy"] for run in runs]
        row[f"{stage}_mean"] = statistics.fmean(accuracies)
        row[f"{stage}_std"] = statistics.stdev(accuracies) if len(accuracies) > 1 else 0.0
        row[f"{stage}_accuracies"] = accuracies
    reductions = [run["flops_reduction"] for run in runs]
    row["flops_reduction_min"], row["flops_reduction_max"] = min(reductions), max(reductions)
    row["measured_evaluations"] = [run["search"]["measured_evaluations"] for run in runs]
    return row


def main_job_table(rows: Sequence[Row]) -> Table:
    """Test accuracy of every stage, mean and deviation over runs."""
    columns: Columns = (
        *("task", percent_column("removed", 0, unit=" %"), "method", "runs"),
        *(percent_column(stage.replace("_", "-")) for stage in STAGES),
    )
    values: list[list[Value]] = [
        [
            *(row["task"], row["target_flops_reduction"], row["method"], row["runs"]),
            *(
                Spread(row[f"{stage}_mean"], row[f"{stage}_std"]) if f"{stage}_mean" in row else None
                for stage in STAGES
            ),
        ]
        for row in rows
    ]
    return Table("", columns, values, "test accuracy, %, mean ± standard deviation over runs")


if __name__ == "__main__":
    sys.exit(main())
