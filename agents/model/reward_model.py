"""Predicted score of an unmeasured plan: a Gaussian process over the layers' log predicted losses.

A plan's accuracy hardly depends on how its layers are called or which target it was made for, but on how much damage
every layer takes. So the inputs are the layers' log predicted losses, and measurements made for one target inform all
others. The output is the log-odds of the soft accuracy, which has no bounds to respect and close to normal errors.

The covariance is a trend plus a Matern 3/2 kernel (what the trend misses, such as interactions between layers) plus
residual noise: measuring a plan twice gives the same score, but no function of the predicted losses explains it in full
(Rasmussen & Williams 2006, chapters 2 and 4). The trend is a polynomial of the inputs. A linear one, the default, says
that accuracy falls smoothly with every layer's damage. A quadratic one is less surprised by good plans, but a search
that trusts it measures further away and is slower (docs/agents.md). The mean is constant, or what another problem's
model expects: then only the difference between the two problems is left to learn.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import numpy as np

from agents.model.covariance import LINEAR, Covariance


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


class Prior(Protocol):
    """Expectation of what plans score before any of this problem is measured."""

    def expected(self, damages: np.ndarray, kept: np.ndarray | None = None) -> np.ndarray:
        """Log-odds [N] of plans, up to a constant, from their damages [N, D] or their kept units [N, L]."""
        ...


class RewardModel:
    """Gaussian process from log predicted losses to the log-odds of the soft accuracy.

    Args:
        refit_every: the kernel's hyper-parameters are fitted anew whenever this many measurements have come in; in
            between only the posterior is updated.
        prior: what this model starts from while the measurements are likelier with it than without (judged with every
            fit of the hyper-parameters), such as the model of another problem with as many layers; None: a constant.
        covariance: what is believed beyond that.
    """

    def __init__(self, refit_every: int = 8, prior: Prior | None = None, covariance: Covariance = LINEAR) -> None:
        self.refit_every = refit_every
        self.prior = prior
        self.covariance = covariance
        self._inputs: list[np.ndarray] = []
        self._kept: list[np.ndarray] = []
        self._outputs: list[float] = []
        self._hyperparameters: np.ndarray | None = None
        self._fitted_on = 0
        self._prior_holds = True
        self._scale = np.ones(1)
        self._process: Any = None

    def __len__(self) -> int:
        """Number of measurements."""
        return len(self._outputs)

    def add(self, damages: np.ndarray, accuracy: float, kept: np.ndarray | None = None) -> None:
        """Learn from a measured plan.

        Args:
            damages: [D].
            accuracy: what was measured, in [0, 1]: mean probability of the true class, or top-1.
            kept: its kept units [L], where the prior looks at them.
        """
        self._inputs.append(np.asarray(damages, dtype=np.float64))
        self._outputs.append(float(accuracy))
        if kept is not None:
            self._kept.append(np.asarray(kept, dtype=np.int64))
        self._process = None

    def predict(self, damages: np.ndarray, kept: np.ndarray | None = None) -> Prediction:
        """Beliefs about N plans.

        Args:
            damages: [N, D].
            kept: their kept units [N, L], where the prior looks at them.

        Raises:
            ValueError: nothing was measured yet.
        """
        process = self._fitted()
        mean, std = process.predict(self._scaled(damages), return_std=True)
        return Prediction(mean + self._expected_before(damages, kept), std)

    def expected(self, damages: np.ndarray, kept: np.ndarray | None = None) -> np.ndarray:
        """Means alone, log-odds [N] of plans [N, D]: cheaper than :meth:`predict`.

        Raises:
            ValueError: nothing was measured yet.
        """
        return self._fitted().predict(self._scaled(damages)) + self._expected_before(damages, kept)

    def _expected_before(self, damages: np.ndarray, kept: np.ndarray | None) -> np.ndarray | float:
        """Log-odds [N] expected before anything was measured, up to a constant."""
        return self.prior.expected(damages, kept) if self.prior is not None and self._prior_holds else 0.0

    def _fitted(self) -> Any:
        """The posterior on everything measured.

        Raises:
            ValueError: nothing was measured yet.
        """
        if not self._outputs:
            raise ValueError("the reward model has seen no measured plan yet; add one first")
        if self._process is None:
            self._fit()
        return self._process

    def _scaled(self, damages: np.ndarray) -> np.ndarray:
        """Inputs relative to the first measured plan, the point all others were made around."""
        return (damages - self._inputs[0]) / self._scale

    def _fit(self) -> None:
        """Posterior on everything measured; hyper-parameters too when they are due.

        The posterior always comes from the stored hyper-parameters, so a restored model is the same to the last bit.
        """
        from sklearn.gaussian_process import GaussianProcessRegressor

        damages, outputs = np.stack(self._inputs), log_odds(np.array(self._outputs))
        self._scale = self.covariance.scale(damages)
        inputs = self._scaled(damages)
        due = self._hyperparameters is None or len(outputs) >= self._fitted_on + self.refit_every
        before_any = np.zeros(len(outputs))
        if self.prior is not None and (due or self._prior_holds):
            before_any = self.prior.expected(damages, np.stack(self._kept) if self._kept else None)
        if due and len(outputs) >= MIN_MEASUREMENTS:
            before, self._fitted_on = self._hyperparameters, len(outputs)
            evidence, self._hyperparameters = _most_likely(self.covariance, inputs, outputs, before)
            if self.prior is not None:
                with_prior, hyperparameters = _most_likely(self.covariance, inputs, outputs - before_any, before)
                self._prior_holds = with_prior > evidence
                if self._prior_holds:
                    self._hyperparameters = hyperparameters
        kernel = self.covariance.kernel(inputs.shape[1], self._hyperparameters)
        process = GaussianProcessRegressor(kernel, optimizer=None, normalize_y=True)
        self._process = process.fit(inputs, outputs - before_any if self._prior_holds else outputs)

    def state(self) -> dict[str, np.ndarray]:
        """Everything needed to go on, as arrays; of a prior that is no reward model, only whether it holds."""
        hyperparameters = self._hyperparameters if self._hyperparameters is not None else np.zeros(0)
        arrays = {
            "inputs": np.stack(self._inputs) if self._inputs else np.zeros((0, 0)),
            "outputs": np.array(self._outputs),
            "hyperparameters": hyperparameters,
            "fitted_on": np.array([self._fitted_on]),
        }
        if self._kept:
            arrays["kept"] = np.stack(self._kept)
        if isinstance(self.prior, RewardModel):
            arrays |= {PRIOR + name: array for name, array in self.prior.state().items()}
        if self.prior is not None:
            arrays["prior_holds"] = np.array([self._prior_holds])
        return arrays

    def load_state(self, state: Mapping[str, np.ndarray]) -> None:
        """Go on from the :meth:`state` of a model with the same covariance (and prior, unless that is in the state)."""
        before = {name.removeprefix(PRIOR): array for name, array in state.items() if name.startswith(PRIOR)}
        if before:
            self.prior = RewardModel(self.refit_every, covariance=self.covariance)
            self.prior.load_state(before)
        if "prior_holds" in state:
            self._prior_holds = bool(state["prior_holds"][0])
        self._inputs, self._kept = list(state["inputs"]), list(state.get("kept", ()))
        self._outputs = [float(value) for value in state["outputs"]]
        self._hyperparameters = state["hyperparameters"] if len(state["hyperparameters"]) else None
        self._fitted_on = int(state["fitted_on"][0])
        self._process = None


PRIOR = "prior."
"""Before the names of the prior's arrays in :meth:`RewardModel.state`."""
MIN_MEASUREMENTS = 4
"""Fewer measurements say nothing about hyper-parameters."""


