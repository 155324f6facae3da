"""Spearman rank correlations over the layers of a network, with bootstrap confidence intervals.

Values of one layer share its structure and its statistics, so they are no independent sample: the interval comes from
resampling whole layers (the cluster bootstrap), percentiles of the resampled correlations.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

RESAMPLES = 2000

Pairs = NDArray[np.float64]
"""Predicted and true values of one layer, float64 [n, 2]."""


@dataclass(frozen=True)
class RankCorrelation:
    """A Spearman correlation and its confidence interval.

    Attributes:
        value: in [-1, 1]; NaN where fewer than two distinct values meet.
        low: lower end of the interval.
        high: upper end.
        count: pairs behind it.
    """

    value: float
    low: float
    high: float
    count: int


def spearman(pairs: Pairs) -> float:
    """Spearman correlation of [n, 2] pairs; NaN where either side has a single distinct value or none."""
    if len(pairs) < 2 or np.ptp(pairs[:, 0]) == 0 or np.ptp(pairs[:, 1]) == 0:
        return math.nan
    ranks = stats.rankdata(pairs, axis=0)
    return float(np.corrcoef(ranks.T)[0, 1])


def pooled(layers: Sequence[Pairs], *, confidence: float = 0.95, seed: int = 0) -> RankCorrelation:
    """Correlation over all pairs of all layers at once: within and between layers.

    Args:
        layers: [n_l, 2] pairs a layer.
        confidence: level of the interval, in (0, 1).
        seed: seed of the resampling.
    """
    return _with_interval(layers, lambda chosen: spearman(np.concatenate(chosen)), confidence, seed)


def mean_within(layers: Sequence[Pairs], *, confidence: float = 0.95, seed: int = 0) -> RankCorrelation:
    """Mean of the layers' own correlations; layers without one (fewer than two distinct values) do not count.

    Arguments as for :func:`pooled`.
    """
    own = {id(pairs): spearman(pairs) for pairs in layers}
    defined = [pairs for pairs in layers if not math.isnan(own[id(pairs)])]
    return _with_interval(
        defined, lambda chosen: float(np.mean([own[id(pairs)] for pairs in chosen])), confidence, seed
    )


def _with_interval(
    layers: Sequence[Pairs], statistic: Callable[[Sequence[Pairs]], float], confidence: float, seed: int
) -> RankCorrelation:
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie in (0, 1), got {confidence}; for 95 % write 0.95")
    value = statistic(layers) if layers else math.nan
    count = sum(len(pairs) for pairs in layers)
    if math.isnan(value) or len(layers) < 2:
        return RankCorrelation(value, math.nan, math.nan, count)
    draws = np.random.default_rng(seed).integers(len(layers), size=(RESAMPLES, len(layers)))
    resampled = [statistic([layers[index] for index in draw]) for draw in draws]
    tail = 50 * (1 - confidence)
    low, high = np.nanpercentile(resampled, [tail, 100 - tail])
    return RankCorrelation(value, float(low), float(high), count)
