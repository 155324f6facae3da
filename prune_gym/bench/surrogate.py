"""A surrogate: what a plan of one network is expected to measure, in a few small matrix products.

Inputs are the logarithms of every layer's predicted loss, and of their sum, softened so that differences between small
losses do not matter. The latent metrics (log-odds of accuracies, logarithm of the loss) are a linear function of them
plus bumps: the mean of a Gaussian process with a linear and a squared exponential kernel, kept at a few inducing plans
(:mod:`prune_gym.bench.regression`). Far from all measured plans the bumps vanish and the line, within bounds, remains.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hessian.audit.rank_correlation import spearman
from prune_gym.allocation.loss_curves import LossCurves
from prune_gym.bench.regression import Regression, best_kernel, left_out, scatter
from prune_gym.cost.limits import FloatArray, IntArray
from prune_gym.measuring.monotone import PredictedMetrics, fit

SOFTENING = 10.0
"""Added to predicted losses before the logarithm, in units of the median layer's loss at half its units removed."""

FEWEST_PLANS = 40
"""Plans without which nothing is fitted."""

CHUNK = 512
"""Plans predicted together, few enough for their bumps to stay in the processor's cache."""

_EDGE = 1e-4
"""Accuracies are kept this far from 0 and 1 before their log-odds are taken."""


