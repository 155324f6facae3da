"""What audits found, as tables for the terminal."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.table import Table

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
    table = _table(f"Rank correlation with the true KL after repair, {first.images} {split} images")
    for heading in ("H-OBS price", "exact quadratic", "other half's KL"):
        table.add_column(heading, justify="right")
    for name, read in _scopes(first.price).items():
        cells = [
            [read(agreement) for agreement in side]
            for side in (
                [run.report.price for run in runs],
                [run.report.exact for run in runs],
                [run.report.reliability for run in runs],
            )
        ]
        table.add_row(name, *map(_cell, cells))
    table.caption = (
        "Spearman [95 % interval, whole layers resampled]"
        if len(runs) == 1
        else f"Spearman, mean of {len(runs)} runs [smallest, largest]"
    )
    return table


def _scopes(agreement: Agreement) -> dict[str, Callable[[Agreement], RankCorrelation]]:
    scopes: dict[str, Callable[[Agreement], RankCorrelation]] = {
        "single channels": lambda a: a.single_channels,
        "  within layers": lambda a: a.within_layers,
        "cuts of layers": lambda a: a.across_layers,
    }
    for fraction in agreement.by_fraction:
        scopes[f"  {100 * fraction:g} % only"] = lambda a, fraction=fraction: a.by_fraction[fraction]  # type: ignore[misc]
    return scopes


def _cell(correlations: Sequence[RankCorrelation]) -> str:
    values = [correlation.value for correlation in correlations]
    mean = sum(values) / len(values)
    low, high = (correlations[0].low, correlations[0].high) if len(values) == 1 else (min(values), max(values))
    return f"{mean:.3f} [{low:.2f},{high:.2f}]" if math.isfinite(low) else f"{mean:.3f}"


def feature_table(split: str, runs: Sequence[AuditRun]) -> Table:
    """Feature errors at half of a layer, mean over layers and runs."""
    table = _table(f"Features of the consumers, half of one layer removed, {split} images")
    table.add_column("squared error", justify="right")
    table.add_column("H-OBS is below by", justify="right")
    table.add_column("norm of error", justify="right")
    table.add_column("below by", justify="right")
    errors = {name: np.array([getattr(row, name) for run in runs for row in run.report.features]) for name in FEATURES}
    squares = {name: float(values.mean()) for name, values in errors.items()}
    norms = {name: float(np.sqrt(values).mean()) for name, values in errors.items()}
    for name, label in FEATURES.items():
        below = [
            "" if name == "hobs" else f"{100 * (1 - side['hobs'] / side[name]):.1f} %" for side in (squares, norms)
        ]
        table.add_row(label, f"{squares[name]:.4f}", below[0], f"{norms[name]:.3f}", below[1])
    table.caption = "relative to the dense features, mean over layers"
    return table


def _table(title: str) -> Table:
    table = Table(
        title=title,
        title_justify="left",
        caption_justify="left",
        box=SIMPLE_HEAD,
        title_style="bold",
        padding=(0, 1, 0, 0),
    )
    table.add_column("", no_wrap=True, min_width=15)
    return table
