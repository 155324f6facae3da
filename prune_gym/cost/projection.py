"""Plans moved onto a FLOPs target: the first feasible one on a path of shifts, and what it overshoots given back.

All pruning ratios of a plan are shifted by one amount in logit space: with odds ``o`` a layer keeps
``units / (1 + o * scale)`` units, rounded to legal counts. As the scale grows counts fall one step at a time, at scales
known in closed form, so the path is walked from count to count: Newton's method on the unrounded FLOPs lands next to
the plan looked for, and a few steps along the path find it exactly.

Arrays are [L, B], layers first: numpy reduces and gathers along the many plans, not along the few layers.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from prune_gym.cost.limits import CountLimits, FloatArray, IntArray
from prune_gym.cost.quadratic import QuadraticCost

CHUNK = 1024
"""Plans walked together, few enough for their arrays to stay in the processor's cache."""

_NEWTON_STEPS = 4
_LARGEST_STEP = 4.0
"""Largest move of a Newton step, in logits."""
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
    for start in range(0, len(odds), CHUNK):
        part = slice(start, start + CHUNK)
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
        self.square = form.pairwise.diagonal()[:, None].copy()
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
        short = np.flatnonzero(~self._feasible(self.flops))
        enough = np.flatnonzero(self._feasible(self.flops))
        while len(short):
            kept = self.kept[:, short]
            fewer = self._fewer(kept)
            # Rounding goes down once the unrounded count passes the middle between two legal ones.
            scales = np.where(
                fewer < kept, (self.units / (fewer + 0.5 * self.step) - 1.0) / self.odds[:, short], np.inf
            )
            self._set(short, np.where(scales <= scales.min(axis=0) * _TOGETHER, fewer, kept))
            short = short[~self._feasible(self.flops[short], short)]
        while len(enough):
            kept = self.kept[:, enough]
            scales = self._entered(kept, self.odds[:, enough])
            latest = scales.max(axis=0)
            raised = np.where(scales * _TOGETHER >= latest, self._more(kept), kept)
            change = raised - kept
            flops = self.flops[enough] + ((self.slope[:, enough] + 0.5 * (self.twice_pairwise @ change)) * change).sum(
                0
            )
            going = self._feasible(flops, enough) & (latest > 0.0)
            enough = enough[going]
            self._set(enough, raised[:, going])

    def _entered(self, kept: FloatArray, odds: FloatArray) -> FloatArray:
        """Scales [L, C] at which the layers came down to their counts; 0 for those that lost nothing."""
        return np.maximum((self.units / (kept + 0.5 * self.step) - 1.0) / odds, 0.0)

    def give_back(self) -> None:
        """Give back units while the target holds, the layer rounded down furthest first."""
        scale = self._entered(self.kept, self.odds).max(axis=0)
        unrounded = self.units / (1.0 + self.odds * scale)
        active = np.arange(self.kept.shape[1])
        while len(active):
            kept = self.kept[:, active]
            step = self._more(kept) - kept
            after = self.flops[active] + (self.slope[:, active] + self.square * step) * step
            fits = (step > 0.0) & (1.0 - after / self.dense >= self.targets[active])
            layer = np.where(fits, unrounded[:, active] - kept, -np.inf).argmax(axis=0)
            columns = np.arange(len(active))
            going = fits[layer, columns]
            active, layer, columns = active[going], layer[going], columns[going]
            added = step[layer, columns]
            self.flops[active] = after[layer, columns]
            self.kept[layer, active] += added
            self.slope[:, active] += self.twice_pairwise[:, layer] * added
