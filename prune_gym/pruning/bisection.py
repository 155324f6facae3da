"""The deepest cut within a drop, by bisection: every plan is measured once, and every measurement narrows the next."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from hessian.support.progress import Progress

PRECISION = 0.01
"""FLOPs reductions closer than this are one."""

FIRST_GUESS = 0.5
"""FLOPs reduction that a bisection looks at first."""


@dataclass
class Bisection:
    """The deepest FLOPs reduction whose drop stays within a bound.

    Attributes:
        drop_of: FLOPs reduction -> drop in points; asked once for each.
        bound: largest drop.
        measured: reduction -> drop, all that was measured.
    """

    drop_of: Callable[[float], float]
    bound: float
    measured: dict[float, float] = field(default_factory=dict)

    def run(self, low: float, high: float, steps: int, progress: Progress | None = None) -> float | None:
        """The deepest measured reduction within the bound.

        Args:
            low: smallest reduction to consider; measured if nothing else is within the bound.
            high: largest.
            steps: measurements at most.
            progress: called with (description, done, total).

        Returns:
            A measured reduction, or None where even ``low`` drops too far.
        """
        for step in range(steps):
            good, bad = self._bracket(low, high)
            if bad - good < PRECISION:
                break
            self.measure(self._next(good, bad))
            if progress is not None:
                progress("measuring cuts", step + 1, steps)
        within = [reduction for reduction, drop in self.measured.items() if drop <= self.bound]
        if within:
            return max(within)
        return low if self.measure(low) <= self.bound else None

    def measure(self, reduction: float) -> float:
        """The drop at a reduction; from memory where it was asked before."""
        if reduction not in self.measured:
            self.measured[reduction] = self.drop_of(reduction)
        return self.measured[reduction]

    def _bracket(self, low: float, high: float) -> tuple[float, float]:
        """The deepest reduction known to be within the bound, and the mildest beyond it that is not."""
        good = max((r for r, drop in self.measured.items() if drop <= self.bound), default=low)
        bad = min((r for r, drop in self.measured.items() if drop > self.bound and r > good), default=high)
        return good, bad

    def _next(self, good: float, bad: float) -> float:
        """Place to measure next: the first guess, else where the drops on either side say the bound is crossed."""
        if not self.measured and good + PRECISION < FIRST_GUESS < bad - PRECISION:
            return FIRST_GUESS
        before, after = self.measured.get(good, 0.0 if good == 0.0 else None), self.measured.get(bad)
        share = 0.5
        if before is not None and after is not None and after > before:
            # Drops grow faster than in proportion, so the crossing lies beyond the straight line's; never too close to
            # an end, or the other would not move.
            share = float(np.clip(np.sqrt(max(self.bound - before, 0.0) / (after - before)), 0.2, 0.8))
        return good + share * (bad - good)
