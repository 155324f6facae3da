"""The ablation as rows with differences to the full run, a table, JSON and CSV."""

from __future__ import annotations

import csv
import io
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from benchmarks.ablation.variants import FULL, VARIANTS
from benchmarks.stat_tests.runs import summarise_runs
from hessian.support.files import write_atomic

STAGES = {"one_shot": "one-shot", "final": "fine-tuned"}
"""Stages whose test accuracy is compared, and what tables call them."""

Result = Mapping[str, Any]
Row = dict[str, Any]


def summarise(results: Mapping[str, Sequence[Result]]) -> list[Row]:
    """One row a variant.

    Args:
        results: variant -> contents of its runs' ``result.json``, the same seeds for all.

    Returns:
        Rows with ``variant``, ``summary``, ``seeds``, ``accuracy`` (stage -> what
        :func:`benchmarks.stat_tests.runs.summarise_runs` says, compared with the full run; fractions), ``accuracies``
        (stage -> seed -> fraction), ``flops_reduction`` (mean, smallest, largest), ``parameters`` and
        ``measured_evaluations`` (means).
    """
    samples = {
        stage: {
            name: {run["seed"]: float(run[stage]["accuracy"]) for run in runs} for name, runs in results.items() if runs
        }
        for stage in STAGES
    }
    described = {stage: summarise_runs(values, FULL) for stage, values in samples.items()}
    return [
        {
            "variant": name,
            "summary": VARIANTS[name].summary,
            "seeds": [run["seed"] for run in runs],
            "accuracy": {stage: described[stage][name] for stage in STAGES},
            "accuracies": {
                stage: {str(seed): value for seed, value in samples[stage][name].items()} for stage in STAGES
            },
            "flops_reduction": _spread([run["flops_reduction"] for run in runs]),
            "parameters": statistics.fmean(run["final"]["parameters"] for run in runs),
            "measured_evaluations": statistics.fmean(run["search"]["measured_evaluations"] for run in runs),
        }
        for name, runs in results.items()
        if runs
    ]


def _spread(values: Sequence[float]) -> dict[str, float]:
    return {"mean": statistics.fmean(values), "smallest": min(values), "largest": max(values)}


def ablation_table(rows: Sequence[Row], title: str) -> Table:
    """The rows for a terminal: test accuracy in percent, differences to the full run in points."""
    table = Table(title=title, title_justify="left", caption_justify="left", box=SIMPLE_HEAD)
    table.add_column("variant", no_wrap=True)
    for heading in STAGES.values():
        for column in (heading, "to full", "[95 %]", "p"):
            table.add_column(column.replace("[", "\\["), justify="right", no_wrap=True)
    table.add_column("FLOPs cut", justify="right", no_wrap=True)
    table.add_column("plans", justify="right", no_wrap=True)
    for row in rows:
        cells = [text for stage in STAGES for text in _stage_cells(row["accuracy"][stage], len(row["seeds"]))]
        low, high = (100 * row["flops_reduction"][end] for end in ("smallest", "largest"))
        cut = f"{low:.1f} %" if round(low, 1) == round(high, 1) else f"{low:.1f}-{high:.1f} %"
        table.add_row(row["variant"], *cells, cut, f"{row['measured_evaluations']:.0f}")
    seeds = max((len(row["seeds"]) for row in rows), default=0)
    table.caption = (
        f"test accuracy in %, mean ± standard deviation over {seeds} seed{'s' * (seeds != 1)}; to full: mean paired "
        "difference in points with its BCa bootstrap interval; p: paired t-test, Holm-corrected; -: the same "
        "difference in every seed, which no test can judge"
    )
    return table


def _stage_cells(entry: Mapping[str, Any], seeds: int) -> list[str]:
    mean = f"{100 * entry['mean']:.2f}" + (f" ± {100 * entry['std']:.2f}" if seeds > 1 else "")
    comparison = entry["comparison"]
    if comparison is None:
        return [mean, "", "", ""]
    low, high = (100 * end for end in comparison["difference_interval"])
    difference = 100 * comparison["mean_difference"]
    spread = comparison["t_statistic"] is not None
    p_value = f"{comparison['p_value_holm']:.3f}" if spread else "-"
    return [mean, f"{difference:+.2f}", f"{low:+.2f} {high:+.2f}", p_value]


def write_runs(path: Path, results: Mapping[str, Sequence[Result]]) -> Path:
    """Write one line a run, whole or not at all."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    stages = ("dense", *STAGES)
    writer.writerow(
        ["variant", "seed", *(f"{stage}_accuracy" for stage in stages), "flops_reduction", "parameters", "plans"]
    )
    for name, runs in results.items():
        for run in runs:
            accuracies = [run[stage]["accuracy"] for stage in stages]
            rest = [run["flops_reduction"], run["final"]["parameters"], run["search"]["measured_evaluations"]]
            writer.writerow([name, run["seed"], *accuracies, *rest])
    return write_atomic(path, text.getvalue())
