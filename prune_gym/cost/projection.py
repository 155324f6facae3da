"""Plans moved onto a FLOPs target: the first feasible one on a path of shifts, and what it overshoots given back.

All pruning ratios of a plan are shifted by one amount in logit space: with odds ``o`` a layer keeps
``units / (1 + o * scale)`` units, rounded to legal counts. As the scale grows counts fall one step at a time, at scales
known in closed form, so the path is walked from count to count: Newton's method on the unrounded FLOPs lands next to
the plan looked for, and a few steps along the path find it exactly. Of many layers it may land many steps away, above
all where one layer costs as much as many others; then bisection on the scale goes most of the way, and what is given
back is given in bulk. Both end at the plan that single steps would end at.

Arrays are [L, B], layers first: numpy reduces and gathers along the many plans, not along the few layers.
"""

from __future__ import annotations

import itertools

import numpy as np
from numpy.typing import NDArray

from prune_gym.cost.limits import CountLimits, FloatArray, IntArray
from prune_gym.cost.quadratic import QuadraticCost

CHUNK_ELEMENTS = 1 << 15
"""Counts of plans that are walked together, few enough for their arrays to stay in the processor's cache."""

_NEWTON_STEPS = 4
_LARGEST_STEP = 4.0
"""Largest move of a Newton step, in logits."""
_SINGLE_STEPS = 16
"""Steps along the path, and units given back, one by one before bulk."""
_BRACKET = 0.5
"""Half the first bracket of the bisection, in logits."""
_BISECTIONS = 16
_FURTHEST = 80.0
"""Shift, in logits, that keeps or removes everything."""
_TOGETHER = 1.0 + 1e-9
"""Steps at scales closer than this factor are taken together."""


