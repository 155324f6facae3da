"""Which plan meets the targets: a knapsack on the predicted loss curves, or the deepest cut within a drop.

The deepest cut is found by bisection on the FLOPs reduction. Every plan is measured once; what one step measured
narrows the next.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from hessian.support.progress import Progress
from prune_gym.cost.limits import CountLimits, IntArray
from prune_gym.problem.problem import PruningProblem
from prune_gym.pruning.targets import Targets, TargetsNotMetError

PRECISION = 0.01
"""FLOPs reductions closer than this are one in a bisection."""

FIRST_GUESSES = (0.5, 0.75)
"""Where a bisection looks first: most networks' limits are around there."""


@dataclass
class Planner:
    """Plans that meet cost targets.

    Attributes:
        problem: the network, its costs and its predicted losses.
        targets: what to reach.
        limits: legal counts.
    """

    problem: PruningProblem
    targets: Targets
    limits: CountLimits

    def check(self) -> None:
        """Refuse targets that no legal network reaches.

        Raises:
            TargetsNotMetError: with the reachable range.
        """
        reachable = self.problem.cost.largest_reduction(self.limits)
        if self.targets.flops is not None and self.targets.flops > reachable:
            raise TargetsNotMetError(
                f"flops: at most {100 * reachable:.1f} % of the FLOPs of this network can be removed, not "
                f"{100 * self.targets.flops:g} %"
            )

    @property
    def least(self) -> float:
        """The smallest FLOPs reduction to consider."""
        return self.targets.flops or 0.0

    def plan(self, flops_reduction: float) -> IntArray:
        """The best predicted plan at a FLOPs reduction that meets all cost targets, int64 [L]."""
        return self.problem.start_plan("knapsack", flops_reduction, limits=self.limits)


@dataclass
class Bisection:
    """The deepest FLOPs reduction whose drop stays within a bound.

    Attributes:
        drop_of: FLOPs reduction -> drop in points; measured once for each.
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
            self._measure(self._next(good, bad))
            if progress is not None:
                progress("measuring cuts", step + 1, steps)
        within = [reduction for reduction, drop in self.measured.items() if drop <= self.bound]
        if within:
            return max(within)
        return low if self._measure(low) <= self.bound else None

    def _measure(self, reduction: float) -> float:
        if reduction not in self.measured:
            self.measured[reduction] = self.drop_of(reduction)
        return self.measured[reduction]

    def _bracket(self, low: float, high: float) -> tuple[float, float]:
        """The deepest reduction known to be within the bound, and the mildest beyond it that is not."""
        good = max((r for r, drop in self.measured.items() if drop <= self.bound), default=low)
        bad = min((r for r, drop in self.measured.items() if drop > self.bound and r > good), default=high)
        return good, bad

    def _next(self, good: float, bad: float) -> float:
        """Where to measure: a first guess, else where the drops on either side say the bound is crossed."""
        guesses = [guess for guess in FIRST_GUESSES if good + PRECISION < guess < bad - PRECISION]
        if guesses and not self.measured:
            return guesses[0]
        before, after = self.measured.get(good, 0.0 if good == 0.0 else None), self.measured.get(bad)
        share = 0.5
        if before is not None and after is not None and after > before:
            # Drops grow faster than in proportion, so the crossing lies beyond the straight line's; never too close to
            # an end, or the other would not move.
            share = float(np.clip(np.sqrt(max(self.bound - before, 0.0) / (after - before)), 0.2, 0.8))
        return good + share * (bad - good)


def refused(targets: Targets, drop: float, reduction: float, deepest: float | None) -> TargetsNotMetError:
    """The error for cost targets that cost more accuracy than allowed."""
    found = (
        f"the deepest cut within it removes {100 * deepest:.1f} % of the FLOPs" if deepest else "no cut stays within it"
    )
    return TargetsNotMetError(
        f"{targets.described()}: the cut that meets the costs removes {100 * reduction:.1f} % of the FLOPs and loses "
        f"{drop:.2f} points on the held-out images; {found}. Ask for less, or allow a larger drop"
    )
