"""The ablation as rows with differences to the full run, a table, JSON and CSV."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.ablation.variants import FULL, VARIANTS
from benchmarks.common.columns import Column, Columns, percent_column, points_column
from benchmarks.common.numbers import p_value, plural, span
from benchmarks.common.table import Table
from benchmarks.stat_tests.runs import difference_of, interval_of, summarise_runs

STAGES = {"one_shot": "one-shot", "final": "fine-tuned"}
"""Stages whose test accuracy is compared, and what tables call them."""

Result = Mapping[str, Any]
Row = dict[str, Any]


def summarise(results: Mapping[str, Sequence[Result]]) -> list[Row]:
    """One row a variant.

    Args:
        results: variant -> contents of its runs' ``result.json``, the same seeds for all.

    Returns:
        Rows with ``variant``, ``summary``, ``seeds``, ``test_images`` (None where runs do not say it), ``accuracy``
        (stage -> what :func:`benchmarks.stat_tests.runs.summarise_runs` says, compared with the full run; fractions),
        ``accuracies`` (stage -> seed -> fraction), ``flops_reduction`` (mean, smallest, largest), ``parameters`` and
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
            "test_images": runs[0].get("test_images"),
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
    """Return the table of the rows, test accuracy after every stage beside the difference to the full run."""
    stages = ((percent_column(stage), points_column("to full"), Column("p", p_value)) for stage in STAGES.values())
    columns: Columns = (
        "variant",
        *(column for stage in stages for column in stage),
        "FLOPs cut, %",
        Column("plans", ".0f"),
        Column("what changes", wide=True),
    )
    lines = []
    for row in rows:
        described = [row["accuracy"][stage] for stage in STAGES]
        cells = [cell for entry in described for cell in (interval_of(entry), *difference_of(entry))]
        ends = [row["flops_reduction"][end] for end in ("smallest", "largest")]
        lines.append([row["variant"], *cells, span(ends), row["measured_evaluations"], row["summary"]])
    seeds = plural(max((len(row["seeds"]) for row in rows), default=0), "seed")
    caption = (
        f"test accuracy in %, mean over {seeds} [95 % interval]; to full: mean paired difference in points with its "
        "BCa bootstrap interval; p: paired t-test, Holm-corrected; –: the same difference in every seed, which no test "
        "can judge"
    )
    return Table(title, columns, lines, caption)


def runs_csv(results: Mapping[str, Sequence[Result]]) -> str:
    """Return one line a run."""
    stages = ("dense", *STAGES)
    columns: Columns = (
        "variant",
        "seed",
        *(f"{stage}_accuracy" for stage in stages),
        "flops_reduction",
        "parameters",
        "plans",
    )
    rows = [
        [
            *(name, run["seed"], *(run[stage]["accuracy"] for stage in stages)),
            *(run["flops_reduction"], run["final"]["parameters"], run["search"]["measured_evaluations"]),
        ]
        for name, runs in results.items()
        for run in runs
    ]
    return Table("", columns, rows).csv()
