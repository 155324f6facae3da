"""Differences of pairs, and p-values of several of them: the formulas behind :mod:`benchmarks.stat_tests`."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

_CONSTANT_TOLERANCE = 1e-12
"""Differences whose spread is below this fraction of their mean are rounding noise around a constant."""
_RANKED_DIGITS = 9
"""Decimals of differences, relative to the largest, that a rank test tells apart."""


def paired_comparison(differences: NDArray[np.float64], alpha: float) -> dict[str, Any]:
    """Return what :func:`benchmarks.stat_tests.paired_t_test` says of differences.

    Args:
        differences: [num_seeds] method - baseline, finite, at least two.
        alpha: significance level, in (0, 1).
    """
    count = differences.size
    mean = float(differences.mean())
    spread = float(differences.std(ddof=1))
    if spread <= _CONSTANT_TOLERANCE * abs(mean):
        spread = 0.0
    standard_error = spread / math.sqrt(count)
    t_statistic = _signed_ratio(mean, standard_error)
    p_value = float(2 * stats.t.sf(abs(t_statistic), count - 1))
    half_width = float(stats.t.ppf(1 - alpha / 2, count - 1)) * standard_error
    effect = _signed_ratio(mean, spread)
    normality = float(stats.shapiro(differences).pvalue) if count >= 3 and spread > 0 else None
    return {
        "t_statistic": t_statistic,
        "p_value": p_value,
        "significant": p_value < alpha,
        "alpha": alpha,
        "num_pairs": count,
        "degrees_of_freedom": count - 1,
        "mean_difference": mean,
        "confidence_interval": (mean - half_width, mean + half_width),
        "cohens_d": effect,
        "hedges_g": effect * _hedges_factor(count - 1) if count > 2 else None,
        "normality_p_value": normality,
        "normality_ok": None if normality is None else normality >= alpha,
        "wilcoxon_p_value": _wilcoxon_p_value(differences),
    }


def _wilcoxon_p_value(differences: NDArray[np.float64]) -> float:
    """Wilcoxon's test ranks sizes: those that differ by rounding noise alone (0.95 - 0.93, 0.9 - 0.88) are equal."""
    largest = np.abs(differences).max()
    if not largest:
        return 1.0
    return float(stats.wilcoxon(np.round(differences / largest, _RANKED_DIGITS)).pvalue)


def _signed_ratio(mean: float, spread: float) -> float:
    """Return mean / spread, with 0/0 = 0 (no difference at all) and x/0 = +-inf (a difference without spread)."""
    if spread > 0:
        return mean / spread
    return math.copysign(math.inf, mean) if mean else 0.0


def _hedges_factor(degrees_of_freedom: int) -> float:
    """Return the exact small-sample correction J(df) of Hedges (1981), df >= 2."""
    log_ratio = math.lgamma(degrees_of_freedom / 2) - math.lgamma((degrees_of_freedom - 1) / 2)
    return math.exp(log_ratio) / math.sqrt(degrees_of_freedom / 2)


def holm_correction(p_values: ArrayLike) -> NDArray[np.float64]:
    """Return Holm's step-down adjusted p-values (Holm 1979): family-wise error control without assumptions.

    Args:
        p_values: [m] p-values in [0, 1].

    Returns:
        [m] adjusted p-values in the same order; reject where they are <= alpha.

    Raises:
        ValueError: If a p-value lies outside [0, 1].
    """
    values = np.asarray(p_values, dtype=float)
    if values.size and not np.all((values >= 0) & (values <= 1)):
        raise ValueError(f"p-values must lie in [0, 1], got {values.tolist()}")
    order = np.argsort(values, kind="stable")
    steps = values[order] * (values.size - np.arange(values.size))
    adjusted = np.empty_like(values)
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(steps)) if values.size else steps
    return adjusted


def bca_interval(
    sample: NDArray[np.float64],
    confidence: float,
    n_bootstrap: int,
    statistic: Callable[..., Any] = np.mean,
    seed: int | np.random.Generator = 0,
) -> tuple[float, float]:
    """Return what :func:`benchmarks.stat_tests.bootstrap_confidence_interval` does, of a checked sample [num_seeds]."""
    if np.ptp(sample) == 0:
        value = float(statistic(sample))
        return value, value
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", stats.DegenerateDataWarning)
        found = stats.bootstrap(
            (sample,),
            statistic,
            confidence_level=confidence,
            n_resamples=n_bootstrap,
            method="BCa",
            rng=np.random.default_rng(seed),
        )
    low, high = found.confidence_interval
    if not (np.isfinite(low) and np.isfinite(high)):
        low, high = np.quantile(found.bootstrap_distribution, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)
