"""What an unmeasured plan would score: a Gaussian process over the layers' log predicted losses.

A plan's accuracy hardly depends on how its layers are called or which target it was made for, but on how much damage
every layer takes. So the inputs are the layers' log predicted losses, and measurements made for one target inform all
others. The output is the log-odds of the soft accuracy, which has no bounds to respect and close to normal errors.

The covariance is a linear kernel (accuracy falls smoothly with every layer's damage) plus a Matern 3/2 kernel (what is
not linear, such as interactions between layers) plus noise (Rasmussen & Williams 2006, chapters 2 and 4).
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np


def log_odds(probability: np.ndarray) -> np.ndarray:
    """log(p / (1 - p)), with p kept off 0 and 1 by 1e-3."""
    clipped = np.clip(probability, 1e-3, 1 - 1e-3)
    return np.log(clipped) - np.log1p(-clipped)


def from_log_odds(value: np.ndarray) -> np.ndarray:
    """Inverse of :func:`log_odds`."""
    return 1.0 / (1.0 + np.exp(-value))


@dataclass(frozen=True)
class Prediction:
    """Gaussian beliefs about N plans, in log-odds of the soft accuracy.

    Attributes:
        mean: [N].
        std: [N].
    """

    mean: np.ndarray
    std: np.ndarray

    def accuracy(self, deviations: np.ndarray | float = 0.0) -> np.ndarray:
        """Accuracy [N] (or broadcast) that lies `deviations` standard deviations above the mean in log-odds."""
        return from_log_odds(self.mean + deviations * self.std)


class RewardModel:
    """Gaussian process from log predicted losses to the log-odds of the soft accuracy.

    Args:
        refit_every: the kernel's hyper-parameters are fitted anew whenever this many measurements have come in; in
            between only the posterior is updated.
    """

    def __init__(self, refit_every: int = 8) -> None:
        self.refit_every = refit_every
        self._inputs: list[np.ndarray] = []
        self._outputs: list[float] = []
        self._hyperparameters: np.ndarray | None = None
        self._fitted_on = 0
        self._process: Any = None

    def __len__(self) -> int:
        """Number of measurements."""
        return len(self._outputs)

    def add(self, damages: np.ndarray, accuracy: float) -> None:
        """Learn from a measured plan.

        Args:
            damages: [L].
            accuracy: what was measured, in [0, 1]: mean probability of the true class, or top-1.
        """
        self._inputs.append(np.asarray(damages, dtype=np.float64))
        self._outputs.append(float(accuracy))
        self._process = None

    def predict(self, damages: np.ndarray) -> Prediction:
        """Beliefs about N plans.

        Args:
            damages: [N, L].

        Raises:
            ValueError: nothing was measured yet.
        """
        if not self._outputs:
            raise ValueError("the reward model has seen no measured plan yet; add one first")
        if self._process is None:
            self._fit()
        mean, std = self._process.predict(self._scaled(damages), return_std=True)
        return Prediction(mean, std)

    def _scaled(self, damages: np.ndarray) -> np.ndarray:
        """Inputs relative to the first measured plan, the point all others were made around."""
        return damages - self._inputs[0]

    def _fit(self) -> None:
        """Posterior on everything measured; hyper-parameters too when they are due.

        The posterior always comes from the stored hyper-parameters, so a restored model is the same to the last bit.
        """
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.gaussian_process import GaussianProcessRegressor

        inputs = self._scaled(np.stack(self._inputs))
        outputs = log_odds(np.array(self._outputs))
        kernel = _kernel()
        if self._hyperparameters is not None:
            kernel = kernel.clone_with_theta(self._hyperparameters)
        due = self._hyperparameters is None or len(outputs) >= self._fitted_on + self.refit_every
        if due and len(outputs) >= MIN_MEASUREMENTS:
            search = GaussianProcessRegressor(kernel, optimizer=_maximise, normalize_y=True)
            with warnings.catch_warnings():
                # A hyper-parameter at its bound is an answer here: a layer without effect has the longest length scale.
                warnings.simplefilter("ignore", ConvergenceWarning)
                fitted = search.fit(inputs, outputs)
            kernel = fitted.kernel_
            self._hyperparameters = np.array(kernel.theta)
            self._fitted_on = len(outputs)
        process = GaussianProcessRegressor(kernel, optimizer=None, normalize_y=True)
        self._process = process.fit(inputs, outputs)

    def state(self) -> dict[str, np.ndarray]:
        """Everything needed to go on, as arrays."""
        hyperparameters = self._hyperparameters if self._hyperparameters is not None else np.zeros(0)
        return {
            "inputs": np.stack(self._inputs) if self._inputs else np.zeros((0, 0)),
            "outputs": np.array(self._outputs),
            "hyperparameters": hyperparameters,
            "fitted_on": np.array([self._fitted_on]),
        }

    def load_state(self, state: dict[str, np.ndarray]) -> None:
        """Go on from :meth:`state`."""
        self._inputs = list(state["inputs"])
        self._outputs = [float(value) for value in state["outputs"]]
        self._hyperparameters = state["hyperparameters"] if len(state["hyperparameters"]) else None
        self._fitted_on = int(state["fitted_on"][0])
        self._process = None


MIN_MEASUREMENTS = 4
"""Fewer measurements say nothing about hyper-parameters."""


def _kernel() -> Any:
    """Prior covariance over standardised log-odds; length scales in nats of log loss."""
    from sklearn.gaussian_process.kernels import ConstantKernel, DotProduct, Matern, WhiteKernel

    smooth = ConstantKernel(1.0, (1e-2, 1e2)) * Matern(3.0, (0.1, 100.0), nu=1.5)
    linear = ConstantKernel(0.1, (1e-4, 1e2)) * DotProduct(1.0, "fixed")
    return smooth + linear + WhiteKernel(1e-2, (1e-6, 1.0))


def _maximise(negative_log_likelihood: Any, initial: np.ndarray, bounds: np.ndarray) -> tuple[np.ndarray, float]:
    """A few L-BFGS steps from where the last fit ended: the likelihood is flat near its top."""
    from scipy.optimize import minimize

    result = minimize(
        negative_log_likelihood, initial, jac=True, bounds=bounds, method="L-BFGS-B", options={"maxiter": 20}
    )
    return result.x, float(result.fun)
