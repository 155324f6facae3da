"""Common parts of speed benchmarks: a row of results, and timing of two sides in one run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from prune_gym.support.timing import Timing, compare_interleaved, time_callable


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
    timings = compare_interleaved({"first": first, "second": second}, num_iterations=repeats, num_warmup=warmups)
    return _seconds(timings["first"]), _seconds(timings["second"])


def seconds_of(call: Callable[[], Any]) -> float:
    """Wall-clock seconds of one call, on a GPU until its work is done."""
    return _seconds(time_callable(call, num_iterations=1, num_warmup=0))[0]


def _seconds(timing: Timing) -> list[float]:
    return [float(sample) / 1e3 for sample in timing.samples_ms]


def median_ratio(numerators: Sequence[float], denominators: Sequence[float]) -> float:
    """Median of the ratios of runs made next to each other."""
    return median(a / b for a, b in zip(numerators, denominators, strict=True))
