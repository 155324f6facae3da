"""Covariances of reward models: what is believed of plans before any is measured, and how likely that is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, Protocol, get_args

import numpy as np

Trend = Literal["linear", "quadratic"]
"""Polynomial of the inputs that a reward model expects."""


class Covariance(Protocol):
    """A family of kernels, its hyper-parameters in scikit-learn's order and scale (logarithms)."""

    def kernel(self, inputs: int, hyperparameters: np.ndarray | None = None) -> Any:
        """A kernel of scikit-learn for so many inputs; without hyper-parameters, where fits begin."""
        ...

    def scale(self, inputs: np.ndarray) -> np.ndarray:
        """Divisors [D] of the inputs of N measured plans [N, D]."""
        ...

    def log_prior(self, hyperparameters: np.ndarray) -> tuple[float, np.ndarray]:
        """Log density (up to a constant) of hyper-parameters and its gradient, as they enter their fit."""
        ...


@dataclass(frozen=True)
class TrendAndMatern:
    """A polynomial trend, a Matern 3/2 kernel and residual noise; length scales in nats of log loss.

    Attributes:
        trend: the polynomial.

    Raises:
        ValueError: unknown trend.
    """

    trend: Trend = "linear"

    def __post_init__(self) -> None:
        if self.trend not in get_args(Trend):
            raise ValueError(f"'trend' must be one of {', '.join(get_args(Trend))}, got {self.trend!r}")

    def kernel(self, inputs: int, hyperparameters: np.ndarray | None = None) -> Any:
        """See :class:`Covariance`."""
        from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel

        smooth = ConstantKernel(1.0, (1e-2, 1e2)) * Matern(3.0, (0.1, 100.0), nu=1.5)
        kernel = smooth + self._polynomial() + WhiteKernel(1e-2, (1e-6, 1.0))
        return kernel if hyperparameters is None else kernel.clone_with_theta(hyperparameters)

    def _polynomial(self) -> Any:
        from sklearn.gaussian_process.kernels import ConstantKernel, DotProduct

        # The offset of a linear trend only adds a constant, so it is fixed; squared, it weighs linear against quadratic
        # terms and is fitted.
        if self.trend == "linear":
            return ConstantKernel(0.1, (1e-4, 1e2)) * DotProduct(1.0, "fixed")
        return ConstantKernel(0.1, (1e-5, 1e2)) * DotProduct(1.0, (1e-2, 1e2)) ** 2

    def scale(self, inputs: np.ndarray) -> np.ndarray:
        """Ones: inputs stay in nats."""
        return np.ones(inputs.shape[1])

    def log_prior(self, hyperparameters: np.ndarray) -> tuple[float, np.ndarray]:
        """Flat within the kernel's bounds."""
        return 0.0, np.zeros_like(hyperparameters)


LINEAR = TrendAndMatern()
"""Belief of R-SPAR."""


@dataclass(frozen=True)
class DimensionScaled:
    """A squared exponential kernel whose length scales are expected to grow with the root of the number of inputs.

    The prior of Hvarfner, Hellsten & Nardi (2024), which is BoTorch's default: one length scale an input, log-normal
    around ``sqrt(2) + log(D) / 2`` with deviation ``sqrt(3)``, noise log-normal around -4 with deviation 1, outputs of
    unit variance. Inputs are brought to a range of 1 over what was measured. Hyper-parameters are the most probable
    ones, fits begin at the modes of the priors.
    """

    def kernel(self, inputs: int, hyperparameters: np.ndarray | None = None) -> Any:
        """See :class:`Covariance`."""
        from sklearn.gaussian_process.kernels import RBF, WhiteKernel

        modes = np.exp(self._centres(inputs) - self._variances(inputs))
        kernel = RBF(modes[:-1], (2.5e-2, 1e4)) + WhiteKernel(modes[-1], (1e-4, 1e2))
        return kernel if hyperparameters is None else kernel.clone_with_theta(hyperparameters)

    def scale(self, inputs: np.ndarray) -> np.ndarray:
        """Ranges of the inputs; 1 where they do not vary."""
        span = np.ptp(inputs, axis=0)
        return np.where(span > 0, span, 1.0)

    def log_prior(self, hyperparameters: np.ndarray) -> tuple[float, np.ndarray]:
        """Log-normal densities of the length scales and of the noise."""
        count = len(hyperparameters) - 1
        off, variances = hyperparameters - self._centres(count), self._variances(count)
        # A density over values, not over their logarithms: the Jacobian takes the logarithm itself off.
        return float(-(off**2 / (2 * variances) + hyperparameters).sum()), -(off / variances + 1.0)

    @staticmethod
    def _centres(inputs: int) -> np.ndarray:
        return np.append(np.full(inputs, np.sqrt(2.0) + np.log(inputs) / 2), -4.0)

    @staticmethod
    def _variances(inputs: int) -> np.ndarray:
        return np.append(np.full(inputs, 3.0), 1.0)
