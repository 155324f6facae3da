"""Numbers as people read them: counts, times, p-values, ranges of fractions."""

from __future__ import annotations

from collections.abc import Iterable

PREFIXES = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def percent(fraction: float, digits: int = 2) -> str:
    """Return a fraction in percent, without the sign."""
    return f"{100 * fraction:.{digits}f}"


def span(values: Iterable[float], digits: int = 1) -> str:
    """Return fractions in percent: one number if they agree when written, else smallest and largest."""
    shown = sorted(values)
    low, high = percent(shown[0], digits), percent(shown[-1], digits)
    return low if low == high else f"{low} – {high}"


def count(value: float) -> str:
    """Return a count with a prefix: 12,345,678 -> "12.35 M"."""
    for size, prefix in PREFIXES:
        if value >= size:
            return f"{value / size:.2f} {prefix}"
    return f"{value:.0f}"


def duration(seconds: float) -> str:
    """Return a time in seconds, minutes or hours."""
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def p_value(value: float) -> str:
    """Return a p-value to three digits; never as zero."""
    return "<0.001" if value < 0.001 else f"{value:.3f}"


def plural(number: int, what: str) -> str:
    """Return a number with what it counts: "1 run", "2 runs"."""
    return f"{number:,} {what}{'s' * (number != 1)}"
