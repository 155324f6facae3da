"""Gaussian process regression, kept at a few inducing points: what surrogates are fitted by.

Hyperparameters (width of the bumps, weights of bumps and line, noise) maximise the marginal likelihood of the three
latent metrics together (Rasmussen and Williams, *Gaussian Processes for Machine Learning*, 2006, section 5.4). Inducing
points are chosen greedily by pivoted Cholesky, and the mean is the subset-of-regressors one (section 8.3.1). Rows left
out in five folds say how good predictions are; the folds share the hyperparameters.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from prune_gym.cost.limits import FloatArray

FOLDS = 5
INDUCING = 96
"""Inducing points at most."""

_CONSTANT = 4.0
"""Prior variance of the constant, of standardised metrics."""
_JITTER = 1e-6
_STARTS = np.log([2.0, 1.0, 0.3, 0.1])
_BOUNDS = ((-3.0, 4.0), (-4.0, 4.0), (-5.0, 2.5), (-4.5, 1.0))
_PRIOR = np.array([1.0, 1.0, 1.0, 2.0])
"""Standard deviations of the hyperparameters' logarithms around their starts."""


@dataclass(frozen=True)
class Kernel:
    """Covariance of latent metrics: ``height^2 exp(-|x - y|^2 / 2 width^2) + slope^2 x.y + constant``, and noise.

    Attributes:
        width: of the bumps.
        height: their standard deviation.
        slope: standard deviation of the line's weights.
        noise: standard deviation of measurements.
    """

    width: float
    height: float
    slope: float
    noise: float


def left_out(x: FloatArray, y: FloatArray, kernel: Kernel, seed: int) -> FloatArray:
    """Predictions for every row by a regression on the other folds, float64 [N, C].

    Args:
        x: float64 [N, D], scaled inputs.
        y: float64 [N, C], standardised outputs.
        kernel: of all folds.
        seed: of the folds.
    """
    fold = np.random.default_rng(seed).permutation(len(x)) % FOLDS
    predicted = np.empty_like(y)
    for part in range(FOLDS):
        inside = fold != part
        predicted[~inside] = Regression(x[inside], y[inside], kernel)(x[~inside])
    return predicted


def best_kernel(x: FloatArray, y: FloatArray) -> Kernel:
    """The kernel of largest posterior density: the marginal likelihood times a broad prior around ordinary values.

    Args:
        x: float64 [N, D], scaled inputs.
        y: float64 [N, C], standardised outputs, which share the kernel.
    """
    from scipy.optimize import minimize  # here: who only predicts needs no SciPy

    squares = (x * x).sum(axis=1)
    inner = x @ x.T
    distances = np.maximum(squares[:, None] + squares - 2.0 * inner, 0.0)
    start = _STARTS + np.log([np.sqrt(x.shape[1] / 4.0), 1.0, 1.0, 1.0])
    found = minimize(
        lambda logs: _cost(logs, start, distances, inner, y), start, jac=True, method="L-BFGS-B", bounds=_BOUNDS
    )
    return Kernel(*np.exp(found.x).tolist())


def _cost(
    logs: FloatArray, start: FloatArray, distances: FloatArray, inner: FloatArray, y: FloatArray
) -> tuple[float, FloatArray]:
    """Minus the log posterior density of the kernel's logarithms, up to a constant, and its gradient."""
    width, height, slope, noise = np.exp(2.0 * logs)
    bumps = height * np.exp(-0.5 * distances / width)
    covariance = bumps + slope * inner + _CONSTANT
    covariance[np.diag_indices(len(y))] += noise + _JITTER
    root = np.linalg.cholesky(covariance)
    inverse = np.linalg.inv(covariance)
    weights = inverse @ y
    cost = 0.5 * (y * weights).sum() + y.shape[1] * np.log(root.diagonal()).sum()
    outer = y.shape[1] * inverse - weights @ weights.T
    gradient = np.array(
        [
            0.5 * (outer * bumps * distances).sum() / width,
            (outer * bumps).sum(),
            slope * (outer * inner).sum(),
            noise * outer.trace(),
        ]
    )
    away = (logs - start) / _PRIOR
    return cost + 0.5 * float(away @ away), gradient + away / _PRIOR


