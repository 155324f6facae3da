"""Simulated annealing: a walk that accepts worse plans, less and less often."""

from __future__ import annotations

import numpy as np

from agents.interface.protocol import positive
from agents.model.imagination import Imagination
from agents.search.base import Search


class AnnealingSearch(Search):
    """Simulated annealing (Kirkpatrick et al. 1983) with a geometric temperature.

    A neighbour moves a few layers; one that scores `d` less than where the walk is is accepted with probability
    ``exp(-d / temperature)``.

    Args:
        cooling: measured evaluations over which the temperature falls from the first to the last value.
        temperatures: (first, last), in units of the score (accuracy, a fraction).
        std: standard deviation of the entries that move.
        share: expected share of the layers a neighbour moves; one moves always.
        seed: of the walk.
    """

    def __init__(
        self,
        cooling: int = 100,
        temperatures: tuple[float, float] = (0.01, 0.0002),
        std: float = 0.1,
        share: float = 0.3,
        seed: int = 0,
    ) -> None:
        super().__init__(seed)
        if cooling < 1:
            raise ValueError(f"cooling must be at least 1 evaluation, got {cooling}")
        if not 0 < share <= 1:
            raise ValueError(f"share must lie in (0, 1], got {share}")
        first, last = (positive("temperatures", value) for value in temperatures)
        if first < last:
            raise ValueError(f"temperatures fall, from the first to the last; got {temperatures}")
        self.cooling, self.temperatures = cooling, (first, last)
        self.std, self.share = positive("std", std), share
        self._here: np.ndarray | None = None
        self._score = -np.inf
        self._scale = 1.0

    @property
    def temperature(self) -> float:
        """Temperature now, in units of the score."""
        first, last = self.temperatures
        return float(first * (last / first) ** min(1.0, self.num_timesteps / self.cooling))

    def propose(self, view: Imagination) -> np.ndarray:
        """A neighbour of where the walk is."""
        if self._here is None:
            self._here = np.zeros(len(view.start))
            self._score = float(self.history[0]["score"])
        moved = self.rng.random(len(self._here)) < self.share
        moved[self.rng.integers(len(moved))] = True
        noise = self.rng.normal(0.0, self.std * self._scale, len(moved))
        return np.clip(self._here + moved * noise, -1.0, 1.0)

    def observe(self, action: np.ndarray, score: float) -> None:
        """Go there, or stay."""
        self._scale = 1.0
        if score >= self._score or self.rng.random() < np.exp((score - self._score) / self.temperature):
            self._here, self._score = np.asarray(action, dtype=np.float64), score

    def restart(self) -> None:
        """Take longer steps until a new plan is found."""
        self._scale *= 4.0
