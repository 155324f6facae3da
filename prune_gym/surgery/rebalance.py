"""A rounded plan rebalanced for a machine: layers move a little, some up and some down, at the same FLOPs.

A FLOP does not cost the same time in every layer: in a residual stream of large images each channel drags
normalisations, activations and additions along, whose time follows the channels and not their square. So a few variants
around the rounded plan are run, a latency model is fitted to their module times (:mod:`prune_gym.surgery.call_model`),
and the plan of least modelled time is searched among the neighbours that remove as many FLOPs. What the model promises
is believed only once the whole network has been timed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import nn

from prune_gym.cost.limits import CountLimits, FloatArray, IntArray
from prune_gym.cost.model import CostModel
from prune_gym.surgery.call_model import CallModel, measure_calls

LARGEST_MOVE = 0.125
"""Largest move of a layer from its count in the plan, as a share of it, where it has room for several blocks."""
LARGEST_BLOCK = 0.25
"""Largest move of a layer to reach the next block, as a share of its count in the plan."""
SLACK = 0.01
"""Share of the FLOPs it may have that a rebalanced plan leaves unused at most: time is to be won by balance, not by
pruning more than was asked for."""

_LEVELS = 5
_VARIANTS = 20
_EXCHANGES = 400
_SHORTLIST = 256
_RESTARTS = 12
_KICKED = 3
_PRICE = 20.0
"""Latency a share of forbidden FLOPs or loss costs; dear enough that no plan gains by it."""
_FORBIDDEN = 0.02
"""Price of being forbidden at all, so that small breaches are worth mending."""


@dataclass(frozen=True, eq=False)
class Neighbourhood:
    """Counts around a plan, and what a plan among them must keep to.

    Attributes:
        levels: Counts every layer may take, ascending int64 arrays.
        start: int64 [L], the rounded plan; one of the levels in every layer.
        target: FLOPs reduction to keep, fraction in [0, 1).
        losses: Predicted loss of every level, float64 arrays, or None.
    """

    levels: tuple[IntArray, ...]
    start: IntArray
    target: float
    losses: tuple[FloatArray, ...] | None = None

    @classmethod
    def of(
        cls,
        planned: IntArray,
        rounded: IntArray,
        limits: CountLimits,
        target: float,
        curves: Sequence[FloatArray] | None = None,
    ) -> Neighbourhood:
        """Counts near a plan that are legal under its rounding.

        Args:
            planned: int64 [L], kept counts of the plan as it was given.
            rounded: int64 [L], kept counts of its rounding.
            limits: Legal counts of the rounding.
            target: FLOPs reduction to keep.
            curves: Predicted loss of removing k units, float64 [num_units] a layer, or None.
        """
        levels = []
        for layer, (plan, start) in enumerate(zip(planned.tolist(), rounded.tolist(), strict=True)):
            choices, step = limits.choices(layer), int(limits.step[layer])
            reach = max(min(step, LARGEST_BLOCK * plan), LARGEST_MOVE * plan)
            near = choices[np.abs(choices - plan) <= reach]
            levels.append(_spread(near, start))
        if curves is None:
            return cls(tuple(levels), rounded, target)
        losses = [
            np.maximum.accumulate(curve)[len(curve) - counts] for curve, counts in zip(curves, levels, strict=True)
        ]
        return cls(tuple(levels), rounded, target, tuple(losses))


def _spread(counts: IntArray, start: int) -> IntArray:
    """At most :data:`_LEVELS` of the counts, evenly spread, the start among them."""
    if len(counts) > _LEVELS:
        counts = counts[np.unique(np.linspace(0, len(counts) - 1, _LEVELS).round().astype(np.int64))]
        counts = np.where(np.arange(len(counts)) == np.abs(counts - start).argmin(), start, counts)
    return np.union1d(counts, [start]).astype(np.int64)


def rebalanced(
    near: Neighbourhood,
    cost: CostModel,
    variant: Callable[[IntArray], nn.Module],
    inputs: Sequence[Any],
    *,
    seed: int = 0,
) -> IntArray | None:
    """Kept counts of least modelled latency in a neighbourhood, or None if there is nothing to gain.

    Given the same times, the same counts.

    Args:
        near: The neighbourhood.
        cost: The network's cost model.
        variant: Makes the network of kept counts [L], to be run.
        inputs: Its inputs, whose batch size, device and memory format the answer is for.
        seed: Of the variants that are measured.
    """
    if sum(len(counts) > 1 for counts in near.levels) < 2:
        return None
    measured = measure_calls(variant, _variants(near, seed), inputs)
    if measured is None:
        return None
    kept = fastest(near, cost, CallModel(cost, measured))
    return None if np.array_equal(kept, near.start) else kept


def _variants(near: Neighbourhood, seed: int) -> IntArray:
    """Plans [N, L] in which every layer takes each of its levels equally often, in random company."""
    generator = np.random.default_rng(seed)
    columns = [counts[generator.permutation(np.arange(_VARIANTS) % len(counts))] for counts in near.levels]
    return np.stack(columns, axis=1)


def fastest(
    near: Neighbourhood, cost: CostModel, latency: Callable[[IntArray], FloatArray], *, seed: int = 0
) -> IntArray:
    """The plan of least latency that iterated local search finds.

    Single layers and pairs move until nothing gains; then a few layers are set at random and it starts over from there,
    a fixed number of times.

    Args:
        near: The neighbourhood.
        cost: The network's cost model.
        latency: Milliseconds of plans, int64 [P, L] -> float64 [P].
        seed: Of the restarts.

    Returns:
        int64 [L]; reduces FLOPs by at least the target and by little more, and is predicted to lose no more than the
        start.
    """
    search = _Exchanges(near, cost, latency)
    generator = np.random.default_rng(seed)
    best = search.descend(near.start)
    for _ in range(_RESTARTS):
        kicked = best.copy()
        for layer in generator.choice(len(best), min(_KICKED, len(best)), replace=False):
            kicked[layer] = generator.choice(near.levels[layer])
        found = search.descend(kicked)
        if search.penalties(found[None])[0] == 0.0 and search.latency(found) < search.latency(best) * (1 - 1e-9):
            best = found
    return best


class _Exchanges:
    """Local search on latency plus a price on what a plan must not do, so that it may start from a forbidden plan."""

    def __init__(self, near: Neighbourhood, cost: CostModel, latency: Callable[[IntArray], FloatArray]) -> None:
        self._near = near
        self._cost = cost
        self._latency = latency
        self._allowance = (1.0 - near.target) * cost.dense_flops
        # A start that already removes more than it must may go on doing so.
        self._least = min((1.0 - SLACK) * self._allowance, float(cost.flops(near.start)))
        self._bound = self._loss(near.start[None])[0] * (1 + 1e-9)

    def latency(self, kept: IntArray) -> float:
        """Milliseconds of one plan."""
        return float(self._latency(kept[None])[0])

    def descend(self, kept: IntArray) -> IntArray:
        """Move layers and pairs of layers until nothing gains."""
        for _ in range(_EXCHANGES):
            better = self._improved(kept)
            if better is None:
                break
            kept = better
        return kept

    def penalties(self, plans: IntArray) -> FloatArray:
        """Distance of plans [P, L] from what is allowed, as shares, float64 [P]; 0 for allowed ones."""
        flops = self._cost.flops_form(plans)
        over = np.maximum(flops / self._allowance - 1.0, 0.0)
        # Float division may call the target itself missed or reached; the cost model's own word counts.
        over = np.where(self._cost.reduction(plans) >= self._near.target, 0.0, np.maximum(over, 1e-12))
        under = np.maximum(self._least - flops, 0.0) / self._allowance
        loss = np.maximum(self._loss(plans) - self._bound, 0.0) / max(self._bound, 1e-300)
        return np.asarray(over + under + loss)

    def _scores(self, plans: IntArray) -> FloatArray:
        penalties = self.penalties(plans)
        return self._latency(plans) * (1.0 + _FORBIDDEN * (penalties > 0) + _PRICE * penalties)

    def _improved(self, kept: IntArray) -> IntArray | None:
        """The best plan one or two moves away, or None."""
        moved = self._moves(kept)
        if not len(moved):
            return None
        now = float(self._scores(kept[None])[0])
        gains = self.latency(kept) - self._latency(moved)
        flops = self._cost.flops_form(moved) - self._cost.flops_form(kept)
        plans = np.concatenate([moved, self._pairs(kept, moved, gains, flops)])
        scores = self._scores(plans)
        best = int(scores.argmin())
        return plans[best] if scores[best] < now * (1 - 1e-6) else None

    def _moves(self, kept: IntArray) -> IntArray:
        """Every other level of every layer, [M, L]."""
        plans = []
        for layer, counts in enumerate(self._near.levels):
            for count in counts[counts != kept[layer]]:
                plans.append(kept.copy())
                plans[-1][layer] = count
        return np.array(plans, dtype=np.int64).reshape(-1, len(kept))

    def _pairs(self, kept: IntArray, moved: IntArray, gains: FloatArray, flops: FloatArray) -> IntArray:
        """Pairs of moves of two layers that seem to gain most, taking their effects as a sum, [P, L]."""
        first, second = np.triu_indices(len(moved), 1)
        layers = (moved != kept).argmax(axis=1)
        change = float(self._cost.flops_form(kept)) + flops[first] + flops[second]
        # The effects of neighbouring layers multiply, so the sum is only roughly right.
        roughly = 0.005 * self._allowance
        hopeful = (change <= self._allowance + roughly) & (change >= self._least - roughly)
        gain = np.where(hopeful & (layers[first] != layers[second]), gains[first] + gains[second], -np.inf)
        short = np.argsort(-gain, kind="stable")[:_SHORTLIST]
        short = short[np.isfinite(gain[short])]
        return moved[first[short]] + moved[second[short]] - kept

    def _loss(self, plans: IntArray) -> FloatArray:
        total = np.zeros(len(plans))
        if self._near.losses is not None:
            for layer, (counts, losses) in enumerate(zip(self._near.levels, self._near.losses, strict=True)):
                total += losses[np.searchsorted(counts, plans[:, layer])]
        return total
