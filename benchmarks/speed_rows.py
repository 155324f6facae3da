"""What speed benchmarks have in common: a row of results, and timing of two sides in one run."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any


@dataclass(frozen=True)
class SpeedRow:
    """One measured number.

    Attributes:
        name: what was measured.
        value: the median.
        unit: its unit.
        baseline: what it is compared with, measured in the same run.
        ratio: value over (or under, as the name says) the baseline's; None where there is no baseline.
    """

    name: str
    value: float
    unit: str
    baseline: str
    ratio: float | None


def interleaved(
    first: Callable[[], Any], second: Callable[[], Any], repeats: int, *, warmups: int = 1
) -> tuple[list[float], list[float]]:
    """Seconds of two callables run in turns, so that a machine's moods meet both alike.

    Args:
        first: one side.
        second: the other side.
        repeats: timed runs of each.
        warmups: untimed runs of each before.
    """
    times: tuple[list[float], list[float]] = ([], [])
    for run in range(-warmups, repeats):
        for side, call in enumerate((first, second)):
            seconds = seconds_of(call)
            if run >= 0:
                times[side].append(seconds)
    return times


def seconds_of(call: Callable[[], Any]) -> float:
    """Wall-clock seconds of one call."""
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def median_ratio(numerators: Sequence[float], denominators: Sequence[float]) -> float:
    """Median of the ratios of runs made next to each other."""
    return median(a / b for a, b in zip(numerators, denominators, strict=True))
