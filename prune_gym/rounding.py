"""Kept channel counts that a machine runs fast: multiples of a number, given or measured.

Vector units and cache lines work on blocks of channels, so 33 kept channels can cost as much as 48. Rounding moves a
plan to counts without such waste. Which block is best depends on the machine, its threads, the batch and the memory
format, so it can be measured: every candidate keeps the plan's FLOPs reduction, and the fastest wins.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from hessian.channels import ChannelGroup
from hessian.feature_error import filter_norms
from prune_gym.cost import CostModel
from prune_gym.limits import CountLimits, IntArray
from prune_gym.timing import compare_models

Plan: TypeAlias = dict[str, list[int]]
RoundTo: TypeAlias = int | Literal["auto"]

ROUNDINGS = (1, 4, 8, 16, 32)
"""What automatic rounding tries; 1 is the plan as it is."""

_ANY_RATIO = 1.0 - 1e-9


@dataclass(frozen=True)
class RoundedPlan:
    """A candidate of automatic rounding.

    Attributes:
        round_to: Kept channels of every pruned layer are a multiple of this (or all of them); 1 for the plan as it is.
        plan: Layer name -> removed channel indices.
        flops_reduction: Fraction of the dense FLOPs removed.
        latency_ms: Median time of the example batch on the model's device, in ms.
    """

    round_to: int
    plan: Plan
    flops_reduction: float
    latency_ms: float


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
        orders: Layer name -> LongTensor [num_units], its units from the cheapest to the dearest; which units leave or
            return is read from it. None means by the norm of their filters.
    """

    def __init__(
        self, groups: Sequence[ChannelGroup], model: nn.Module, orders: Mapping[str, Tensor] | None = None
    ) -> None:
        self._groups = tuple(groups)
        self._model = model
        self._orders = orders or None

    def nearest(self, plan: Mapping[str, Sequence[int]], round_to: int) -> Plan:
        """Return the plan with the kept channels of every layer at the nearest multiple (at least one).

        Args:
            plan: Layer name -> removed channel indices, checked beforehand.
            round_to: The multiple, in channels; layers with fewer channels stay whole.
        """
        limits = self._limits(plan, round_to)
        return self._moved(plan, limits.round(self._kept(plan).astype(np.float64)))

    def candidates(
        self, plan: Mapping[str, Sequence[int]], example_input: Any, roundings: Sequence[int] = ROUNDINGS
    ) -> dict[int, tuple[Plan, float]]:
        """Return the plan and its roundings that remove at least as many FLOPs, with the FLOPs reduction of each.

        Args:
            plan: Layer name -> removed channel indices, checked beforehand.
            example_input: What the FLOPs are counted for.
            roundings: Multiples to try; those that cannot reach the reduction or change nothing are left out.
        """
        cost = CostModel(self._groups, self._model, example_input)
        kept = self._kept(plan)
        target = float(cost.reduction(kept))
        found = {1: ({name: list(removed) for name, removed in plan.items()}, target)}
        for round_to in roundings:
            limits = self._limits(plan, round_to)
            if round_to == 1 or cost.largest_reduction(limits) < target:
                continue
            rounded = cost.project_logits(limits.logits(kept), target, limits)
            moved = self._moved(plan, rounded)
            if all(moved != other for other, _ in found.values()):
                found[round_to] = (moved, float(cost.reduction(rounded)))
        return found

    def _limits(self, plan: Mapping[str, Sequence[int]], round_to: int) -> CountLimits:
        limits = CountLimits.of(self._groups, _ANY_RATIO, round_to=round_to)
        pruned = np.array([bool(plan.get(group.name)) for group in self._groups])
        return replace(limits, minimum=np.where(pruned, limits.minimum, limits.units))

    def _kept(self, plan: Mapping[str, Sequence[int]]) -> IntArray:
        counts = [group.num_units - len(_removed_units(group, plan.get(group.name, ()))) for group in self._groups]
        return np.array(counts, dtype=np.int64)

    def _moved(self, plan: Mapping[str, Sequence[int]], kept: IntArray) -> Plan:
        moved = {}
        for group, count in zip(self._groups, kept.tolist(), strict=True):
            removed = _removed_units(group, plan.get(group.name, ()))
            units = self._resized(group, removed, group.num_units - count)
            if units:
                moved[group.name] = group.channels(units)
        return moved

    def _resized(self, group: ChannelGroup, removed: set[int], count: int) -> set[int]:
        """Removed units, ``count`` of them: the cheapest others leave too, or the dearest return."""
        if count == len(removed):
            return removed
        if self._orders is not None and group.name in self._orders:
            order = self._orders[group.name].tolist()
        else:
            modules = dict(self._model.named_modules())
            order = torch.argsort(filter_norms(group, modules), stable=True).tolist()
        inside = [unit for unit in order if unit in removed]
        outside = [unit for unit in order if unit not in removed]
        return set(inside[:count]) | set(outside[: max(0, count - len(inside))])


def time_roundings(
    candidates: Mapping[int, tuple[Plan, float]],
    cut: Callable[[Plan], nn.Module],
    example_input: Any,
    *,
    num_iterations: int = 20,
    num_warmup: int = 3,
) -> list[RoundedPlan]:
    """Time candidates in turns on one batch and return them, the fastest first.

    Args:
        candidates: Rounding -> plan and FLOPs reduction, from :meth:`PlanRounder.candidates`.
        cut: Makes the network of a plan.
        example_input: The batch, a tensor or a tuple of tensors.
        num_iterations: Timed passes of each candidate.
        num_warmup: Untimed passes before them.
    """
    networks = {str(round_to): cut(plan) for round_to, (plan, _) in candidates.items()}
    timings = compare_models(networks, example_input, num_iterations=num_iterations, num_warmup=num_warmup)
    plans = [
        RoundedPlan(round_to, plan, reduction, timings[str(round_to)].p50_ms)
        for round_to, (plan, reduction) in candidates.items()
    ]
    return sorted(plans, key=lambda candidate: candidate.latency_ms)


def _removed_units(group: ChannelGroup, channels: Sequence[int]) -> set[int]:
    removed = set(channels)
    return {index for index, unit in enumerate(group.units) if unit[0] in removed} if removed else set()
