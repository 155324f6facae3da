"""Evolutionary searches: a distribution over moves that follows the best of its samples."""

from __future__ import annotations

from typing import Any

import numpy as np

from agents.interface.protocol import positive
from agents.model.imagination import Imagination
from agents.search.base import Search

Sample = tuple[np.ndarray, float]


class CEMSearch(Search):
    """The cross-entropy method (Rubinstein 1999) with independent normals.

    After every population the mean becomes that of the elites, and the variance moves towards theirs.

    Args:
        population: samples a generation, at least 2.
        elites: best samples the distribution is fitted to, at least 1 and fewer than the population.
        std: initial standard deviation of an action's entries.
        smoothing: share of the elites' variance in the next one, in (0, 1].
        min_std: the standard deviation does not fall below this.
        seed: of the samples.
    """

    def __init__(
        self,
        population: int = 10,
        elites: int = 3,
        std: float = 0.15,
        smoothing: float = 0.7,
        min_std: float = 0.01,
        seed: int = 0,
    ) -> None:
        super().__init__(seed)
        if not 1 <= elites < population:
            raise ValueError(f"elites must be at least 1 and fewer than the population, got {elites} of {population}")
        if not 0 < smoothing <= 1:
            raise ValueError(f"smoothing must lie in (0, 1], got {smoothing}")
        self.population, self.elites, self.smoothing = population, elites, smoothing
        self.std, self.min_std = positive("std", std), positive("min_std", min_std)
        self._mean: np.ndarray | None = None
        self._deviation: np.ndarray | None = None
        self._samples: list[Sample] = []

    def propose(self, view: Imagination) -> np.ndarray:
        """A sample of the distribution, clipped to [-1, 1]."""
        if self._mean is None or self._deviation is None:
            self._mean = np.zeros(len(view.start))
            self._deviation = np.full(len(view.start), self.std)
        return np.clip(self.rng.normal(self._mean, self._deviation), -1.0, 1.0)

    def observe(self, action: np.ndarray, score: float) -> None:
        """Collect a sample; fit the distribution when the population is full."""
        self._samples.append((action, score))
        if len(self._samples) < self.population:
            return
        ranked = sorted(self._samples, key=lambda sample: -sample[1])
        best = np.array([action for action, score in ranked[: self.elites] if np.isfinite(score)], dtype=np.float64)
        self._samples.clear()
        if not len(best):
            return
        assert self._deviation is not None
        variance = self.smoothing * best.var(axis=0) + (1 - self.smoothing) * self._deviation**2
        self._mean, self._deviation = best.mean(axis=0), np.maximum(np.sqrt(variance), self.min_std)

    def restart(self) -> None:
        """Widen the distribution around its mean to where it began."""
        if self._deviation is not None:
            self._deviation = np.maximum(2 * self._deviation, self.std)
        self._samples.clear()


class CMAESSearch(Search):
    """Covariance matrix adaptation (Hansen & Ostermeier 2001), of the `cmaes` package.

    Args:
        sigma: initial step size.
        population: samples a generation; None: ``4 + floor(3 log L)``.
        seed: of the samples.

    Raises:
        ImportError: `cmaes` is not installed.
    """

    def __init__(self, sigma: float = 0.15, population: int | None = None, seed: int = 0) -> None:
        super().__init__(seed)
        if population is not None and population < 2:
            raise ValueError(f"population must be at least 2, got {population}")
        try:
            import cmaes
        except ImportError as error:
            raise ImportError("CMAESSearch needs the package cmaes: pip install 'prune-gym[search]'") from error
        self._make_strategy = cmaes.CMA
        self.sigma, self.population = positive("sigma", sigma), population
        self._strategy: Any = None
        self._asked: np.ndarray | None = None
        self._samples: list[Sample] = []

    def propose(self, view: Imagination) -> np.ndarray:
        """A sample of the strategy, in [-1, 1].

        Raises:
            ValueError: a network of a single layer, which the method cannot handle.
        """
        if self._strategy is None:
            self._begin(np.zeros(len(view.start)), self.sigma)
        asked: np.ndarray = self._strategy.ask()
        self._asked = asked
        return asked

    def observe(self, action: np.ndarray, score: float) -> None:
        """Collect the sample as it was drawn; update the strategy when the population is full."""
        sample = np.asarray(action, dtype=np.float64) if self._asked is None else self._asked
        self._samples.append((sample, -score))
        self._asked = None
        if len(self._samples) == self._strategy.population_size:
            self._strategy.tell(self._samples)
            self._samples = []

    def restart(self) -> None:
        """Begin again around the mean with the initial step size."""
        self._asked = None
        self._begin(np.clip(self._strategy.mean, -1.0, 1.0), self.sigma)

    def _begin(self, mean: np.ndarray, sigma: float) -> None:
        if len(mean) < 2:
            raise ValueError("CMA-ES needs at least two layers; use RandomSearch for a single one")
        bounds = np.tile([-1.0, 1.0], (len(mean), 1))
        seed = int(self.rng.integers(2**31))
        self._strategy = self._make_strategy(mean, sigma, bounds=bounds, seed=seed, population_size=self.population)
        self._samples = []
