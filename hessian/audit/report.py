"""Findings of an audit of prices: single removals, their rank correlations, feature errors."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hessian.audit.feature_error import FeatureErrors
from hessian.audit.rank_correlation import Pairs, RankCorrelation, mean_within, pooled


@dataclass(frozen=True)
class Removal:
    """One removal, predicted and carried out; all values are means over images, nats for cross-entropy.

    Attributes:
        layer: the layer that loses units.
        fraction: share of the layer's units asked for, or None for a single unit.
        units: the units removed.
        predicted: H-OBS price.
        exact: exact Gauss-Newton quadratic of the same weight change.
        kl: KL divergence of the pruned and repaired network's outputs from the dense ones; for a criterion other than
            cross-entropy the Bregman divergence that takes its place.
        loss_change: change of the criterion.
        kl_halves: ``kl`` on every other image, and on those in between.
    """

    layer: str
    fraction: float | None
    units: tuple[int, ...]
    predicted: float
    exact: float
    kl: float
    loss_change: float
    kl_halves: tuple[float, float]


@dataclass(frozen=True)
class Agreement:
    """Rank correlations of one prediction with the true divergence.

    Attributes:
        within_layers: single units, mean over the layers' own correlations.
        single_channels: single units of all layers together.
        across_layers: cuts of all layers and fractions together.
        by_fraction: fraction -> cuts of that fraction alone, one a layer.
    """

    within_layers: RankCorrelation
    single_channels: RankCorrelation
    across_layers: RankCorrelation
    by_fraction: Mapping[float, RankCorrelation]


@dataclass(frozen=True)
class AuditReport:
    """Findings of an audit.

    Attributes:
        images: number of images it was measured on.
        channels: the sampled single units.
        cuts: the cuts, layer by layer.
        price: how the H-OBS prices agree with the true divergence.
        exact: how exact quadratics agree with it.
        reliability: how the true divergence on half of the images agrees with that on the other half.
        features: relative squared feature errors at half of every layer, H-OBS against named baselines.
    """

    images: int
    channels: tuple[Removal, ...]
    cuts: tuple[Removal, ...]
    price: Agreement
    exact: Agreement
    reliability: Agreement
    features: tuple[FeatureErrors, ...]

    @property
    def mean_features(self) -> FeatureErrors:
        """The feature errors averaged over layers, under the layer name ``"mean"``."""
        names = [field.name for field in dataclasses.fields(FeatureErrors) if field.name != "layer"]
        return FeatureErrors(
            "mean", *(sum(getattr(row, name) for row in self.features) / len(self.features) for name in names)
        )

    def to_dict(self) -> dict[str, Any]:
        """Everything as JSON-able values; undefined correlations and intervals are None."""
        result: dict[str, Any] = _jsonable(dataclasses.asdict(self))
        return {**result, "mean_features": _jsonable(dataclasses.asdict(self.mean_features))}


Pair = Callable[[Removal], tuple[float, float]]
"""Two values of a removal whose orders are compared."""


def price_and_truth(removal: Removal) -> tuple[float, float]:
    """The H-OBS price and the true divergence."""
    return removal.predicted, removal.kl


def exact_and_truth(removal: Removal) -> tuple[float, float]:
    """The exact quadratic and the true divergence."""
    return removal.exact, removal.kl


def both_halves(removal: Removal) -> tuple[float, float]:
    """The true divergence on either half of the images."""
    return removal.kl_halves


def agreement(
    channels: Sequence[Removal], cuts: Sequence[Removal], pair: Pair, *, confidence: float, seed: int
) -> Agreement:
    """Rank correlations of a pair of values over the sampled channels and cuts.

    Args:
        channels: single units.
        cuts: cuts of layers.
        pair: which values are compared.
        confidence: level of the intervals, in (0, 1).
        seed: seed of the resampling.
    """
    single, cut = _by_layer(channels, pair), _by_layer(cuts, pair)
    fractions = sorted({removal.fraction for removal in cuts if removal.fraction is not None})
    alone = {
        fraction: _by_layer([removal for removal in cuts if removal.fraction == fraction], pair)
        for fraction in fractions
    }
    return Agreement(
        within_layers=mean_within(single, confidence=confidence, seed=seed),
        single_channels=pooled(single, confidence=confidence, seed=seed),
        across_layers=pooled(cut, confidence=confidence, seed=seed),
        by_fraction={fraction: pooled(layers, confidence=confidence, seed=seed) for fraction, layers in alone.items()},
    )


def _by_layer(removals: Sequence[Removal], pair: Pair) -> list[Pairs]:
    layers = dict.fromkeys(removal.layer for removal in removals)
    return [np.array([pair(removal) for removal in removals if removal.layer == layer]) for layer in layers]


def _jsonable(value: Any) -> Any:
    """Nested containers with NaN and infinities as None and keys as text."""
    if isinstance(value, Mapping):
        return {str(key): _jsonable(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_jsonable(entry) for entry in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
