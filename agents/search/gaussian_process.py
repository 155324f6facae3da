"""Bayesian optimisation: a Gaussian process over log predicted losses, and expected improvement."""

from __future__ import annotations

import numpy as np

from agents.interface.protocol import positive
from agents.model.acquisition import ExpectedImprovement, Proposer
from agents.model.covariance import Covariance, DimensionScaled, Trend, TrendAndMatern
from agents.model.imagination import Imagination
from agents.model.reward_model import RewardModel
from agents.search.base import Search


class GPSearch(Search):
    """Measure where a Gaussian process expects the largest improvement (Jones et al. 1998).

    It believes what R-SPAR's reward model believes (:mod:`agents.model.reward_model`, the same kernel, inputs and fits)
    and maximises the same acquisition over candidates around the best measured plans; where R-SPAR adds samples of its
    policy, it adds as many normal ones around the start plan. What R-SPAR finds beyond it is due to the policy.

    Args:
        samples: normal candidates around the start plan.
        std: their standard deviation.
        candidates: variations of the best measured plans.
        trend: polynomial that the Gaussian process expects, "linear" or "quadratic".
        seed: of the candidates.

    Raises:
        ValueError: fewer than one candidate, or an unknown trend.
    """

    patience = 1

    def __init__(
        self,
        samples: int = 256,
        std: float = 0.2,
        candidates: int = 512,
        trend: Trend = "linear",
        seed: int = 0,
    ) -> None:
        super().__init__(seed)
        self._covariance: Covariance = TrendAndMatern(trend)
        if samples < 1 or candidates < 1:
            raise ValueError(f"samples and candidates must be at least 1, got {samples} and {candidates}")
        self.samples, self.std = samples, positive("std", std)
        self._proposer = Proposer(ExpectedImprovement(), candidates=candidates)

    def reward_model(self) -> RewardModel:
        """The Gaussian process."""
        return RewardModel(covariance=self._covariance)

    def propose(self, view: Imagination) -> np.ndarray:
        """The candidate of the largest expected improvement."""
        samples = np.clip(self.rng.normal(0.0, self.std, (self.samples, len(view.start))), -1.0, 1.0)
        return self._proposer.propose(view, samples.astype(np.float32), self.rng)


class ScaledGPSearch(GPSearch):
    """The same search with a prior made for many dimensions (:class:`agents.model.covariance.DimensionScaled`).

    Args:
        samples: normal candidates around the start plan.
        std: their standard deviation.
        candidates: variations of the best measured plans.
        seed: of the candidates.
    """

    def __init__(self, samples: int = 256, std: float = 0.2, candidates: int = 512, seed: int = 0) -> None:
        super().__init__(samples, std, candidates, seed=seed)
        self._covariance = DimensionScaled()
