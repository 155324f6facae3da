"""Values of a table, and the columns that say how they are written."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

NOTHING = "–"
"""Sign for a missing value."""


@dataclass(frozen=True)
class Interval:
    """A number with the ends of its confidence interval, or without where there is none."""

    value: float
    low: float | None = None
    high: float | None = None

    @classmethod
    def of(cls, estimate: Mapping[str, float]) -> Interval:
        """Return the interval of an estimate, a mapping with ``value``, ``low`` and ``high``."""
        return cls(estimate["value"], estimate["low"], estimate["high"])


@dataclass(frozen=True)
class Spread:
    """A mean with its standard deviation, or without where there is one value only."""

    value: float
    std: float | None = None

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Return mean and sample standard deviation of values."""
        return cls(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None)


@dataclass(frozen=True)
class Link:
    """A text that leads somewhere.

    Attributes:
        text: what is read.
        target: where it leads, for a page.
        about: a longer text for those who do not see the row.
    """

    text: str
    target: str
    about: str = ""


Value = float | int | str | Interval | Spread | Link | None


@dataclass(frozen=True)
class Column:
    """A column of a table: its heading, and how its values are written.

    Attributes:
        name: its heading, with the unit where that is said there.
        form: of a number: a format specification or a function; empty means as few digits as it needs.
        scale: numbers are multiplied by it; 100 writes fractions in percent.
        unit: follows every number.
        align: absent means left for the first column and for text that wraps, right for all others.
        best: which number is set in bold, if any.
        wide: long text, which wraps.
        bar: on a page of HTML, a bar behind the number shows the value, a fraction in [0, 1].
        styles: text -> its style on a terminal.
    """

    name: str
    form: str | Callable[[float], str] = ""
    scale: float = 1.0
    unit: str = ""
    align: Literal["left", "right"] | None = None
    best: Literal["max", "min"] | None = None
    wide: bool = False
    bar: bool = False
    styles: Mapping[str, str] = field(default_factory=dict)

    def parts(self, value: Value) -> tuple[str, str, str]:
        """Return how a value is written: the value itself, its uncertainty, and the unit."""
        if value is None:
            return NOTHING, "", ""
        if isinstance(value, Link):
            return value.text, "", ""
        if isinstance(value, str):
            return value, "", ""
        if isinstance(value, Interval):
            known = value.low is not None and value.high is not None
            ends = f" [{self._number(value.low)}, {self._number(value.high)}]" if known else ""
            return self._number(value.value), ends, self.unit
        if isinstance(value, Spread):
            spread = "" if value.std is None else f" ± {self._number(value.std).lstrip('+')}"
            return self._number(value.value), spread, self.unit
        return self._number(value), "", self.unit

    def text(self, value: Value) -> str:
        """Return how a value is written."""
        return "".join(self.parts(value))

    def _number(self, value: Any) -> str:
        scaled = value if self.scale == 1 else value * self.scale
        if callable(self.form):
            return self.form(scaled)
        written = format(scaled, self.form or ("," if isinstance(scaled, int) else "g"))
        # Rounding leaves -0.00 of a small loss, which reads like one.
        return written.replace("-", "+" if "+" in self.form else "", 1) if _is_minus_zero(written) else written


Columns = Sequence[Column | str]
"""Columns of a table; a text is a column of text, or of numbers that need no rounding."""


def percent_column(name: str, digits: int = 2, **options: Any) -> Column:
    """Return a column of fractions that is written in percent, without the sign.

    Args:
        name: its heading.
        digits: after the point.
        **options: other attributes of :class:`Column`.
    """
    return Column(name, f".{digits}f", scale=100, **options)


def points_column(name: str, digits: int = 2) -> Column:
    """Return a column of differences of fractions that is written in points, with their signs."""
    return Column(name, f"+.{digits}f", scale=100)


def size_of(value: Value) -> float | None:
    """Return the number that stands for a value where values are compared; None where there is none."""
    if isinstance(value, (Interval, Spread)):
        return value.value
    return value if isinstance(value, (int, float)) else None


def _is_minus_zero(written: str) -> bool:
    return written.startswith("-") and not written.strip("-0.,")