class LayerInputs:
    """Inputs of a surrogate, looked up by kept counts.

    Args:
        curves: predicted loss curves of the layers.
        centre: float64 [L + 1], subtracted from the inputs.
        scale: the inputs are divided by.
    """

    def __init__(self, curves: Sequence[FloatArray], centre: FloatArray | float = 0.0, scale: float = 1.0) -> None:
        centre = np.broadcast_to(centre, len(curves) + 1)
        middle = float(np.median([curve[len(curve) // 2] for curve in curves]))
        floor = SOFTENING * max(middle, 1e-9)
        tables = [np.append(curve[0], curve[::-1] / floor) for curve in curves]
        # One table for all layers: the entry at offset + kept is the loss of a layer that keeps so many units.
        self._losses = np.concatenate(tables)
        shifts = np.repeat(centre[:-1], [len(table) for table in tables])
        self._logs = (np.log1p(self._losses) - shifts) / scale
        self._centre, self._scale = float(centre[-1]), float(scale)
        self._offsets = np.cumsum([0, *(len(table) for table in tables[:-1])])

    def __call__(self, kept: IntArray) -> FloatArray:
        """Inputs of plans: kept int [..., L] -> float64 [..., L + 1], the last one of the summed loss."""
        places = self._offsets + kept
        inputs = np.empty((*places.shape[:-1], places.shape[-1] + 1))
        inputs[..., :-1] = self._logs[places]
        if places.ndim == 1:
            inputs[-1] = (math.log1p(np.add.reduce(self._losses[places])) - self._centre) / self._scale
        else:
            inputs[..., -1] = (np.log1p(np.add.reduce(self._losses[places], axis=-1)) - self._centre) / self._scale
        return inputs


@dataclass(frozen=True, eq=False)
class Surrogate:
    """The fitted map from plans to metrics; see the module.

    Attributes:
        inputs: what it sees of a plan, centred and scaled.
        centre: float64 [L + 1], subtracted from the inputs.
        scale: float64 [], the inputs' common scale, in which the bumps have width 1.
        places: float64 [M, L + 1], scaled inputs of the inducing plans.
        heights: float64 [M, 3], of their bumps.
        line: float64 [L + 2, 3], weights of the scaled inputs, the constant last.
        bounds: float64 [2, 3], range of the latent metrics.
        noise: float64 [2, 3]; plans that were left out of the fit scatter around their latent metric ``z`` with the
            standard deviation ``exp(noise[0] + noise[1] * z)``.
        spearman: float64 [3], rank correlation with the metrics of plans left out of the fit.
        predicted: the map from log predicted losses alone, fitted to the same plans.
    """

    inputs: LayerInputs
    centre: FloatArray
    scale: FloatArray
    places: FloatArray
    heights: FloatArray
    line: FloatArray
    bounds: FloatArray
    noise: FloatArray
    spearman: FloatArray
    predicted: PredictedMetrics

    def predict(self, kept: IntArray) -> FloatArray:
        """Accuracy, soft accuracy and loss of plans on the reward split: kept int [..., L] -> float64 [..., 3]."""
        return metrics_of(self.latent(kept))

    def latent(self, kept: IntArray) -> FloatArray:
        """Log-odds of accuracy and soft accuracy, logarithm of the loss: kept int [..., L] -> float64 [..., 3]."""
        kept = np.asarray(kept)
        if kept.ndim == 1:
            return self._latent(kept)
        plans = kept.reshape(-1, kept.shape[-1])
        parts = [self._latent(plans[start : start + CHUNK]) for start in range(0, len(plans), CHUNK)]
        return np.concatenate(parts or [np.empty((0, 3))]).reshape(*kept.shape[:-1], 3)

    def noise_of(self, latent: FloatArray) -> FloatArray:
        """Standard deviation of measurements around latent metrics: [..., 3] -> [..., 3]."""
        return np.exp(self.noise[0] + self.noise[1] * np.clip(latent, *self.bounds))

    @classmethod
    def fit(
        cls,
        curves: Sequence[FloatArray],
        kept: IntArray,
        metrics: FloatArray,
        dense: FloatArray | None = None,
        seed: int = 0,
    ) -> Surrogate:
        """Fit to the measured plans of a network.

        Args:
            curves: predicted loss curves of the layers.
            kept: int [N, L], the plans; N at least 40.
            metrics: float64 [N, 3], what they measured: accuracy, soft accuracy, loss.
            dense: float64 [3], the same of the unpruned network, which then counts as a plan.
            seed: of the folds that left-out plans are in.

        Raises:
            ValueError: too few plans, or metrics that are not finite.
        """
        kept, metrics = np.asarray(kept), np.asarray(metrics, dtype=np.float64)
        if len(kept) < FEWEST_PLANS or metrics.shape != (len(kept), 3) or not np.isfinite(metrics).all():
            raise ValueError(f"a surrogate needs {FEWEST_PLANS} plans with three finite scores; got {metrics.shape}")
        if dense is not None:
            kept = np.concatenate([kept, [[len(curve) for curve in curves]]])
            metrics = np.concatenate([metrics, dense[None]])
        raw, y = LayerInputs(curves)(kept), latent_of(metrics)
        centre, mean, deviation = raw.mean(axis=0), y.mean(axis=0), np.maximum(y.std(axis=0), 1e-6)
        spread = max(float((raw - centre).std()), 1e-6)
        x, standard = (raw - centre) / spread, (y - mean) / deviation
        kernel = best_kernel(x, standard)
        final = Regression(x, standard, kernel)
        line = final.line * deviation
        line[-1] += mean
        line[:-1] *= kernel.width
        margin = 0.25 * (y.max(axis=0) - y.min(axis=0))
        bounds = np.stack([y.min(axis=0) - margin, y.max(axis=0) + margin])
        others = np.clip(mean + deviation * left_out(x, standard, kernel, seed), *bounds)
        return cls(
            inputs=LayerInputs(curves, centre, spread * kernel.width),
            centre=centre,
            scale=np.asarray(spread * kernel.width),
            places=final.places / kernel.width,
            heights=final.heights * deviation,
            line=line,
            bounds=bounds,
            noise=scatter(others, y - others),
            spearman=np.nan_to_num([spearman(np.stack(pair, axis=-1)) for pair in zip(others.T, y.T, strict=True)]),
            predicted=fit(LossCurves(curves).log_of_plans(kept), metrics),
        )

    def _latent(self, kept: IntArray) -> FloatArray:
        x = self.inputs(kept)
        exponents = x @ self._products
        exponents += self._lengths
        exponents -= 0.5 * (x.dot(x) if x.ndim == 1 else np.einsum("ij,ij->i", x, x)[:, None])
        bumps = np.exp(exponents, out=exponents)
        latent = bumps @ self.heights + x @ self.line[:-1] + self.line[-1]
        return np.minimum(np.maximum(latent, self.bounds[0]), self.bounds[1])

    @cached_property
    def _products(self) -> FloatArray:
        return np.ascontiguousarray(self.places.T)

    @cached_property
    def _lengths(self) -> FloatArray:
        return -0.5 * (self.places**2).sum(axis=1)

    # ------------------------------------------------------------------ files

    def arrays(self) -> dict[str, NDArray[Any]]:
        """The fit as arrays, for a file; the curves are not among them."""
        known = self.predicted
        fitted = np.array([known.rank_correlation, known.num_measured])
        of_map = {"knots": known.knots, "values": known.values, "fitted": fitted}
        return {name: of_map[name] if name in of_map else getattr(self, name) for name in _shapes(1, 1, 1)}

    @classmethod
    def restore(cls, curves: Sequence[FloatArray], arrays: Mapping[str, NDArray[Any]]) -> Surrogate:
        """A surrogate back from :meth:`arrays`.

        Raises:
            KeyError: an array is missing.
            ValueError: arrays of shapes that do not fit, or numbers that are not finite.
        """
        shapes = _shapes(len(curves), len(arrays["places"]), len(arrays["knots"]))
        for name, shape in shapes.items():
            if arrays[name].shape != shape or not np.isfinite(arrays[name]).all():
                raise ValueError(f"surrogate/{name} is finite and of shape {shape}; got shape {arrays[name].shape}")
        if not float(arrays["scale"]) > 0.0 or (np.diff(arrays["knots"]) <= 0.0).any():
            raise ValueError("surrogate/scale is positive, and surrogate/knots ascend")
        correlation, count = arrays["fitted"].tolist()
        known = PredictedMetrics(arrays["knots"], arrays["values"], correlation, int(count))
        own = {name: arrays[name] for name in shapes if name not in ("knots", "values", "fitted")}
        return cls(LayerInputs(curves, own["centre"], float(own["scale"])), predicted=known, **own)


def _shapes(layers: int, places: int, knots: int) -> dict[str, tuple[int, ...]]:
    return {
        "centre": (layers + 1,),
        "scale": (),
        "places": (places, layers + 1),
        "heights": (places, 3),
        "line": (layers + 2, 3),
        "bounds": (2, 3),
        "noise": (2, 3),
        "spearman": (3,),
        "knots": (knots,),
        "values": (knots, 3),
        "fitted": (2,),
    }


def latent_of(metrics: FloatArray) -> FloatArray:
    """Log-odds of accuracies, logarithm of losses: [..., 3] -> [..., 3]."""
    shares = np.clip(metrics[..., :2], _EDGE, 1.0 - _EDGE)
    return np.concatenate([np.log(shares / (1.0 - shares)), np.log(np.maximum(metrics[..., 2:], _EDGE))], axis=-1)


def metrics_of(latent: FloatArray) -> FloatArray:
    """Accuracy, soft accuracy and loss back from :func:`latent_of`, [..., 3]."""
    if latent.ndim == 1:
        top1, soft, loss = latent.tolist()
        return np.array([1.0 / (1.0 + math.exp(-top1)), 1.0 / (1.0 + math.exp(-soft)), math.exp(loss)])
    metrics = np.exp(latent)
    metrics[..., :2] /= 1.0 + metrics[..., :2]
    return metrics
