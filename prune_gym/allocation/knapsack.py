"""The cheapest plan that meets a target, by predicted loss: a knapsack whose items share their sizes.

Minimise ``sum_l curve_l[removed_l]`` subject to ``FLOPs(kept) <= budget``, or parameters, or latency
(:mod:`prune_gym.cost.budgeted`). Three steps, each exact in what it does, for latency on a quadratic form close to it:

1. For a price ``mu`` on FLOPs, coordinate descent: with all other layers fixed, FLOPs are quadratic in one layer's
   count, so its best count is found by looking at all of them. Bisection on ``mu`` brackets the budget.
2. Repair to the budget: give back what helps most per FLOP, or take away what costs least per FLOP.
3. Exchange: two layers at a time are set to their best pair of counts under the budget
   (:mod:`prune_gym.allocation.exchange`); of several starts the best ends where no pair improves.

Lagrangian relaxation alone leaves a gap when curves are not convex; the exchanges close most of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from prune_gym.allocation.exchange import LOOKS, Exchange, LossTable
from prune_gym.cost.budgeted import BudgetedCost
from prune_gym.cost.limits import CountLimits, FloatArray, IntArray

_PRICE_STEPS = 40
_DESCENT_SWEEPS = 20


def knapsack(
    curves: Sequence[Any],
    cost: BudgetedCost,
    target: float,
    max_ratio: float = 0.95,
    *,
    limits: CountLimits | None = None,
) -> IntArray:
    """Kept counts of least summed loss whose reduction of the cost is at least the target.

    Args:
        curves: one array [num_units] a layer, ``curves[l][k]`` = predicted loss increase of removing k units; made
            non-decreasing before use.
        cost: what is limited; a :class:`prune_gym.cost.model.CostModel` limits FLOPs.
        target: reduction to reach, fraction in [0, 1).
        max_ratio: largest pruning ratio of a layer; ignored when ``limits`` are given.
        limits: legal counts, if they are to be other than ``max_ratio`` alone says.

    Returns:
        int64 [L]; legal, on the target, and no single unit can be given back.

    Raises:
        ValueError: a curve of the wrong length or with a non-finite entry, or a target out of reach.
    """
    limits = cost.limits(max_ratio) if limits is None else limits
    cost.check_target(target, limits)
    return _Search(_checked(curves, cost), cost, limits, target).run()


def _checked(curves: Sequence[Any], cost: BudgetedCost) -> list[FloatArray]:
    if len(curves) != len(cost.units):
        raise ValueError(f"expected one curve a layer, {len(cost.units)}; got {len(curves)}")
    arrays = [np.asarray(curve, dtype=np.float64) for curve in curves]
    for curve, group in zip(arrays, cost.groups, strict=True):
        if curve.shape != (group.num_units,) or not np.isfinite(curve).all():
            raise ValueError(
                f"the curve of layer {group.name!r} needs {group.num_units} finite entries (0 to "
                f"{group.num_units - 1} units removed); got shape {curve.shape}"
            )
    return [np.maximum.accumulate(curve) for curve in arrays]


class _Search:
    """One knapsack problem: losses by kept count, FLOPs in fractions of the dense network's."""

    def __init__(self, curves: list[FloatArray], cost: BudgetedCost, limits: CountLimits, target: float) -> None:
        self.cost = cost
        self.limits = limits
        self.target = target
        self.table = LossTable.of(curves, limits)
        self.counts = [counts[:size] for counts, size in zip(self.table.counts, self.table.sizes, strict=True)]
        self.losses = [losses[:size] for losses, size in zip(self.table.losses, self.table.sizes, strict=True)]
        self.by_kept = np.full((len(curves), int(limits.units.max()) + 1), np.inf)
        for row, curve in zip(self.by_kept, curves, strict=True):
            row[1 : len(curve) + 1] = curve[::-1]

    def run(self) -> IntArray:
        uniform = self.cost.project(np.full(len(self.by_kept), max(self.target, 0.01)), self.target, limits=self.limits)
        # Descent and exchanges end in local optima, and which one depends on the start; ties fall by the plan itself.
        plans = [uniform, *(self._priced(start) for start in (uniform, self.limits.units))]
        plans = [self._repair(self._exchange(self._repair(plan), LOOKS)) for plan in plans]
        best = min(plans, key=lambda plan: (self.loss(plan), float(self.cost.reduction(plan)), plan.tolist()))
        # Few pairs still improve the best one, if any, so here looking at all is cheap.
        return self._repair(self._exchange(best, np.inf))

    def loss(self, kept: IntArray) -> float:
        return float(sum(self._lost(kept).tolist()))

    def _lost(self, kept: IntArray) -> FloatArray:
        return np.asarray(self.by_kept[np.arange(len(kept)), kept])

    def _feasible(self, kept: IntArray) -> bool:
        return bool(self.cost.reduction(kept) >= self.target)

    def _priced(self, start: IntArray) -> IntArray:
        """Descent at the smallest FLOPs price whose plan meets the target, found by bisection on its logarithm."""
        # From a price at which keeping every unit pays to one at which none does; all losses may be 0.
        largest = float(self.table.losses[:, 0].max()) + 1e-300
        low, high = np.log(largest) - 30.0, np.log(largest) + 15.0
        best = self.limits.minimum
        for _ in range(_PRICE_STEPS):
            middle = 0.5 * (low + high)
            plan = self._descend(start, float(np.exp(middle)))
            if self._feasible(plan):
                best, high = plan, middle
            else:
                low = middle
        return best

    def _descend(self, start: IntArray, price: float) -> IntArray:
        """Coordinate descent on ``loss + price * FLOPs / dense FLOPs``."""
        form, kept = self.cost.form, start.astype(np.float64)
        slope, square, price = 2.0 * form.times(kept) + form.linear, form.square, price / self.cost.dense
        # A layer's best count stays what it is until the count of one that shares a module with it changes.
        stale = np.ones(len(kept), dtype=bool)
        for _ in range(_DESCENT_SWEEPS):
            moved = False
            for layer, counts in enumerate(self.counts):
                if not stale[layer]:
                    continue
                stale[layer] = False
                bend = square[layer]
                flops = counts * (slope[layer] - 2.0 * bend * kept[layer] + counts * bend)
                count = counts[(self.losses[layer] + price * flops).argmin()]
                if count != kept[layer]:
                    others, shared = form.shared(layer)
                    slope[others] += 2.0 * (count - kept[layer]) * shared
                    stale[others] = True
                    kept[layer], stale[layer], moved = count, False, True
            if not moved:
                break
        return kept.astype(np.int64)

    def _repair(self, kept: IntArray) -> IntArray:
        """Reach the target by the cheapest removals per FLOP, then give back what helps most per FLOP."""
        kept = kept.copy()
        while not self._feasible(kept):
            fewer = self.limits.one_fewer(kept)
            saved = self.cost.of(kept) - self.cost.each_changed(kept, fewer)
            # A removal may save nothing (latency has plateaus); FLOPs are whole numbers, so 1 is a small divisor.
            harm = np.where(fewer < kept, self._changes(kept, fewer) / np.maximum(saved, 1.0), np.inf)
            layer = int(harm.argmin())
            kept[layer] = fewer[layer]
        while True:
            more = self.limits.one_more(kept)
            costs = self.cost.each_changed(kept, more)
            spent = costs - self.cost.of(kept)
            after = 1.0 - costs / self.cost.dense
            gain = np.where((more > kept) & (after >= self.target), -self._changes(kept, more), -np.inf)
            gain = gain / np.maximum(spent, 1.0)
            if np.isneginf(gain).all():
                return kept
            layer = int(gain.argmax())
            kept[layer] = more[layer]

    def _changes(self, kept: IntArray, other: IntArray) -> FloatArray:
        return self._lost(other) - self._lost(kept)

    def _exchange(self, kept: IntArray, looks: float) -> IntArray:
        """Best pairs of counts under the budget until no pair of layers improves, or so many looks a layer."""
        cost = self.cost
        return Exchange(self.table, cost.form, cost.dense, cost.form_target(kept, self.target), kept, looks).run()