def project(
    odds: FloatArray, targets: FloatArray, form: QuadraticCost, dense: float, limits: CountLimits, *, fill: bool = True
) -> IntArray:
    """Plans on the targets; see :meth:`prune_gym.cost.CostModel.project`.

    Args:
        odds: float64 [B, L], ``ratio / (1 - ratio)``.
        targets: float64 [B], reachable FLOPs reductions.
        form: the FLOPs as a quadratic form of the counts.
        dense: FLOPs of the dense network.
        limits: legal counts.
        fill: give back what rounding overshoots.

    Returns:
        int64 [B, L].
    """
    kept = np.empty(odds.shape, dtype=np.int64)
    size = max(1, CHUNK_ELEMENTS // odds.shape[1])
    for start in range(0, len(odds), size):
        part = slice(start, start + size)
        walk = _Walk(np.ascontiguousarray(odds[part].T), targets[part], form, dense, limits)
        walk.find_first_feasible()
        if fill:
            walk.give_back()
        kept[part] = walk.kept.T
    return kept


class _Walk:
    """Counts of a chunk of plans, with their FLOPs and slopes kept up to date as counts change.

    Attributes:
        kept: float64 [L, B], whole numbers.
        flops: float64 [B].
        slope: float64 [L, B], ``b + 2 Q k``: FLOPs a further unit of a layer costs, without its own square.
    """

    def __init__(
        self, odds: FloatArray, targets: FloatArray, form: QuadraticCost, dense: float, limits: CountLimits
    ) -> None:
        self.odds = odds
        self.targets = targets
        self.dense = dense
        self.linear = form.linear[:, None]
        self.twice_pairwise = 2.0 * form.pairwise
        self.square = form.square[:, None].copy()
        self.constant = form.constant
        self.units, self.minimum, self.step = (
            side.astype(np.float64)[:, None] for side in (limits.units, limits.minimum, limits.step)
        )
        self._place(self._round(self.units / (1.0 + odds * self._newton())))

    # ------------------------------------------------------------------ counts

    def _place(self, kept: FloatArray) -> None:
        self.kept = kept
        self.slope = self.twice_pairwise @ kept + self.linear
        self.flops = 0.5 * ((self.slope + self.linear) * kept).sum(axis=0) + self.constant

    def _round(self, counts: FloatArray) -> FloatArray:
        return np.minimum(np.maximum(np.rint(counts / self.step) * self.step, self.minimum), self.units)

    def _feasible(self, flops: FloatArray, columns: IntArray | slice = slice(None)) -> NDArray[np.bool_]:
        # The same expression as `reduction`, to the last bit, so that a plan on the target here is on it everywhere.
        return np.asarray(1.0 - flops / self.dense >= self.targets[columns])

    def _fewer(self, kept: FloatArray) -> FloatArray:
        return np.maximum((np.ceil(kept / self.step) - 1.0) * self.step, self.minimum)

    def _more(self, kept: FloatArray) -> FloatArray:
        return np.minimum((np.floor(kept / self.step) + 1.0) * self.step, self.units)

    def _set(self, columns: IntArray, kept: FloatArray) -> None:
        """Change whole plans [L, C] of some columns."""
        change = kept - self.kept[:, columns]
        bend = self.twice_pairwise @ change
        self.flops[columns] += ((self.slope[:, columns] + 0.5 * bend) * change).sum(axis=0)
        self.slope[:, columns] += bend
        self.kept[:, columns] = kept

    # ------------------------------------------------------------------ the path

    def _newton(self) -> FloatArray:
        """Scales [B] at which the unrounded FLOPs are about on the target, by Newton's method on their logarithm."""
        shift = np.zeros(self.odds.shape[1])
        budget = np.log(np.maximum((1.0 - self.targets) * self.dense, 1.0))
        for _ in range(_NEWTON_STEPS):
            counts = np.maximum(self.units / (1.0 + self.odds * np.exp(shift)), self.minimum)
            slope = self.twice_pairwise @ counts + self.linear
            flops = 0.5 * ((slope + self.linear) * counts).sum(axis=0) + self.constant
            # Derivative of the counts by the shift; layers at their minimum stand still.
            moving = counts * (counts / self.units - 1.0)
            moving[counts <= self.minimum] = 0.0
            # Bounded away from 0, where nearly all layers stand still and a step would be endless.
            fall = np.minimum((slope * moving).sum(axis=0) / flops, -1e-3)
            move = (budget - np.log(flops)) / fall
            shift += np.minimum(np.maximum(move, -_LARGEST_STEP), _LARGEST_STEP)
            if np.abs(move).max() < 1e-2:
                break
        return np.exp(shift)

    def find_first_feasible(self) -> None:
        """Set the counts to the first plan on the path that meets the target, ties taken together."""
        enough = self._feasible(self.flops)
        left = self._walk(np.flatnonzero(~enough), np.flatnonzero(enough), _SINGLE_STEPS)
        if len(left):
            self._bisect(left)
            enough = self._feasible(self.flops[left], left)
            self._walk(left[~enough], left[enough])

    def _walk(self, short: IntArray, enough: IntArray, steps: int | None = None) -> IntArray:
        """Walk columns short of the target down the path, and those that meet it up.

        Args:
            short: columns short of the target.
            enough: columns that meet it.
            steps: to walk at most; None: as many as it takes.

        Returns:
            Columns that have not arrived.
        """
        for _ in itertools.count() if steps is None else range(steps):
            short = self._step_down(short) if len(short) else short
            enough = self._step_up(enough) if len(enough) else enough
            if len(short) + len(enough) == 0:
                return short
        return np.concatenate([short, enough])

    def _step_down(self, short: IntArray) -> IntArray:
        """Take units until the next plan on the path; returns the columns that are still short."""
        kept = self.kept[:, short]
        fewer = self._fewer(kept)
        # Rounding goes down once the unrounded count passes the middle between two legal ones.
        scales = np.where(fewer < kept, (self.units / (fewer + 0.5 * self.step) - 1.0) / self.odds[:, short], np.inf)
        self._set(short, np.where(scales <= scales.min(axis=0) * _TOGETHER, fewer, kept))
        return short[~self._feasible(self.flops[short], short)]

    def _step_up(self, enough: IntArray) -> IntArray:
        """Go back to the plan before on the path where it meets the target; returns the columns that went."""
        kept = self.kept[:, enough]
        scales = self._entered(kept, self.odds[:, enough])
        latest = scales.max(axis=0)
        raised = np.where(scales * _TOGETHER >= latest, self._more(kept), kept)
        change = raised - kept
        flops = self.flops[enough] + ((self.slope[:, enough] + 0.5 * (self.twice_pairwise @ change)) * change).sum(0)
        going = self._feasible(flops, enough) & (latest > 0.0)
        enough = enough[going]
        self._set(enough, raised[:, going])
        return enough

    def _bisect(self, columns: IntArray) -> None:
        """Set columns to plans of the path that are next to the first one that meets the target."""
        odds = self.odds[:, columns]
        here = np.log(np.maximum(self._entered(self.kept[:, columns], odds).max(axis=0), np.exp(-_FURTHEST)))
        low, high = here - _BRACKET, here + _BRACKET
        low[self._feasible(self._flops_of(self._shifted(odds, low)), columns)] = -_FURTHEST
        high[~self._feasible(self._flops_of(self._shifted(odds, high)), columns)] = _FURTHEST
        for _ in range(_BISECTIONS):
            middle = 0.5 * (low + high)
            enough = self._feasible(self._flops_of(self._shifted(odds, middle)), columns)
            low, high = np.where(enough, low, middle), np.where(enough, middle, high)
        self._set(columns, self._shifted(odds, high))

    def _shifted(self, odds: FloatArray, shift: FloatArray) -> FloatArray:
        """Counts [L, C] of the plans at a shift [C] of the path."""
        return self._round(self.units / (1.0 + odds * np.exp(shift)))

    def _flops_of(self, kept: FloatArray) -> FloatArray:
        return np.asarray(((0.5 * (self.twice_pairwise @ kept) + self.linear) * kept).sum(axis=0) + self.constant)

    def _entered(self, kept: FloatArray, odds: FloatArray) -> FloatArray:
        """Scales [L, C] at which the layers came down to their counts; 0 for those that lost nothing."""
        return np.maximum((self.units / (kept + 0.5 * self.step) - 1.0) / odds, 0.0)

    def give_back(self) -> None:
        """Give back units while the target holds, the layer rounded down furthest first."""
        scale = self._entered(self.kept, self.odds).max(axis=0)
        unrounded = self.units / (1.0 + self.odds * scale)
        active = np.arange(self.kept.shape[1])
        for done in itertools.count():
            kept = self.kept[:, active]
            step = self._more(kept) - kept
            spent = (self.slope[:, active] + self.square * step) * step
            fits = (step > 0.0) & self._feasible(self.flops[active] + spent, active)
            down = np.where(fits, unrounded[:, active] - kept, -np.inf)
            going = fits.any(axis=0)
            if not going.all():
                if not going.any():
                    return
                active, kept = active[going], kept[:, going]
                step, spent, down = step[:, going], spent[:, going], down[:, going]
            given = _Given(step, spent, down)
            change = given.first() if done < _SINGLE_STEPS else self._most(active, given)
            self._set(active, kept + change)

    def _most(self, active: IntArray, given: _Given) -> FloatArray:
        """As many units at once [L, C] as single steps would give one after another."""
        counts = given.together((1.0 - self.targets[active]) * self.dense - self.flops[active])
        while True:
            change = given.of(counts)
            bend = self.twice_pairwise @ change
            flops = self.flops[active] + ((self.slope[:, active] + 0.5 * bend) * change).sum(axis=0)
            # FLOPs never fall as units are given, so where the last one fits all before it did.
            over = (counts > 1) & ~self._feasible(flops, active)
            if not over.any():
                return change
            counts = np.where(over, counts // 2, counts)


class _Given:
    """Units that layers may get back, one a layer, in their order.

    Args:
        step: float64 [L, C], the unit.
        spent: float64 [L, C], FLOPs it costs.
        down: float64 [L, C], how far the layer is rounded down; -infinite where the unit does not fit.
    """

    def __init__(self, step: FloatArray, spent: FloatArray, down: FloatArray) -> None:
        self._step, self._spent, self._down = step, spent, down

    def first(self) -> FloatArray:
        """The unit of the layer that is rounded down furthest, [L, C]."""
        place = self._down.argmax(axis=0), np.arange(self._down.shape[1])
        change = np.zeros(self._down.shape)
        change[place] = self._step[place]
        return change

    def together(self, spare: FloatArray) -> IntArray:
        """Layers, from the first, that come before any has its second turn, and fit by their own costs: int64 [C]."""
        self._order = np.argsort(-self._down, axis=0, kind="stable")
        self._step, self._spent, self._down = (
            np.take_along_axis(side, self._order, axis=0) for side in (self._step, self._spent, self._down)
        )
        second = np.maximum.accumulate(self._down - self._step, axis=0)
        fits = (self._down[1:] > second[:-1]) & (self._spent.cumsum(axis=0)[1:] <= spare)
        return 1 + np.logical_and.accumulate(fits, axis=0).sum(axis=0)

    def of(self, counts: IntArray) -> FloatArray:
        """The units of the first layers, so many [C]: [L, C]."""
        change = np.zeros_like(self._step)
        first = np.arange(len(change))[:, None] < counts
        np.put_along_axis(change, self._order, np.where(first, self._step, 0.0), axis=0)
        return change
