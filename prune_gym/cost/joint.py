"""Several targets at once: a plan costs what its worst budget says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from prune_gym.cost.budgeted import BudgetedCost
from prune_gym.cost.limits import FloatArray, IntArray
from prune_gym.cost.planwise import PlanwiseCost
from prune_gym.cost.quadratic import QuadraticCost, weighted_sum

SCALE = 1e9
"""Cost of a plan that uses up its budget: large, as FLOPs are."""


@dataclass(frozen=True, eq=False)
class Budget:
    """One cost and how much of it may be left.

    Attributes:
        cost: what is limited.
        reduction: to reach, fraction in (0, 1).
    """

    cost: BudgetedCost
    reduction: float

    @property
    def most(self) -> float:
        """Largest cost a plan may have."""
        return (1.0 - self.reduction) * self.cost.dense


class JointCost(PlanwiseCost):
    """The most used up of several budgets; a plan that meets :attr:`target` meets them all.

    Args:
        budgets: at least one.
        weights: share of each in the quadratic form that guides searches; positive ones count.
    """

    quantity = "joint"
    label = "joint"

    def __init__(self, budgets: Sequence[Budget], weights: Sequence[float]) -> None:
        self.budgets, self._weights = tuple(budgets), np.asarray(weights, dtype=np.float64) / np.sum(weights)
        self.groups, self.units = budgets[0].cost.groups, budgets[0].cost.units
        self._dense = float(self.of(self.units))

    @property
    def dense(self) -> float:
        """Cost of the dense network: its use of the scarcest budget, in units of :data:`SCALE`."""
        return self._dense

    @property
    def target(self) -> float:
        """The reduction at which every budget is met."""
        return 1.0 - SCALE / self._dense

    def of(self, kept: IntArray) -> FloatArray:
        """Cost of plans: their use of the most used up budget, kept int [..., L] -> float64 [...]."""
        used = [budget.cost.of(kept) / budget.most for budget in self.budgets]
        return np.asarray(SCALE * np.max(used, axis=0))

    @cached_property
    def form(self) -> QuadraticCost:
        """The weighted sum of the costs' forms."""
        parts = [
            (weight * SCALE / budget.most, budget.cost.form)
            for weight, budget in zip(self._weights, self.budgets, strict=True)
        ]
        return weighted_sum(parts)


def guided(budgets: Sequence[Budget]) -> list[JointCost]:
    """The joint cost with several guides: every budget by itself mostly, and all alike."""
    if len(budgets) == 1:
        return [JointCost(budgets, [1.0])]
    alike = [1.0] * len(budgets)
    mostly = [[10.0 if own == other else 1.0 for other in range(len(budgets))] for own in range(len(budgets))]
    return [JointCost(budgets, weights) for weights in (alike, *mostly)]
