"""Findings of audits, as tables for the terminal."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from benchmarks.common.columns import Column, Columns, Interval, Value, percent_column
from benchmarks.common.table import Table
from benchmarks.studies.audit.runs import AuditRun
from hessian.audit.rank_correlation import RankCorrelation
from hessian.audit.report import Agreement

FEATURES = {
    "magnitude": "magnitude, no repair",
    "producer_obs": "producer-side OBS",
    "magnitude_refit": "magnitude + refit",
    "hobs": "H-OBS + refit",
}


def correlation_table(split: str, runs: Sequence[AuditRun]) -> Table:
    """Rank correlations with the true divergence on one split, mean over the runs.

    Args:
        split: which images.
        runs: the audits on them. A single one is shown with its confidence interval, several with their range.
    """
    first = runs[0].report
    sides = [[getattr(run.report, side) for run in runs] for side in ("price", "exact", "reliability")]
    rows: list[list[Value]] = [
        [name, *(_cell([read(agreement) for agreement in side]) for side in sides)]
        for name, read in _scopes(first.price).items()
    ]
    caption = (
        "Spearman [95 % interval, whole layers resampled]"
        if len(runs) == 1
        else f"Spearman, mean of {len(runs)} runs [smallest, largest]"
    )
    columns: Columns = ("", *(Column(name, ".3f") for name in ("H-OBS price", "exact quadratic", "other half's KL")))
    title = f"Rank correlation with the true KL after repair, {first.images} {split} images"
    return Table(title, columns, rows, caption)


def _scopes(agreement: Agreement) -> dict[str, Callable[[Agreement], RankCorrelation]]:
    scopes: dict[str, Callable[[Agreement], RankCorrelation]] = {
        "single channels": lambda a: a.single_channels,
        "  within layers": lambda a: a.within_layers,
        "cuts of layers": lambda a: a.across_layers,
    }
    for fraction in agreement.by_fraction:
        scopes[f"  {100 * fraction:g} % only"] = lambda a, fraction=fraction: a.by_fraction[fraction]  # type: ignore[misc]
    return scopes


def _cell(correlations: Sequence[RankCorrelation]) -> Interval:
    values = [correlation.value for correlation in correlations]
    low, high = (correlations[0].low, correlations[0].high) if len(values) == 1 else (min(values), max(values))
    return Interval(sum(values) / len(values), *((low, high) if math.isfinite(low) else (None, None)))


def feature_table(split: str, runs: Sequence[AuditRun]) -> Table:
    """Feature errors at half of a layer, mean over layers and runs."""
    errors = {name: np.array([getattr(row, name) for run in runs for row in run.report.features]) for name in FEATURES}
    squares = {name: float(values.mean()) for name, values in errors.items()}
    norms = {name: float(np.sqrt(values).mean()) for name, values in errors.items()}
    below = percent_column("below by", 1, unit=" %")
    columns: Columns = (
        "",
        Column("squared error", ".4f"),
        replace(below, name="H-OBS is below by"),
        Column("norm", ".3f"),
        below,
    )
    rows: list[list[Value]] = [
        [
            label,
            *(
                value
                for side in (squares, norms)
                for value in (side[name], "" if name == "hobs" else 1 - side["hobs"] / side[name])
            ),
        ]
        for name, label in FEATURES.items()
    ]
    title = f"Features of the consumers, half of one layer removed, {split} images"
    return Table(title, columns, rows, "relative to the dense features, mean over layers; norm: of the error")
