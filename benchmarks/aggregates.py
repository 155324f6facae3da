"""Aggregates over runs of several tasks: interquartile mean, stratified bootstrap, probability of improvement.

Means over a few seeds are fragile, and pooling tasks hides which of them decides. Agarwal et al. (NeurIPS 2021)
therefore resample runs within every task and report the interquartile mean, and how probably one agent beats another
on a task picked at random.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Strata = Sequence[ArrayLike]
"""Results by task: one array [num_runs] a task."""

Statistic = Callable[..., float]


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
    """
    runs = np.sort(np.concatenate([np.asarray(runs, dtype=float) for runs in strata]))
    cut = len(runs) // 4
    return float(runs[cut : len(runs) - cut].mean())


def probability_of_improvement(ours: Strata, theirs: Strata) -> float:
    """Probability that a run of ours beats a run of theirs on a task picked at random; draws count half.

    On one task it is the Mann-Whitney statistic over the number of pairs.

    Args:
        ours: one array [num_runs] a task.
        theirs: the same tasks in the same order; other numbers of runs are fine.

    Returns:
        A fraction in [0, 1].
    """
    chances = []
    for our, their in zip(ours, theirs, strict=True):
        difference = np.asarray(our, dtype=float)[:, None] - np.asarray(their, dtype=float)[None]
        chances.append(float((difference > 0).mean() + 0.5 * (difference == 0).mean()))
    return float(np.mean(chances))


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
    """
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie in (0, 1), got {confidence}; for 95 % write 0.95")
    if n_bootstrap < 1:
        raise ValueError(f"n_bootstrap must be at least 1, got {n_bootstrap}")
    checked = [[_runs(runs) for runs in strata] for strata in samples]
    if not all(checked):
        raise ValueError("a stratified bootstrap needs at least one task with runs")
    generator = np.random.default_rng(seed)
    draws = [statistic(*(_resampled(strata, generator) for strata in checked)) for _ in range(n_bootstrap)]
    low, high = np.quantile(draws, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Estimate(float(statistic(*checked)), float(low), float(high))


def _resampled(strata: Sequence[NDArray[np.float64]], generator: np.random.Generator) -> list[NDArray[np.float64]]:
    return [runs[generator.integers(len(runs), size=len(runs))] for runs in strata]


def _runs(values: ArrayLike) -> NDArray[np.float64]:
    runs = np.asarray(values, dtype=float)
    if runs.ndim != 1 or not runs.size or not np.isfinite(runs).all():
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
        ValueError: lists of different lengths.
    """
    points = np.stack([np.asarray(reductions, dtype=float), np.asarray(accuracies, dtype=float)], axis=1)
    gains = points - np.asarray(reference)
    gains = gains[(gains > 0).all(axis=1)]
    area, highest = 0.0, 0.0
    for reduction, accuracy in gains[np.lexsort((-gains[:, 1], -gains[:, 0]))]:
        area += float(reduction * max(0.0, accuracy - highest))
        highest = max(highest, float(accuracy))
    return area
