"""Automatic rounding: which counts near a plan run fastest on this machine, at no more FLOPs.

Three steps. The plan is rounded to several multiples and timed in turns. Around the fastest, layers are moved a little
against each other by the times of their modules (:mod:`prune_gym.surgery.rebalance`). Then all of them are timed in
turns, and whole networks' times decide.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from hessian.channels.slicing import NetworkSlicer
from prune_gym.cost.limits import FloatArray, IntArray
from prune_gym.support.timing import check_counts, compare_models
from prune_gym.surgery.rebalance import Neighbourhood, rebalanced
from prune_gym.surgery.rounding import Plan, PlanRounder
from prune_gym.surgery.state_dict import shrink_to
from prune_gym.surgery.tracing import restore_properties

ROUNDINGS = (1, 4, 8, 16, 32)
"""Multiples that are tried; 1 is the plan as it is."""

_FEWEST_TRIALS = 3
_REGISTER = 8
"""Numbers of 32 bits in a vector register of 256."""


@dataclass(frozen=True)
class RoundedPlan:
    """A candidate of automatic rounding.

    Attributes:
        round_to: Kept channels of every pruned layer are a multiple of this (or all of them); 1 for the plan as it is.
        plan: Layer name -> removed channel indices.
        flops_reduction: Fraction of the dense FLOPs removed.
        latency_ms: Median time of the example batch on the model's device, in ms.
        rebalanced: Whether layers were moved against each other by their measured times.
    """

    round_to: int
    plan: Plan
    flops_reduction: float
    latency_ms: float
    rebalanced: bool = False


def time_roundings(
    rounder: PlanRounder,
    plan: Mapping[str, Sequence[int]],
    cut: Callable[[Plan], nn.Module],
    example_input: Any,
    *,
    curves: Sequence[FloatArray] | None = None,
    num_iterations: int = 20,
    num_warmup: int = 3,
) -> list[RoundedPlan]:
    """Round a plan in several ways, time them in turns on one batch and return them, the fastest first.

    Args:
        rounder: Rounds plans of the network.
        plan: Layer name -> removed channel indices, checked beforehand.
        cut: Makes the network of a plan.
        example_input: The batch, a tensor or a tuple of tensors, in the network's memory format.
        curves: Predicted loss of removing k units of every layer, float64 [num_units] each; rebalancing then never
            predicts a larger loss than the rounding it starts from. None for no such bound.
        num_iterations: Timed passes of each candidate, >= 1.
        num_warmup: Untimed passes before them.

    Raises:
        ValueError: If a number of passes is out of range.
    """
    check_counts(num_iterations, num_warmup)
    found = {round_to: rounder.moved(plan, kept) for round_to, kept in rounder.candidates(plan, ROUNDINGS).items()}
    networks = {(round_to, False): cut(rounded) for round_to, rounded in found.items()}
    plans = {(round_to, False): rounded for round_to, rounded in found.items()}
    if len(found) > 1:
        trial = _medians(networks, example_input, max(_FEWEST_TRIALS, num_iterations // 2), num_warmup)
        best = min(found, key=lambda round_to: trial[round_to, False])
    else:
        best = 1
    # Half a block, where that fills vector registers still, leaves layers more room to move.
    finer = best // 2 if best >= 2 * _REGISTER else best
    balanced = _rebalanced(rounder, plan, best, finer, example_input, curves)
    if balanced is not None and balanced not in plans.values():
        plans[finer, True], networks[finer, True] = balanced, cut(balanced)
    latencies = _medians(networks, example_input, num_iterations, num_warmup)
    candidates = [
        RoundedPlan(key[0], rounded, rounder.reduction(rounded), latencies[key], key[1])
        for key, rounded in plans.items()
    ]
    return sorted(candidates, key=lambda candidate: candidate.latency_ms)


_Key = tuple[int, bool]


def _medians(
    networks: Mapping[_Key, nn.Module], example_input: Any, num_iterations: int, num_warmup: int
) -> dict[_Key, float]:
    named = {str(key): network for key, network in networks.items()}
    timings = compare_models(named, example_input, num_iterations=num_iterations, num_warmup=num_warmup)
    return {key: timings[str(key)].p50_ms for key in networks}


def _rebalanced(
    rounder: PlanRounder,
    plan: Mapping[str, Sequence[int]],
    round_to: int,
    finer: int,
    example_input: Any,
    curves: Sequence[FloatArray] | None,
) -> Plan | None:
    """The plan at a rounding, with layers moved against each other by finer steps; None if that gains nothing."""
    near = Neighbourhood.of(
        rounder.kept(plan),
        rounder.candidates(plan, (round_to,))[round_to],
        rounder.limits(plan, finer),
        rounder.reduction(plan),
        curves,
    )
    slicer = NetworkSlicer(rounder.model, rounder.groups)

    def variant(kept: IntArray) -> nn.Module:
        network = shrink_to(copy.deepcopy(rounder.model), slicer.cut(rounder.moved(plan, kept)).state())
        restore_properties(network, rounder.model)
        return network

    inputs = tuple(example_input) if isinstance(example_input, (tuple, list)) else (example_input,)
    kept = rebalanced(near, rounder.cost, variant, inputs)
    return None if kept is None else rounder.moved(plan, kept)
