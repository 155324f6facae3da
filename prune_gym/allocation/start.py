"""Start plans: where a search begins, and what the agent's action 0 stays at."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from hessian.support.names import unknown
from prune_gym.allocation.knapsack import knapsack
from prune_gym.cost.budgeted import BudgetedCost
from prune_gym.cost.limits import CountLimits, FloatArray, IntArray

START_NAMES = ("knapsack", "uniform")
"""Start plans :meth:`StartPlans.plan` knows."""


class StartPlans:
    """Start plans of one network, each computed once."""

    def __init__(self) -> None:
        self._known: dict[tuple[Any, ...], IntArray] = {}

    def plan(
        self, start: str, curves: Sequence[FloatArray], cost: BudgetedCost, target: float, limits: CountLimits
    ) -> IntArray:
        """Plan on a target, int64 [L], a copy; ``cost.reduction(plan) >= target``.

        Args:
            start: ``"knapsack"`` (least summed predicted loss) or ``"uniform"`` (equal ratios).
            curves: predicted loss curves of the layers.
            cost: what the target limits.
            target: reduction of the cost.
            limits: legal counts.

        Raises:
            ValueError: unknown start, or a target out of reach.
        """
        if start not in START_NAMES:
            raise ValueError(unknown("start", start, START_NAMES))
        key = (start, float(target), limits.minimum.tobytes(), limits.step.tobytes(), cost)
        if key not in self._known:
            if start == "knapsack":
                self._known[key] = knapsack(curves, cost, target, limits=limits)
            else:
                self._known[key] = cost.project(np.full(len(cost.units), 0.5), target, limits=limits)
        return self._known[key].copy()
