"""How a report writes numbers: accuracies in percent with their intervals, times, counts."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from benchmarks.report.html import Html, join, tag
from benchmarks.stat_tests.samples import few_seeds_are_stated
from benchmarks.stat_tests.significance import bootstrap_confidence_interval

REFERENCES = ("hobs-rspar", "full", "rspar")
"""What others are compared with, where it is there."""


def percent(fraction: float, digits: int = 2) -> str:
    """Return a fraction in percent, without the sign."""
    return f"{100 * fraction:.{digits}f}"


def with_interval(value: str, low: str | None = None, high: str | None = None) -> Html:
    """Return a number and, if known, its interval."""
    return join([value]) if low is None else join([f"{value} ", tag("span", f"[{low}, {high}]", class_="interval")])


def accuracy(values: Sequence[float]) -> Html:
    """Return mean accuracy in percent with its 95 % bootstrap interval; one run has none."""
    mean = percent(statistics.fmean(values))
    if len(values) < 2:
        return with_interval(mean)
    with few_seeds_are_stated():
        low, high = bootstrap_confidence_interval(values)
    return with_interval(mean, percent(low), percent(high))


def described_accuracy(entry: Mapping[str, Any]) -> Html:
    """Return what ``run_statistics.summarise_runs`` says of one method, in percent."""
    mean, ends = percent(entry["mean"]), entry.get("confidence_interval")
    return with_interval(mean) if ends is None else with_interval(mean, *map(percent, ends))


def difference(comparison: Mapping[str, Any] | None) -> tuple[Html, str]:
    """Return a paired difference in points with its interval, and its Holm-corrected p-value."""
    if comparison is None:
        return Html("–"), "–"
    low, high = comparison["difference_interval"]
    shown = with_interval(points(comparison["mean_difference"]), points(low), points(high))
    tested = comparison.get("t_statistic") is not None and comparison.get("p_value_holm") is not None
    return shown, p_value(comparison["p_value_holm"]) if tested else "–"


def p_value(value: float) -> str:
    """Return a p-value to three digits; never as zero."""
    return "<0.001" if value < 0.001 else f"{value:.3f}"


def points(fraction: float) -> str:
    """Return a difference of fractions in points, signed; never minus zero."""
    return f"{round(100 * fraction, 2) + 0.0:+.2f}"


def span(values: Iterable[float], digits: int = 1) -> str:
    """Return fractions in percent: one number if they agree when written, else smallest and largest."""
    shown = sorted(values)
    low, high = percent(shown[0], digits), percent(shown[-1], digits)
    return low if low == high else f"{low} – {high}"


def count(value: float) -> str:
    """Return a count with a prefix: 12,345,678 -> "12.35 M"."""
    for size, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.2f} {prefix}"
    return f"{value:.0f}"


def seconds(value: float | None) -> str:
    """Return a time in seconds, minutes or hours; a dash where it is not known."""
    if value is None:
        return "–"
    if value < 120:
        return f"{value:.1f} s"
    return f"{value / 60:.1f} min" if value < 7200 else f"{value / 3600:.1f} h"


def times(values: Sequence[float]) -> str:
    """Return the mean of ratios; a dash where there are none."""
    return f"{statistics.fmean(values):.2f}x" if values else "–"
