"""Aggregates over runs of several tasks: interquartile mean, stratified bootstrap, profiles, chances of improvement.

Means over a few seeds are fragile, and pooling tasks hides which of them decides. Agarwal et al. (NeurIPS 2021)
therefore resample runs within every task and report the interquartile mean, how large a share of runs reaches a
score (the performance profile), and how probably one agent beats another on a task picked at random.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from benchmarks.stat_tests.samples import check_bootstrap, warn_if_few

Strata = Sequence[ArrayLike]
"""Results by task: one array [num_runs] a task."""

Statistic = Callable[..., float]
ArrayStatistic = Callable[..., NDArray[np.float64]]


@dataclass(frozen=True, eq=False)
class Band:
    """A curve with its pointwise bootstrap interval, float64 [...] each.

    Attributes:
        value: of the data.
        low: lower ends.
        high: upper ends.
    """

    value: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]


@dataclass(frozen=True)
class Estimate:
    """A statistic with its bootstrap interval.

    Attributes:
        value: of the data.
        low: lower end.
        high: upper end.
    """

    value: float
    low: float
    high: float


def interquartile_mean(strata: Strata) -> float:
    """Mean of the middle half of all runs, whatever their task.

    Args:
        strata: one array [num_runs] a task.

    Raises:
        ValueError: no runs, or a value that is not finite.
    """
    return float(interquartile_curve(strata))


def interquartile_curve(strata: Strata) -> NDArray[np.float64]:
    """Interquartile mean of curves, point by point: one array [num_runs, ...] a task -> [...].

    Raises:
        ValueError: no task at all.
    """
    if not len(strata):
        raise ValueError("runs of at least one task are needed, got none")
    runs = np.sort(_runs(np.concatenate([np.asarray(runs, dtype=float) for runs in strata])), axis=0)
    cut = len(runs) // 4
    return np.asarray(runs[cut : len(runs) - cut].mean(axis=0))


def probability_of_improvement(ours: Strata, theirs: Strata) -> float:
    """Probability that a run of ours beats a run of theirs on a task picked at random; draws count half.

    On one task it is the Mann-Whitney statistic over the number of pairs.

    Args:
        ours: one array [num_runs] a task.
        theirs: the same tasks in the same order; other numbers of runs are fine.

    Returns:
        A fraction in [0, 1].

    Raises:
        ValueError: different numbers of tasks, or none; a task without runs, or a value that is not finite.
    """
    if len(ours) != len(theirs) or not len(ours):
        raise ValueError(
            f"both sides need runs on the same tasks; got {len(ours)} tasks of ours, {len(theirs)} of theirs"
        )
    chances = []
    for our, their in zip(ours, theirs, strict=True):
        difference = _runs(our)[:, None] - _runs(their)[None]
        chances.append(float((difference > 0).mean() + 0.5 * (difference == 0).mean()))
    return float(np.mean(chances))


def performance_profile(strata: Strata, thresholds: ArrayLike) -> NDArray[np.float64]:
    """Share of runs that score at least a threshold, averaged over tasks (the run-score distribution).

    Intervals: ``stratified_band(lambda runs: performance_profile(runs, thresholds), strata)``.

    Args:
        strata: one array [num_runs] a task, scores comparable across tasks.
        thresholds: [T].

    Returns:
        [T] fractions in [0, 1], falling with the threshold.

    Raises:
        ValueError: no task, a task without runs, or a value that is not finite.
    """
    checked = _checked(strata)
    levels = np.asarray(thresholds, dtype=float)
    return np.mean([(runs[:, None] >= levels).mean(axis=0) for runs in checked], axis=0)


def stratified_bootstrap(
    statistic: Statistic, *samples: Strata, confidence: float = 0.95, n_bootstrap: int = 2000, seed: int = 0
) -> Estimate:
    """Percentile bootstrap interval of a statistic of one or several agents; runs are resampled within every task.

    Args:
        statistic: function of the samples.
        *samples: one per agent.
        confidence: level, in (0, 1).
        n_bootstrap: resamples, >= 1.
        seed: of the resampling.

    Raises:
        ValueError: no task, a task without runs, a value that is not finite, or an argument out of range.

    Warns:
        UserWarning: A task has fewer than 5 runs.
    """
    checked = [_checked(strata) for strata in samples]
    band = _bootstrap(statistic, checked, confidence, n_bootstrap, seed)
    warn_if_few(min(len(runs) for strata in checked for runs in strata))
    return Estimate(float(band.value), float(band.low), float(band.high))


def stratified_band(
    statistic: ArrayStatistic, *samples: Strata, confidence: float = 0.95, n_bootstrap: int = 2000, seed: int = 0
) -> Band:
    """Like :func:`stratified_bootstrap` for a statistic that is a curve; runs may be curves, [num_runs, ...] a task.

    Raises:
        ValueError: no task, a task without runs, a value that is not finite, or an argument out of range.

    Warns:
        UserWarning: A task has fewer than 5 runs.
    """
    checked = [_checked(strata) for strata in samples]
    band = _bootstrap(statistic, checked, confidence, n_bootstrap, seed)
    warn_if_few(min(len(runs) for strata in checked for runs in strata))
    return band


def _bootstrap(
    statistic: Callable[..., Any],
    samples: Sequence[Sequence[NDArray[np.float64]]],
    confidence: float,
    n_bootstrap: int,
    seed: int,
) -> Band:
    check_bootstrap(confidence, n_bootstrap)
    generator = np.random.default_rng(seed)
    draws = [statistic(*(_resampled(strata, generator) for strata in samples)) for _ in range(n_bootstrap)]
    low, high = np.quantile(np.array(draws), [(1 - confidence) / 2, (1 + confidence) / 2], axis=0)
    return Band(np.asarray(statistic(*samples), dtype=float), low, high)


def _resampled(strata: Sequence[NDArray[np.float64]], generator: np.random.Generator) -> list[NDArray[np.float64]]:
    return [runs[generator.integers(len(runs), size=len(runs))] for runs in strata]


def _checked(strata: Strata) -> list[NDArray[np.float64]]:
    if not len(strata):
        raise ValueError("runs of at least one task are needed, got none")
    return [_runs(runs) for runs in strata]


def _runs(values: ArrayLike) -> NDArray[np.float64]:
    runs = np.asarray(values, dtype=float)
    if runs.ndim < 1 or not runs.size or not np.isfinite(runs).all():
        raise ValueError(f"a task's runs are a non-empty list of finite numbers, got {values!r}")
    return runs


def hypervolume(reductions: ArrayLike, accuracies: ArrayLike, reference: tuple[float, float] = (0.0, 0.0)) -> float:
    """Area of (FLOPs reduction, accuracy) that a set of plans dominates, above a reference point.

    Args:
        reductions: [N] FLOPs reductions (fractions).
        accuracies: [N] fractions.
        reference: (reduction, accuracy) below which nothing counts.

    Returns:
        Area; with the default reference a fraction of the unit square.

    Raises:
        ValueError: lists of different lengths, or a value that is not finite.
    """
    points = np.stack([np.asarray(reductions, dtype=float), np.asarray(accuracies, dtype=float)], axis=1)
    if not np.isfinite(points).all():
        raise ValueError(f"plans of a front have finite reductions and accuracies, got {points.tolist()}")
    gains = points - np.asarray(reference)
    gains = gains[(gains > 0).all(axis=1)]
    area, highest = 0.0, 0.0
    for reduction, accuracy in gains[np.lexsort((-gains[:, 1], -gains[:, 0]))]:
        area += float(reduction * max(0.0, accuracy - highest))
        highest = max(highest, float(accuracy))
    return area