class Regression:
    """Bayesian linear regression on the bumps at inducing points, the inputs and a constant.

    Attributes:
        places: float64 [M, D], the inducing points.
        heights: float64 [M, C], of their bumps.
        line: float64 [D + 1, C], of the inputs; the constant last.
    """

    def __init__(self, x: FloatArray, y: FloatArray, kernel: Kernel) -> None:
        self._kernel = kernel
        self.places = x[_pivots(self._bumps(x, x), INDUCING)]
        gram = self._bumps(self.places, self.places)
        gram[np.diag_indices(len(gram))] += _JITTER
        # Bumps whitened by the root of their own covariance have independent weights of variance height^2.
        whiten = np.linalg.inv(np.linalg.cholesky(gram)).T * kernel.height
        design = np.concatenate(
            [self._bumps(x, self.places) @ whiten, kernel.slope * x, np.full((len(x), 1), _CONSTANT**0.5)], axis=1
        )
        ridge = design.T @ design
        ridge[np.diag_indices(len(ridge))] += kernel.noise**2 + _JITTER
        weights = np.linalg.solve(ridge, design.T @ y)
        count = len(self.places)
        self.heights = whiten @ weights[:count]
        self.line = np.concatenate([kernel.slope * weights[count:-1], _CONSTANT**0.5 * weights[-1:]])

    def __call__(self, x: FloatArray) -> FloatArray:
        """Predicted outputs of rows: float64 [B, D] -> [B, C]."""
        return self._bumps(x, self.places) @ self.heights + x @ self.line[:-1] + self.line[-1]

    def _bumps(self, x: FloatArray, y: FloatArray) -> FloatArray:
        distances = (x * x).sum(axis=1)[:, None] + (y * y).sum(axis=1) - 2.0 * x @ y.T
        return np.exp(-0.5 * np.maximum(distances, 0.0) / self._kernel.width**2)


def _pivots(covariance: FloatArray, most: int) -> list[int]:
    """Rows that explain most of a covariance of unit variances, by pivoted Cholesky, most telling first."""
    left = covariance.diagonal().copy()
    roots = np.zeros((0, len(left)))
    chosen: list[int] = []
    while len(chosen) < min(most, len(left)) and left.max() > 1e-4:
        pivot = int(left.argmax())
        root = (covariance[pivot] - roots[:, pivot] @ roots) / np.sqrt(left[pivot])
        roots = np.concatenate([roots, root[None]])
        left = np.maximum(left - root**2, 0.0)
        left[pivot] = 0.0
        chosen.append(pivot)
    return chosen


def scatter(level: FloatArray, errors: FloatArray) -> FloatArray:
    """Standard deviation of errors as ``exp(a + b * level)``, column by column.

    The slope is Harvey's (Econometrica 44, 1976): log squared errors regressed on the level, damped where it is not
    clear; the constant makes the standardised errors' mean square 1.

    Args:
        level: float64 [N, C].
        errors: float64 [N, C].

    Returns:
        float64 [2, C], a and b.
    """
    logs = np.log(errors**2 + 1e-12)
    centred = level - level.mean(axis=0)
    power = np.maximum((centred**2).sum(axis=0), 1e-9)
    slope = (centred * logs).sum(axis=0) / power
    # Log squares of normal errors have variance pi^2 / 2, which says how far the slope may be off.
    damping = slope**2 / (slope**2 + (np.pi**2 / 2.0) / power)
    b = 0.5 * slope * damping
    a = 0.5 * np.log(np.maximum((errors**2 * np.exp(-2.0 * b * level)).mean(axis=0), 1e-12))
    return np.stack([a, b])
