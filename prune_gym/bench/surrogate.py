"""A surrogate: what a plan of one network is expected to measure, fitted to the plans of the table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hessian.audit.rank_correlation import spearman
from prune_gym.allocation.loss_curves import LossCurves
from prune_gym.cost.limits import FloatArray, IntArray

FOLDS = 5
FEWEST_PLANS = 40
_EDGE = 1e-4
"""Accuracies are kept this far from 0 and 1 before their log-odds are taken."""


@dataclass(frozen=True, eq=False)
class Surrogate:
    """Ridge regression of log-odds on log predicted losses of the layers, with their squares and products.

    Attributes:
        losses: predicted losses of plans.
        centre: float64 [L], mean log predicted loss of the layers over the fitted plans.
        spread: float64 [L], its standard deviation.
        weights: float64 [1 + L + L * L, 3], of the constant, the layers and their products, to the latent metrics.
        bounds: float64 [2, 3], range of the latent metrics.
        spearman: float64 [3], rank correlation with the metrics of plans left out of the fit, by cross-validation.
        noise: float64 [3], standard deviation of what left-out plans differ by, in latent metrics.
    """

    losses: LossCurves
    centre: FloatArray
    spread: FloatArray
    weights: FloatArray
    bounds: FloatArray
    spearman: FloatArray
    noise: FloatArray

    def predict(self, kept: IntArray) -> FloatArray:
        """Accuracy, soft accuracy and loss of plans on the reward split: kept int [..., L] -> float64 [..., 3]."""
        return metrics_of(self.latent(kept))

    def latent(self, kept: IntArray) -> FloatArray:
        """Log-odds of accuracy and soft accuracy, logarithm of the loss: kept int [..., L] -> float64 [..., 3]."""
        x = (self._layers(kept) - self.centre) / self.spread
        outputs = [((x @ pairs) * x).sum(axis=-1) + x @ line for line, pairs in self._forms]
        return np.clip(np.stack(outputs, axis=-1) + self.weights[0], *self.bounds)

    @cached_property
    def _forms(self) -> list[tuple[FloatArray, FloatArray]]:
        layers = len(self.centre)
        return [(w[1 : 1 + layers], w[1 + layers :].reshape(layers, layers)) for w in self.weights.T]

    def _layers(self, kept: IntArray) -> FloatArray:
        return self.losses.log_of_layers(kept)

    @classmethod
    def fit(cls, curves: Sequence[FloatArray], kept: IntArray, metrics: FloatArray, seed: int = 0) -> Surrogate:
        """Fit to measured plans.

        Args:
            curves: predicted loss curves of the layers.
            kept: int [N, L], the plans; N at least 40.
            metrics: float64 [N, 3], what they measured: accuracy, soft accuracy, loss.
            seed: of the cross-validation's folds.

        Raises:
            ValueError: too few plans, or numbers that are not finite.
        """
        kept, metrics = np.asarray(kept), np.asarray(metrics, dtype=np.float64)
        if len(kept) < FEWEST_PLANS or metrics.shape != (len(kept), 3) or not np.isfinite(metrics).all():
            raise ValueError(
                f"a surrogate needs {FEWEST_PLANS} plans with three finite metrics each; got {metrics.shape}"
            )
        losses = LossCurves(curves)
        x, y = losses.log_of_layers(kept), latent_of(metrics)
        centre, spread = x.mean(axis=0), np.maximum(x.std(axis=0), 1e-3)
        design = _products((x - centre) / spread)
        fold = np.random.default_rng(seed).permutation(len(y)) % FOLDS
        best = None
        for strength in np.geomspace(1e-2, 1e3, 11):
            left_out = np.empty_like(y)
            for part in range(FOLDS):
                inside = fold != part
                left_out[~inside] = design[~inside] @ _ridge(design[inside], y[inside], strength)
            error = float(((left_out - y) ** 2)[:, 1].mean())
            if best is None or error < best[0]:
                best = error, strength, left_out
        assert best is not None
        _, strength, left_out = best
        ranks = [spearman(np.stack([left_out[:, column], y[:, column]], axis=-1)) for column in range(3)]
        margin = 0.5 * y.std(axis=0)
        return cls(
            losses,
            centre,
            spread,
            _ridge(design, y, strength),
            np.stack([y.min(axis=0) - margin, y.max(axis=0) + margin]),
            np.nan_to_num(np.array(ranks)),
            (left_out - y).std(axis=0),
        )

    def arrays(self) -> dict[str, NDArray[Any]]:
        """The fit as arrays, for a file; the curves are not among them."""
        names = ("centre", "spread", "weights", "bounds", "spearman", "noise")
        return {name: np.asarray(getattr(self, name)) for name in names}

    @classmethod
    def restore(cls, curves: Sequence[FloatArray], arrays: Mapping[str, NDArray[Any]]) -> Surrogate:
        """A surrogate back from :meth:`arrays`.

        Raises:
            KeyError: an array is missing.
            ValueError: arrays of shapes that do not fit, or numbers that are not finite.
        """
        layers = len(curves)
        shapes = {
            "centre": (layers,),
            "spread": (layers,),
            "weights": (1 + layers + layers * layers, 3),
            "bounds": (2, 3),
            "spearman": (3,),
            "noise": (3,),
        }
        for name, shape in shapes.items():
            if arrays[name].shape != shape or not np.isfinite(arrays[name]).all():
                raise ValueError(f"surrogate/{name} is finite and of shape {shape}; got shape {arrays[name].shape}")
        return cls(LossCurves(curves), **{name: arrays[name] for name in shapes})


def latent_of(metrics: FloatArray) -> FloatArray:
    """Log-odds of accuracies, logarithm of losses: [..., 3] -> [..., 3]."""
    shares = np.clip(metrics[..., :2], _EDGE, 1.0 - _EDGE)
    return np.concatenate([np.log(shares / (1.0 - shares)), np.log(np.maximum(metrics[..., 2:], _EDGE))], axis=-1)


def metrics_of(latent: FloatArray) -> FloatArray:
    """Accuracy, soft accuracy and loss back from :func:`latent_of`, [..., 3]."""
    metrics = np.exp(latent)
    metrics[..., :2] /= 1.0 + metrics[..., :2]
    return metrics


def _products(x: FloatArray) -> FloatArray:
    layers = x.shape[1]
    pairs = (x[:, :, None] * x[:, None, :]).reshape(len(x), layers * layers)
    return np.concatenate([np.ones((len(x), 1)), x, pairs], axis=1)


def _ridge(design: FloatArray, y: FloatArray, strength: float) -> FloatArray:
    """Weights of least squares with a penalty on all but the constant, by the dual where that is smaller."""
    centre, mean = design[:, 1:].mean(axis=0), y.mean(axis=0)
    inside = design[:, 1:] - centre
    gram = inside @ inside.T + strength * np.eye(len(y))
    weights = inside.T @ np.linalg.solve(gram, y - mean)
    return np.concatenate([(mean - centre @ weights)[None], weights])
