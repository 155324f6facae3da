"""Kept channel counts that machines run fast: a plan moved to multiples of a number.

Vector units and cache lines work on blocks of channels, so 33 kept channels can cost as much as 48. Rounding moves a
plan to counts without such waste. Which block is best depends on the machine, its threads, the batch and the memory
format; :mod:`prune_gym.surgery.auto_rounding` measures it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from hessian.channels.group import ChannelGroup
from hessian.patches.filter_norms import filter_norms
from prune_gym.cost.limits import CountLimits, IntArray
from prune_gym.cost.model import CostModel

Plan: TypeAlias = dict[str, list[int]]
RoundTo: TypeAlias = int | Literal["auto"]

_ANY_RATIO = 1.0 - 1e-9


def check_round_to(round_to: Any) -> None:
    """Raise unless a rounding is a whole number of channels, at least 1, or ``"auto"``.

    Raises:
        ValueError: It is neither.
    """
    whole = isinstance(round_to, (int, np.integer)) and not isinstance(round_to, bool) and round_to >= 1
    if not whole and round_to != "auto":
        raise ValueError(f"round_to is a whole number of channels, at least 1, or 'auto'; got {round_to!r}")


class PlanRounder:
    """Moves plans to rounded counts. Layers a plan does not name stay whole.

    Args:
        groups: The network's prunable layers.
        model: The dense network.
        example_input: What FLOPs are counted for, a tensor or a tuple of tensors.
        orders: Layer name -> LongTensor [num_units], its units from the cheapest to the dearest; which units leave or
            return is read from it. None means by the norm of their filters.

    Attributes:
        groups: The prunable layers.
        model: The dense network.
    """

    def __init__(
        self,
        groups: Sequence[ChannelGroup],
        model: nn.Module,
        example_input: Any,
        orders: Mapping[str, Tensor] | None = None,
    ) -> None:
        self.groups = tuple(groups)
        self.model = model
        self._example_input = example_input
        self._orders = orders or None

    @cached_property
    def cost(self) -> CostModel:
        """The network's cost model."""
        return CostModel(self.groups, self.model, self._example_input)

    def kept(self, plan: Mapping[str, Sequence[int]]) -> IntArray:
        """Units a plan keeps of every layer, int64 [L]."""
        counts = [group.num_units - len(_removed_units(group, plan.get(group.name, ()))) for group in self.groups]
        return np.array(counts, dtype=np.int64)

    def reduction(self, plan: Mapping[str, Sequence[int]]) -> float:
        """FLOPs reduction of a plan, fraction in [0, 1)."""
        return float(self.cost.reduction(self.kept(plan)))

    def nearest(self, plan: Mapping[str, Sequence[int]], round_to: int) -> Plan:
        """Return the plan with the kept channels of every layer at the nearest multiple (at least one).

        Args:
            plan: Layer name -> removed channel indices, checked beforehand.
            round_to: The multiple, in channels; layers with fewer channels stay whole.
        """
        limits = self.limits(plan, round_to)
        return self.moved(plan, limits.round(self.kept(plan).astype(np.float64)))

    def candidates(self, plan: Mapping[str, Sequence[int]], roundings: Sequence[int]) -> dict[int, IntArray]:
        """Return kept units [L] of the plan (as 1) and of its roundings that remove at least as many FLOPs.

        Args:
            plan: Layer name -> removed channel indices, checked beforehand.
            roundings: Multiples to try; those that cannot reach the reduction or change nothing are left out.
        """
        kept, target = self.kept(plan), self.reduction(plan)
        found = {1: kept}
        for round_to in roundings:
            limits = self.limits(plan, round_to)
            if round_to == 1 or self.cost.largest_reduction(limits) < target:
                continue
            rounded = self.cost.project_logits(limits.logits(kept), target, limits)
            if not any(np.array_equal(rounded, other) for other in found.values()):
                found[round_to] = rounded
        return found

    def limits(self, plan: Mapping[str, Sequence[int]], round_to: int) -> CountLimits:
        """Legal counts of a rounding: multiples, and whole layers where the plan removes nothing."""
        limits = CountLimits.of(self.groups, _ANY_RATIO, round_to=round_to)
        pruned = np.array([bool(plan.get(group.name)) for group in self.groups])
        return replace(limits, minimum=np.where(pruned, limits.minimum, limits.units))

    def moved(self, plan: Mapping[str, Sequence[int]], kept: IntArray) -> Plan:
        """The plan with other counts: its cheapest kept units leave, or its dearest removed ones return.

        Args:
            plan: Layer name -> removed channel indices, checked beforehand.
            kept: int64 [L], units to keep of every layer.
        """
        moved = {}
        for group, count in zip(self.groups, kept.tolist(), strict=True):
            removed = _removed_units(group, plan.get(group.name, ()))
            units = self._resized(group, removed, group.num_units - count)
            if units:
                moved[group.name] = group.channels(units)
        return moved

    def _resized(self, group: ChannelGroup, removed: set[int], count: int) -> set[int]:
        """Removed units, ``count`` of them: the cheapest others leave too, or the dearest return."""
        if count == len(removed):
            return removed
        order = self._order(group)
        inside = [unit for unit in order if unit in removed]
        outside = [unit for unit in order if unit not in removed]
        return set(inside[:count]) | set(outside[: max(0, count - len(inside))])

    def _order(self, group: ChannelGroup) -> list[int]:
        if self._orders is not None and group.name in self._orders:
            return self._orders[group.name].tolist()
        if group.name not in self._by_norm:
            norms = filter_norms(group, self._modules)
            self._by_norm[group.name] = torch.argsort(norms, stable=True).tolist()
        return self._by_norm[group.name]

    @cached_property
    def _modules(self) -> dict[str, nn.Module]:
        return dict(self.model.named_modules())

    @cached_property
    def _by_norm(self) -> dict[str, list[int]]:
        return {}


def _removed_units(group: ChannelGroup, channels: Sequence[int]) -> set[int]:
    removed = set(channels)
    return {index for index, unit in enumerate(group.units) if unit[0] in removed} if removed else set()
