"""Spearman rank correlations over the layers of a network, with bootstrap confidence intervals.

Values of one layer share its structure and its statistics, so they are no independent sample: the interval comes from
resampling whole layers (the cluster bootstrap), percentiles of the resampled correlations.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

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
    """Spearman correlation of [n, 2] pairs, ties at their mean rank; NaN where a side has fewer than two values."""
    return float(_weighted_spearman(pairs, np.ones((1, len(pairs))))[0])


def pooled(layers: Sequence[Pairs], *, confidence: float = 0.95, seed: int = 0) -> RankCorrelation:
    """Correlation over all pairs of all layers at once: within and between layers.

    Args:
        layers: [n_l, 2] pairs a layer.
        confidence: level of the interval, in (0, 1).
        seed: seed of the resampling.
    """
    pairs = np.concatenate(layers)
    owner = np.repeat(np.arange(len(layers)), [len(layer) for layer in layers])
    times = _resampled_layers(len(layers), seed)
    return RankCorrelation(
        spearman(pairs), *_interval(_weighted_spearman(pairs, times[:, owner]), len(layers), confidence), len(pairs)
    )


def mean_within(layers: Sequence[Pairs], *, confidence: float = 0.95, seed: int = 0) -> RankCorrelation:
    """Mean of the layers' own correlations; layers without one (fewer than two distinct values) do not count.

    Arguments as for :func:`pooled`.
    """
    own = np.array([spearman(pairs) for pairs in layers])
    defined = ~np.isnan(own)
    values = own[defined]
    count = sum(len(pairs) for pairs, counts in zip(layers, defined, strict=True) if counts)
    if count == 0:
        return RankCorrelation(math.nan, math.nan, math.nan, 0)
    means = _resampled_layers(len(values), seed) @ values / len(values)
    return RankCorrelation(float(values.mean()), *_interval(means, len(values), confidence), count)


def _weighted_spearman(pairs: Pairs, weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Spearman correlations of pairs [n, 2] repeated as often as weights [R, n] say: [R], NaN where undefined."""
    mean = weights.sum(axis=1, keepdims=True) / 2
    first, second = (_weighted_ranks(side, weights) - mean for side in pairs.T)
    covariance = (weights * first * second).sum(axis=1)
    scale = np.sqrt((weights * first**2).sum(axis=1) * (weights * second**2).sum(axis=1))
    return np.divide(covariance, scale, out=np.full_like(scale, np.nan), where=scale > 0)


def _weighted_ranks(values: NDArray[np.float64], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean rank (less one half) of every value among its repetitions and ties: [n] and [R, n] -> [R, n]."""
    distinct, group = np.unique(values, return_inverse=True)
    totals = weights @ np.eye(len(distinct))[group]
    ranks: NDArray[np.float64] = (totals.cumsum(axis=1) - totals / 2)[:, group]
    return ranks


def _resampled_layers(count: int, seed: int) -> NDArray[np.float64]:
    """Number of times every layer is drawn in every resample, [RESAMPLES, count]."""
    draws = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=RESAMPLES)
    return draws.astype(np.float64)


def _interval(resampled: NDArray[np.float64], num_layers: int, confidence: float) -> tuple[float, float]:
    """Percentile interval; undefined below two layers or where most resamples are.

    Raises:
        ValueError: a confidence level outside (0, 1).
    """
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie in (0, 1), got {confidence}; for 95 % write 0.95")
    defined = resampled[~np.isnan(resampled)]
    if num_layers < 2 or len(defined) < len(resampled) / 2:
        return math.nan, math.nan
    tail = 50 * (1 - confidence)
    low, high = np.percentile(defined, [tail, 100 - tail])
    return float(low), float(high)
