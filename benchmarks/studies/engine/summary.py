"""Mean and spread of finished runs, by method and target.

    python -m benchmarks.studies.engine.summary DIR [DIR ...] [--json FILE]

Every ``seed_<n>/result.json`` below the folders counts as one run, but for those in an ``ablation`` folder: its
variants are other configurations of one method, and its own table compares them.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from benchmarks.common.command import reports_errors
from benchmarks.common.table import report_console
from prune_gym.support.files import write_json_atomic

Result = dict[str, Any]
Row = dict[str, Any]

STAGES = ("dense", "one_shot", "final")
RUN = ("task", "target_flops_reduction", "method", "seed")
"""Keys that name a run."""
ABLATION = "ablation"
"""Folder of the variants of an ablation."""


@reports_errors(OSError, ValueError)
def main(argv: Sequence[str] | None = None) -> int:
    """Print the table; exit code 2 where there is no finished run, or one that cannot be read."""
    parser = argparse.ArgumentParser(description="Mean and spread of finished runs, by method and target.")
    parser.add_argument("folders", nargs="+", type=Path, metavar="DIR", help="save_dir of a run, or a folder of them")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the rows here")
    arguments = parser.parse_args(argv)
    rows = summarise(read_results(arguments.folders))
    report_console(Console()).print(summary_table(rows))
    if arguments.json is not None:
        write_json_atomic(arguments.json, rows)
    return 0


def read_results(folders: Iterable[Path]) -> list[Result]:
    """Contents of every finished run's ``result.json``, sorted by path; each once, however often its folder is named.

    Raises:
        FileNotFoundError: there is none below a folder.
        ValueError: a file is no result, or two are the same task, target, method and seed, which cannot both count.
    """
    results: dict[Path, Result] = {}
    first: dict[tuple[Any, ...], Path] = {}
    for folder in folders:
        paths = [path for path in sorted(folder.rglob("seed_*/result.json")) if not _of_ablation(path, folder)]
        if not paths:
            raise FileNotFoundError(f"no finished run (seed_*/result.json) below {folder}")
        for path in paths:
            if path.resolve() in results:
                continue
            result = _read(path)
            run = tuple(result[key] for key in RUN)
            other = first.setdefault(run, path)
            if other != path:
                raise ValueError(
                    f"{other} and {path} are both the run {run}: one of them is of another configuration, or the same "
                    "twice; name the folders of one"
                )
            results[path.resolve()] = result
    return list(results.values())


def _of_ablation(path: Path, folder: Path) -> bool:
    return ABLATION in path.relative_to(folder).parts


def _read(path: Path) -> Result:
    try:
        result: Result = json.loads(path.read_text())
        summarise([result])
    except (ValueError, KeyError, TypeError) as error:
        why = f"no entry {error}" if isinstance(error, KeyError) else error
        raise ValueError(f"{path} is damaged, or of another version of the project: {why}") from None
    return result


def summarise(results: Iterable[Result]) -> list[Row]:
    """One row for every (task, target, method).

    Args:
        results: contents of ``result.json`` files.

    Returns:
        Rows with the number of runs, seeds, mean and standard deviation (0 for one run) of test accuracy by stage, each
        run's own in the order of the seeds, and the largest and smallest FLOPs reduction; sorted.
    """
    grouped: dict[tuple[str, float, str], list[Result]] = {}
    for result in results:
        key = (result["task"], result["target_flops_reduction"], result["method"])
        grouped.setdefault(key, []).append(result)
    rows = []
    for (task, target, method), runs in sorted(grouped.items()):
        runs = sorted(runs, key=lambda run: run["seed"])
        row: Row = {"task": task, "target_flops_reduction": target, "method": method, "runs": len(runs)}
        row["seeds"] = [run["seed"] for run in runs]
        for stage in STAGES:
            accuracies = [run[stage]["accuracy"] for run in runs]
            row[f"{stage}_mean"] = statistics.fmean(accuracies)
            row[f"{stage}_std"] = statistics.stdev(accuracies) if len(accuracies) > 1 else 0.0
            row[f"{stage}_accuracies"] = accuracies
        reductions = [run["flops_reduction"] for run in runs]
        row["flops_reduction_min"], row["flops_reduction_max"] = min(reductions), max(reductions)
        row["measured_evaluations"] = [run["search"]["measured_evaluations"] for run in runs]
        rows.append(row)
    return rows


def summary_table(rows: Iterable[Row]) -> Table:
    """The rows as a terminal table, test accuracy in %, mean and standard deviation over runs."""
    table = Table(
        box=SIMPLE_HEAD, title="test accuracy in %, mean ± standard deviation over runs", title_justify="left"
    )
    for heading in ("task", "target", "method"):
        table.add_column(heading, no_wrap=True)
    for heading in ("runs", "dense", "one-shot", "fine-tuned", "FLOPs removed"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        accuracies = [f"{100 * row[f'{stage}_mean']:.2f} ± {100 * row[f'{stage}_std']:.2f}" for stage in STAGES]
        low, high = 100 * row["flops_reduction_min"], 100 * row["flops_reduction_max"]
        removed = f"{low:.1f}" if round(low, 1) == round(high, 1) else f"{low:.1f}-{high:.1f}"
        target = f"{row['target_flops_reduction']:g}"
        table.add_row(row["task"], target, row["method"], str(row["runs"]), *accuracies, removed)
    return table


if __name__ == "__main__":
    sys.exit(main())
