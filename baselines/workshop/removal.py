"""Removal of channels: pruning targets, and global or layerwise ranking until a target is met.

A *selection* is one boolean array a layer, True for the units that stay. All methods decide selections and none cuts
by itself, so that ties, limits and targets are handled by one code.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hessian.channels.group import ChannelGroup
from prune_gym.cost.limits import CountLimits, FloatArray, IntArray
from prune_gym.cost.model import CostModel
from prune_gym.cost.quadratic import QuadraticCost

RatioOf: TypeAlias = Literal["channels", "flops"]
RATIOS_OF = ("channels", "flops")
Selection: TypeAlias = list[NDArray[np.bool_]]
Plan: TypeAlias = dict[str, list[int]]

TOLERANCE = 0.01
"""A result this far from the target, in fractions of the dense network, is on it."""


@dataclass(frozen=True, eq=False)
class Target:
    """Target a pruned network has to reach.

    Attributes:
        ratio: share removed, in [0, 1).
        ratio_of: of the network's channels or of its FLOPs.
        measure: counts what ``ratio_of`` names; its ``reduction`` maps kept counts [..., L] to shares removed.
        limits: legal kept counts.
    """

    ratio: float
    ratio_of: RatioOf
    measure: CostModel
    limits: CountLimits

    def reduction(self, kept: IntArray | Sequence[int]) -> float:
        """Share that a plan removes of what the target counts."""
        return float(self.measure.reduction(np.asarray(kept)))

    def reached(self, kept: IntArray) -> bool:
        """Return whether a plan removes enough."""
        return self.reduction(kept) >= self.ratio - 1e-12

    def at(self, ratio: float) -> Target:
        """The same target at another ratio."""
        return replace(self, ratio=ratio)

    def project(self, ratios: FloatArray) -> IntArray:
        """Kept counts [L] on the target: the ratios given, all shifted by the same amount in logit space."""
        return self.measure.project(np.clip(ratios, 0.0, 1.0), self.ratio, limits=self.limits)

    def uniform(self) -> IntArray:
        """Kept counts [L] on the target with nearly the same pruning ratio in every layer."""
        return self.project(np.full(len(self.limits.units), max(self.ratio, 1e-3)))


def make_target(ratio: float, ratio_of: RatioOf, cost: CostModel, max_pruning_ratio: float) -> Target:
    """State a target.

    Raises:
        ValueError: ``ratio`` is not in [0, 1) or out of reach, or ``ratio_of`` or ``max_pruning_ratio`` is no legal
        value.
    """
    if isinstance(ratio, bool) or not isinstance(ratio, (int, float, np.number)) or not 0.0 <= ratio < 1.0:
        raise ValueError(f"pruning_ratio is the fraction removed, in [0, 1); got {ratio!r}")
    if ratio_of not in RATIOS_OF:
        raise ValueError(f"ratio_of is 'channels' or 'flops'; got {ratio_of!r}")
    measure = cost if ratio_of == "flops" else channel_counter(cost)
    limits = cost.limits(max_pruning_ratio)
    reachable = measure.largest_reduction(limits)
    if ratio > reachable:
        raise ValueError(
            f"pruning_ratio={ratio:g} of the {ratio_of} is out of reach: this network reaches {reachable:.4f} "
            f"with at most {max_pruning_ratio:g} of any layer removed; lower it or raise max_pruning_ratio"
        )
    return Target(float(ratio), ratio_of, measure, limits)


def channel_counter(cost: CostModel) -> CostModel:
    """A cost model whose FLOPs are the channels of the prunable layers, so that one projection serves both targets."""
    widths = np.array([group.size / group.num_units for group in cost.groups])
    counter = copy.copy(cost)
    counter.flops_form = QuadraticCost(0.0, widths, np.zeros((len(widths), len(widths))))
    counter.dense_flops = int(counter.flops(counter.units))
    return counter


def everything(groups: Sequence[ChannelGroup]) -> Selection:
    """The selection that keeps all units."""
    return [np.ones(group.num_units, dtype=bool) for group in groups]


def counts(selection: Selection) -> IntArray:
    """Kept units of every layer, int64 [L]."""
    return np.array([kept.sum() for kept in selection], dtype=np.int64)


def to_plan(groups: Sequence[ChannelGroup], selection: Selection) -> Plan:
    """The pruning plan of a selection: layer name -> removed channel indices, layers that stay whole left out."""
    return {
        group.name: group.channels(np.flatnonzero(~kept))
        for group, kept in zip(groups, selection, strict=True)
        if not kept.all()
    }


def keep_best(scores: Sequence[Tensor], kept: IntArray | Sequence[int]) -> Selection:
    """Keep the units of every layer that score highest, as many a layer as asked for.

    Args:
        scores: [num_units] a layer.
        kept: [L] counts.
    """
    selection = []
    for score, count in zip(scores, kept, strict=True):
        best = np.zeros(len(score), dtype=bool)
        best[torch.argsort(score.detach().cpu(), descending=True, stable=True)[: int(count)].numpy()] = True
        selection.append(best)
    return selection


def remove_lowest(
    selection: Selection,
    scores: Sequence[Tensor],
    target: Target,
    *,
    max_units: int | None = None,
    ceiling: float = 1.0,
) -> Selection:
    """Remove the units that score lowest over the whole network until the target is reached.

    Args:
        selection: what is still there; not modified.
        scores: [num_units] a layer, comparable over layers; only those of units still there count.
        target: where to stop.
        max_units: at most so many are removed.
        ceiling: units whose removal would carry the reduction beyond this are passed over.

    Returns:
        The smaller selection; it misses the target only where ``max_units``, ``ceiling`` or the limits stop it.
    """
    selection = [mask.copy() for mask in selection]
    kept = counts(selection)
    removed = 0
    for layer, unit in _ranked(selection, scores):
        if target.reached(kept) or removed == max_units:
            break
        if kept[layer] <= target.limits.minimum[layer]:
            continue
        kept[layer] -= 1
        if target.reduction(kept) > ceiling:
            kept[layer] += 1
            continue
        selection[layer][unit] = False
        removed += 1
    return selection


def remove_onto(selection: Selection, scores: Sequence[Tensor], target: Target) -> Selection:
    """:func:`remove_lowest`, landing within 1 % of the target where any unit allows it.

    One channel of a small network may hold several percent of its FLOPs; such a unit is passed over at the very end for
    the next one in the ranking that fits.
    """
    selection = remove_lowest(selection, scores, target, ceiling=target.ratio + TOLERANCE)
    return remove_lowest(selection, scores, target)


def _ranked(selection: Selection, scores: Sequence[Tensor]) -> list[tuple[int, int]]:
    """(layer, unit) of everything still there, lowest score first."""
    values = np.concatenate([score.detach().cpu().double().numpy() for score in scores])
    layers = np.repeat(np.arange(len(scores)), [len(score) for score in scores])
    units = np.concatenate([np.arange(len(score)) for score in scores])
    there = np.concatenate(selection)
    order = np.argsort(values[there], kind="stable")
    return list(zip(layers[there][order].tolist(), units[there][order].tolist(), strict=True))
