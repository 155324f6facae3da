"""Costs known plan by plan: the plan's cost decides, a quadratic form close to it guides searches."""

from __future__ import annotations

import numpy as np

from prune_gym.cost.budgeted import BudgetedCost
from prune_gym.cost.limits import CountLimits, FloatArray, IntArray

_BISECTION_STEPS = 60
_FURTHEST = 80.0
"""Shift, in logits, that keeps or removes everything."""


class PlanwiseCost(BudgetedCost):
    """A cost that never falls as units are kept; subclasses say ``of``, ``dense``, and a ``form`` close to it."""

    def each_changed(self, kept: IntArray, other: IntArray) -> FloatArray:
        """Cost of a plan with one layer at a time changed: kept [L], other [L] -> float64 [L]."""
        return self.of(stacked(kept, other))

    def along(self, kept: IntArray, layer: int, counts: IntArray) -> FloatArray:
        """Cost of one plan with one layer's count varied: kept [L], counts [C] -> float64 [C]."""
        plans = np.tile(kept, (len(counts), 1))
        plans[:, layer] = counts
        return self.of(plans)

    def form_target(self, kept: IntArray, target: float) -> float:
        """The reduction of :attr:`form` that leaves a plan as far from the target as its cost is."""
        spare = (1.0 - target) * self.dense - float(self.of(kept))
        return float(1.0 - (float(self.form(kept)) + max(spare, 0.0)) / self.dense)

    def _project(self, odds: FloatArray, targets: FloatArray, limits: CountLimits) -> IntArray:
        """The first plans on a path of shifts that meet the targets ; see :meth:`BudgetedCost.project`."""
        logits = np.log(odds)
        low, high = np.full(len(odds), -_FURTHEST), np.full(len(odds), _FURTHEST)
        for _ in range(_BISECTION_STEPS):
            middle = 0.5 * (low + high)
            enough = self.reduction(limits.from_logits(logits + middle[:, None])) >= targets
            low, high = np.where(enough, low, middle), np.where(enough, middle, high)
            # Once both ends round to the same plans, bisecting on changes nothing.
            if (limits.from_logits(logits + low[:, None]) == limits.from_logits(logits + high[:, None])).all():
                break
        kept = limits.from_logits(logits + high[:, None])
        unrounded = self.units / (1.0 + np.exp(logits + high[:, None]))
        for plan, real, target in zip(kept, unrounded, targets, strict=True):
            self._give_back(plan, real, float(target), limits)
        return kept

    def _give_back(self, plan: IntArray, unrounded: FloatArray, target: float, limits: CountLimits) -> None:
        """Give back units in place while the target holds, the layer rounded down furthest first."""
        while True:
            more = limits.one_more(plan)
            fits = (more > plan) & (1.0 - self.each_changed(plan, more) / self.dense >= target)
            if not fits.any():
                return
            layer = int(np.where(fits, unrounded - plan, -np.inf).argmax())
            plan[layer] = more[layer]


def stacked(plan: IntArray, other: IntArray) -> IntArray:
    """A plan with one layer at a time changed: [L], [L] -> int64 [L, L]."""
    plans = np.tile(plan, (len(plan), 1))
    np.fill_diagonal(plans, other)
    return plans
