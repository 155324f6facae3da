"""Pairs of layers that trade units under a FLOPs budget, found without looking at every pair.

Two layers are set to their best pair of counts under the budget, pair after pair in a fixed order, until none improves.
Late in the search nearly no pair does, so most are ruled out in bulk before any is tried:

* **One layer against all others.** Losses fall and FLOPs rise with every unit kept. So for each count of one layer the
  best another can do is its largest count in the budget, the root of a quadratic: a table of [others, counts].
* **All layers at once.** Where two layers share no module their FLOPs add up. All moves sorted by FLOPs, with a running
  minimum of their loss, say which layers have any partner left: n log n. Pairs that share a module are looked up.

Both rule out only what cannot improve, so the plan is the one that trying every pair in order would find.

Early in the search nearly every pair improves a little, and there are as many as layers squared. So there is a number
of looks a layer, which fifty layers get by with. A search that uses it up goes on in rounds: layers that would gain
most by FLOPs trade with those that would lose least by them, the dearest with the cheapest, each layer once a round.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from prune_gym.cost.limits import CountLimits, FloatArray, IntArray
from prune_gym.cost.quadratic import QuadraticCost

BoolArray = NDArray[np.bool_]

SWEEPS = 20
"""Rounds over all pairs at most."""

WINDOW = 48
"""Counts considered on either side of a layer's own, so that wide layers stay affordable."""

LOOKS = 640
"""Pairs a layer that are looked at in order, unless told otherwise."""

TRADE = 64
"""Looks that an attempt to trade takes as long as."""

ROUNDS = 64
"""Rounds of the dearest with the cheapest at most."""

PATIENCE = 16
"""Layers without a partner, one after another, before all are ruled out at once; that costs about as much."""

CHUNK_ELEMENTS = 1 << 18
"""Entries of a table of pairs held at once."""

_TINY = float(np.finfo(float).tiny)


@dataclass(frozen=True, eq=False)
class LossTable:
    """Legal counts of every layer and their losses, padded to the longest by repeating the full count.

    Attributes:
        counts: int64 [L, C], ascending.
        losses: float64 [L, C], non-increasing.
        sizes: int64 [L], entries that are not padding.
        within: float64 [L, U + 1], loss of the largest legal count up to the index; infinite where there is none.
    """

    counts: IntArray
    losses: FloatArray
    sizes: IntArray
    within: FloatArray

    @classmethod
    def of(cls, curves: Sequence[FloatArray], limits: CountLimits) -> LossTable:
        """From non-decreasing curves by units removed, one float64 [num_units] a layer."""
        choices = [limits.choices(layer) for layer in range(len(curves))]
        sizes = np.array([len(counts) for counts in choices])
        places = np.minimum(np.arange(sizes.max()), sizes[:, None] - 1)
        counts = np.stack([own[place] for own, place in zip(choices, places, strict=True)])
        losses = np.stack([curve[len(curve) - own] for curve, own in zip(curves, counts, strict=True)])
        within = np.full((len(curves), int(limits.units.max()) + 1), np.inf)
        for row, own, loss in zip(within, counts, losses, strict=True):
            row[own[0] :] = loss[np.searchsorted(own, np.arange(own[0], len(row)), side="right") - 1]
        return cls(counts, losses, sizes, within)

    def place(self, layer: int, count: int) -> int:
        """Index of a legal count among those of its layer."""
        return int(np.searchsorted(self.counts[layer, : self.sizes[layer]], count))