def _most_likely(
    covariance: Covariance, inputs: np.ndarray, outputs: np.ndarray, initial: np.ndarray | None
) -> tuple[float, np.ndarray]:
    """Log marginal likelihood (nats) of the best hyper-parameters, and these.

    Args:
        covariance: the kernel, and how likely its hyper-parameters are.
        inputs: [N, D].
        outputs: [N].
        initial: hyper-parameters to start from; None: the kernel's own.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.gaussian_process import GaussianProcessRegressor

    search = GaussianProcessRegressor(
        covariance.kernel(inputs.shape[1], initial), optimizer=partial(_maximise, covariance), normalize_y=True
    )
    with warnings.catch_warnings():
        # A hyper-parameter at its bound is an answer here: a layer without effect has the longest length scale.
        warnings.simplefilter("ignore", ConvergenceWarning)
        fitted = search.fit(inputs, outputs)
    scale = float(np.std(outputs)) or 1.0
    # The likelihood is one of outputs over their deviation. Densities of two models of different outputs compare in
    # log-odds only: the change of variables takes N log(deviation) off.
    evidence = float(fitted.log_marginal_likelihood_value_) - len(outputs) * np.log(scale)
    return evidence, np.array(fitted.kernel_.theta)


def _maximise(
    covariance: Covariance, negative_log_likelihood: Any, initial: np.ndarray, bounds: np.ndarray
) -> tuple[np.ndarray, float]:
    """A few L-BFGS steps from where the last fit ended: the posterior of hyper-parameters is flat near its top."""
    from scipy.optimize import minimize

    def negative_log_posterior(hyperparameters: np.ndarray) -> tuple[float, np.ndarray]:
        value, gradient = negative_log_likelihood(hyperparameters)
        log_prior, slope = covariance.log_prior(hyperparameters)
        return value - log_prior, gradient - slope

    result = minimize(
        negative_log_posterior, initial, jac=True, bounds=bounds, method="L-BFGS-B", options={"maxiter": 20}
    )
    return result.x, float(result.fun)
