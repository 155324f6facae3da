"""Bias-corrected and accelerated bootstrap intervals (Efron 1987)."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats


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