@dataclass(eq=False)
class Exchange:
    """One budget, and a plan that trades under it.

    Attributes:
        table: legal counts and losses.
        form: FLOPs as a quadratic form of the counts, non-decreasing in each.
        dense: FLOPs of the dense network.
        target: FLOPs reduction the plan has and keeps, fraction in [0, 1).
        kept: int64 [L], the plan; trades change it.
        looks: pairs a layer that are looked at in order before rounds take over.
    """

    table: LossTable
    form: QuadraticCost
    dense: float
    target: float
    kept: IntArray
    looks: float = LOOKS
    _looked: int = field(init=False)

    def __post_init__(self) -> None:
        self.kept = self.kept.copy()
        self._looked = 0
        self._square = self.form.square
        self._slope = self.form.linear + 2.0 * self.form.times(self.kept.astype(np.float64))
        self._places = np.array([self.table.place(layer, count) for layer, count in enumerate(self.kept)])
        self._current = self.table.losses[np.arange(len(self.kept)), self._places]

    def run(self) -> IntArray:
        """Trade until no pair of layers improves, or as long as is worth it; returns the plan."""
        for _ in range(SWEEPS):
            before = self._loss()
            self._sweep()
            if self._tired:
                self._rounds()
                break
            if not self._loss() < before:
                break
        return self.kept

    @property
    def _tired(self) -> bool:
        return self._looked > self.looks * len(self.kept)

    def _loss(self) -> float:
        # Summed one after another: a sum in another order differs in the last bits, which may decide to stop.
        return float(sum(self._current.tolist()))

    def _set(self, layer: int, count: int) -> None:
        others, shared = self.form.shared(layer)
        self._slope[others] += 2.0 * (count - self.kept[layer]) * shared
        self.kept[layer] = count
        self._places[layer] = place = self.table.place(layer, count)
        self._current[layer] = self.table.losses[layer, place]

    @property
    def _flops(self) -> float:
        # With slope b + 2 Q k, half of (slope + b).k is b.k + k.Q.k.
        return float(0.5 * ((self._slope + self.form.linear) @ self.kept) + self.form.constant)

    @property
    def _spare(self) -> float:
        """FLOPs left, and one more: whether the target is met is said by a rounded fraction, and trades ask it."""
        return (1.0 - self.target) * self.dense - self._flops + 1.0

    # ------------------------------------------------------------------ trades

    def _sweep(self) -> None:
        """All pairs in order, each set to its best counts."""
        hopeful: BoolArray | None = None
        misses = 0
        for first in range(len(self.kept) - 1):
            if self._tired:
                return
            if hopeful is not None and not hopeful[first]:
                continue
            traded = self._trade_with_all(first)
            misses = 0 if traded else misses + 1
            if traded:
                hopeful = None
            elif hopeful is None and misses >= PATIENCE:
                hopeful = self._hopeful()

    def _trade_with_all(self, first: int) -> bool:
        """Let a layer trade with every later one in turn; returns whether it did."""
        # Few at first, because a trade makes what was computed for the rest stale; more the longer there is none.
        traded, start, size, row = False, first + 1, 8, self.form.row(first)
        while start < len(self.kept) and not self._tired:
            others = np.arange(start, min(start + size, len(self.kept)))
            self._looked += len(others)
            found = others[self._improves(np.array([first]), others, row[others])]
            if len(found) == 0:
                start, size = int(others[-1]) + 1, 4 * size
                continue
            if self._trade(first, int(found[0]), row[found[0]]):
                traded, size = True, 8
            start = int(found[0]) + 1
        return traded

    def _rounds(self) -> None:
        """Let the dearest layers trade with the cheapest, round after round, until that improves nothing."""
        for _ in range(ROUNDS):
            gains, losses = self._rates()
            dearest, cheapest = np.argsort(-gains, kind="stable"), np.argsort(losses, kind="stable")
            worth = gains[dearest] > losses[cheapest]
            free = np.ones(len(self.kept), dtype=bool)
            traded = False
            for first, second in zip(dearest[worth].tolist(), cheapest[worth].tolist(), strict=True):
                if first != second and free[first] and free[second]:
                    free[[first, second]] = False
                    traded |= self._trade(first, second, self.form.row(first)[second])
            if not traded:
                return

    def _rates(self) -> tuple[FloatArray, FloatArray]:
        """Most that a layer gains for FLOPs it gets, and least it loses for those it gives: two float64 [L]."""
        steps, losses = self._moves(np.arange(len(self.kept)))
        spent = steps * (self._slope[:, None] + steps * self._square[:, None])
        with np.errstate(divide="ignore", invalid="ignore"):
            rates = (self._current[:, None] - losses) / spent
        gains = np.where(spent > 0.0, rates, -np.inf).max(axis=1)
        return gains, np.where(spent < 0.0, rates, np.inf).min(axis=1)

    def _trade(self, first: int, second: int, coupling: float) -> bool:
        """Set two layers to their best counts under the budget; returns whether that improves.

        Args:
            first: a layer.
            second: another.
            coupling: their entry of Q.
        """
        self._looked += TRADE
        windows = self._window(first), self._window(second)
        rows, columns = self.table.counts[first, windows[0]], self.table.counts[second, windows[1]]
        losses = self.table.losses[first, windows[0]][:, None] + self.table.losses[second, windows[1]][None, :]
        ups, downs = (counts - self.kept[layer] for counts, layer in ((rows, first), (columns, second)))
        flops = self._flops + (ups * (self._slope[first] + ups * self._square[first]))[:, None]
        flops = flops + (downs * (self._slope[second] + downs * self._square[second]))[None, :]
        flops += 2.0 * coupling * np.outer(ups, downs)
        allowed = 1.0 - flops / self.dense >= self.target
        row, column = np.unravel_index(np.argmin(np.where(allowed, losses, np.inf)), losses.shape)
        current = self._current[first] + self._current[second]
        # A gain within rounding is none, or two layers could trade to and fro for ever.
        if not losses[row, column] < current - 1e-12 * abs(current):
            return False
        self._set(first, rows[row])
        self._set(second, columns[column])
        return True

    def _window(self, layer: int) -> slice:
        place = self._places[layer]
        return slice(max(0, place - WINDOW), min(place + WINDOW + 1, int(self.table.sizes[layer])))

    # ------------------------------------------------------------------ what cannot improve

    def _improves(self, first: IntArray, second: IntArray, coupling: FloatArray) -> BoolArray:
        """Return whether two layers may have a better pair of counts, bool [P].

        Args:
            first: int64 [P], or [1] for one layer against many.
            second: int64 [P].
            coupling: float64 [P], their entries of Q.
        """
        size = max(1, CHUNK_ELEMENTS // self._offsets.size)
        parts = [slice(start, start + size) for start in range(0, len(second), size)]
        one = len(first) == 1
        if len(parts) == 1:
            return self._improve(first, second, coupling)
        return np.concatenate(
            [self._improve(first if one else first[part], second[part], coupling[part]) for part in parts]
        )

    def _improve(self, first: IntArray, second: IntArray, coupling: FloatArray) -> BoolArray:
        steps, losses = self._moves(first)
        spent = steps * (self._slope[first, None] + steps * self._square[first, None])
        kept, bend = self.kept[second, None], self._square[second, None]
        # What the second layer may cost in all, and the count that costs as much: the root of bend c^2 + own c.
        own = (self._slope[second] - 2.0 * self._square[second] * self.kept[second])[:, None]
        own = own + (2.0 * coupling)[:, None] * steps
        budget = kept * (own + kept * bend) + (self._spare - spent)
        affordable = np.maximum(budget, 0.0)
        # The root as 2 a / (own + sqrt(own^2 + 4 bend a)) has no cancellation and holds for bend 0. It is rounded up a
        # little: here nothing may be ruled out that an exact look would allow.
        root = np.sqrt(own * own + 4.0 * bend * affordable)
        counts = affordable * (2.0 + 1e-11) / np.maximum(own + root, _TINY) + 1e-9
        lowest, highest = self._reach(second)
        counts = np.minimum(counts, highest).astype(np.int64)
        best = self.table.within[second[:, None], counts]
        best[(budget < 0.0) | (counts < lowest)] = np.inf
        current = self._current[first] + self._current[second]
        return np.asarray((losses + best < current[:, None]).any(axis=1))

    def _reach(self, layers: IntArray) -> tuple[IntArray, IntArray]:
        """Smallest and largest count in the layers' windows: two int64 [P, 1]."""
        places, sizes = self._places[layers], self.table.sizes[layers]
        ends = np.maximum(places - WINDOW, 0), np.minimum(places + WINDOW, sizes - 1)
        return self.table.counts[layers, ends[0]][:, None], self.table.counts[layers, ends[1]][:, None]

    def _hopeful(self) -> BoolArray:
        """Return whether a layer may improve with any other, bool [L]."""
        layers = np.arange(len(self.kept))
        steps, losses = self._moves(layers)
        spent = (steps * (self._slope[:, None] + steps * self._square[:, None])).ravel()
        gained = (losses - self._current[:, None]).ravel()
        order = np.argsort(spent)
        cheapest = np.minimum.accumulate(gained[order])
        partner = np.searchsorted(spent[order], self._spare - spent, side="right") - 1
        best = np.where(partner >= 0, cheapest[np.maximum(partner, 0)], np.inf)
        hopeful = (gained + best < 0.0).reshape(losses.shape).any(axis=1)
        first, second, coupling = self.form.neighbours
        if len(first):
            hopeful[first[self._improves(first, second, coupling)]] = True
        return np.asarray(hopeful)

    def _moves(self, layers: IntArray) -> tuple[FloatArray, FloatArray]:
        """Steps in units that layers may take, and the losses they end at: two float64 [P, W]."""
        sizes = self.table.sizes[layers, None]
        if len(layers) == 1:
            window = self._window(int(layers[0]))
            places = np.arange(window.start, window.stop)[None, :]
        else:
            places = np.minimum(np.maximum(self._places[layers, None] + self._offsets, 0), sizes - 1)
        rows = layers[:, None]
        steps = (self.table.counts[rows, places] - self.kept[rows]).astype(np.float64)
        return steps, self.table.losses[rows, places]

    @cached_property
    def _offsets(self) -> IntArray:
        reach = min(WINDOW, int(self.table.sizes.max()) - 1)
        return np.arange(-reach, reach + 1)
