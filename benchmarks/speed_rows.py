"""What speed benchmarks have in common: a row of results, and timing of two sides in one run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from prune_gym.timing import Timing, compare_interleaved, time_callable


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
    times = in_turns({"first": first, "second": second}, repeats, warmups=warmups)
    return times["first"], times["second"]


def in_turns(sides: Mapping[str, Callable[[], Any]], repeats: int, *, warmups: int = 1) -> dict[str, list[float]]:
    """Seconds of any number of callables run in turns, by name; arguments as for :func:`interleaved`."""
    timings = compare_interleaved(sides, num_iterations=repeats, num_warmup=warmups)
    return {name: _seconds(timing) for name, timing in timings.items()}


def seconds_of(call: Callable[[], Any]) -> float:
    """Wall-clock seconds of one call, on a GPU until its work is done."""
    return _seconds(time_callable(call, num_iterations=1, num_warmup=0))[0]


def _seconds(timing: Timing) -> list[float]:
    return [float(sample) / 1e3 for sample in timing.samples_ms]


def median_ratio(numerators: Sequence[float], denominators: Sequence[float]) -> float:
    """Median of the ratios of runs made next to each other."""
    return median(a / b for a, b in zip(numerators, denominators, strict=True))
