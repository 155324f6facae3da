"""Scores of pruning plans. The reward of a move is the change of the score.

A score is ``value - lambda * violation``: what the plan is worth, minus a penalty for missing the FLOPs target,
``violation = max(0, target - reduction) / target``. Under the hard constraint nothing is ever violated.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from hessian.support.names import unknown
from prune_gym.measuring.evaluation import Metric

FloatOrArray = float | NDArray[np.float64]
Cost = Literal["flops", "latency"]
"""Cost a reward weighs accuracy against: FLOPs, or latency relative to the dense network's."""

LAMBDA_0 = 3.0
TAU = 1.0


def violation(reduction: FloatOrArray, target: FloatOrArray) -> Any:
    """Relative shortfall ``max(0, target - reduction) / target``, in [0, 1]; 0 for a target of 0."""
    if isinstance(reduction, float) and isinstance(target, float):
        return max(0.0, target - reduction) / target if target > 0.0 else 0.0
    return np.maximum(0.0, target - reduction) / np.maximum(target, np.finfo(np.float64).tiny)


@dataclass(frozen=True)
class LambdaSchedule:
    """Penalty weight ``lambda(t) = lambda_0 * exp(-tau * (accuracy of the dense network - of the last plan))``.

    Attributes:
        lambda_0: weight for a plan as good as the dense network, at least 0.
        tau: how fast the weight falls as plans lose accuracy, at least 0; 0 keeps it fixed.
    """

    lambda_0: float = LAMBDA_0
    tau: float = TAU

    def __post_init__(self) -> None:
        for name in ("lambda_0", "tau"):
            value = getattr(self, name)
            if not (np.isfinite(value) and value >= 0.0):
                raise ValueError(f"{name} is a finite number, at least 0; got {value!r}")

    def __call__(self, accuracy_drop: float) -> float:
        """Weight after a plan that lost this much accuracy (a fraction; negative where it gained)."""
        return float(self.lambda_0 * np.exp(-self.tau * accuracy_drop))


@dataclass(frozen=True)
class AccuracyFlops:
    """Accuracy minus the weighted violation of the FLOPs target (the default).

    *Why these defaults.* Missing the target must not pay. Let ``a(r)`` be the accuracy that good plans reach at FLOPs
    reduction r. Stopping short of the target T at ``r = T (1 - v)`` gains ``a(r) - a(T)`` and costs ``lambda * v``. It
    never pays while ``lambda > (a(r) - a(T)) / v`` for all r < T, which near T is the elasticity ``T * |a'(T)|``.
    On the digits task (dense 0.995, knapsack plans, reward split) the right-hand side is at most 0.3 for T = 0.9, 1.3
    for 0.94, 1.7 for 0.97 and 6 for 0.98. Adaptation gives ``lambda_0 * exp(-tau * drop)`` with ``drop`` of 0.01, 0.03
    and 0.06 for the first three, so ``lambda_0 = 3`` and ``tau = 1`` leave 3.0, 2.9 and 2.8, factors of 11, 2.3 and
    1.7 above it, and, as no drop exceeds 1, never less than 1.1. A larger weight is safer but drowns the differences a
    search is after, because random moves miss the target by tens of percent. A larger tau relaxes the target while the
    network is damaged, so that a search may cross infeasible plans; it wants a larger ``lambda_0``. Targets at which
    the network falls apart want ``constraint="hard"``.

    Attributes:
        metric: what accuracy means: ``"soft_accuracy"`` (mean probability of the true class) or ``"accuracy"`` (top-1,
            constant over whole neighbourhoods of plans).
        schedule: the penalty weight.
    """

    metric: Metric = "soft_accuracy"
    schedule: LambdaSchedule = field(default_factory=LambdaSchedule)
    cost: Cost = "flops"
    weighs_cost = False
    needs_hard_constraint = False

    def value(self, quality: FloatOrArray, cost: FloatOrArray) -> FloatOrArray:
        """Worth of plans by themselves, given their :attr:`metric` and FLOPs, [...]."""
        return quality


@dataclass(frozen=True)
class AMCAccuracy:
    """AMC's ``R_err`` (He et al., ECCV 2018): top-1 accuracy alone; the budget is the constraint's business."""

    metric: Metric = "accuracy"
    schedule: LambdaSchedule = field(default_factory=lambda: LambdaSchedule(0.0, 0.0))
    cost: Cost = "flops"
    weighs_cost = False
    needs_hard_constraint = True

    def value(self, quality: FloatOrArray, cost: FloatOrArray) -> FloatOrArray:
        """Top-1 accuracy, a fraction, [...]."""
        return quality


@dataclass(frozen=True)
class AMCFlops:
    """AMC's ``R_FLOPs = -error * log(FLOPs)`` (He et al., ECCV 2018): trades both, knows no target."""

    metric: Metric = "accuracy"
    schedule: LambdaSchedule = field(default_factory=lambda: LambdaSchedule(0.0, 0.0))
    cost: Cost = "flops"
    weighs_cost = True
    needs_hard_constraint = False

    def value(self, quality: FloatOrArray, cost: FloatOrArray) -> FloatOrArray:
        """``-(1 - accuracy) * log(FLOPs)``, [...]."""
        return -(1.0 - quality) * np.log(cost)


@dataclass(frozen=True)
class Latency:
    """Accuracy times a power of the latency: MnasNet's objective (Tan et al., CVPR 2019, equation 2).

    Latencies come from a table measured once (:mod:`prune_gym.cost.latency`), relative to the dense network's.
    MnasNet's reference latency is a constant factor of the value and is left out; missing the FLOPs target is penalised
    as in :class:`AccuracyFlops`.

    Attributes:
        exponent: MnasNet's w: twice the speed is worth ``2 ** -w`` times the accuracy, about 5 %.
        metric: what accuracy means.
        schedule: the penalty weight.
    """

    exponent: float = -0.07
    metric: Metric = "soft_accuracy"
    schedule: LambdaSchedule = field(default_factory=LambdaSchedule)
    cost: Cost = "latency"
    weighs_cost = True
    needs_hard_constraint = False

    def value(self, quality: FloatOrArray, cost: FloatOrArray) -> FloatOrArray:
        """``accuracy * (latency / dense latency) ** exponent``, [...]."""
        return quality * cost**self.exponent


Reward = AccuracyFlops | AMCAccuracy | AMCFlops | Latency

REWARD_NAMES = ("accuracy_flops", "accuracy_flops_fixed", "top1_flops", "amc_accuracy", "amc_flops", "latency")
"""Rewards :func:`make_reward` knows by name."""


def make_reward(name: str | Reward, lambda_0: float = LAMBDA_0, tau: float = TAU) -> Reward:
    """A reward by its name (an object passes through).

    Args:
        name: ``"accuracy_flops"`` (adaptive lambda), ``"accuracy_flops_fixed"`` (lambda stays at ``lambda_0``),
            ``"top1_flops"`` (adaptive lambda, top-1 accuracy), ``"amc_accuracy"`` or ``"amc_flops"`` (no lambda), or
            ``"latency"`` (MnasNet's, adaptive lambda).
        lambda_0: initial penalty weight.
        tau: rate of its adaptation.

    Raises:
        ValueError: unknown name (the known ones are listed), or lambda_0 or tau out of range.
    """
    if isinstance(name, (AccuracyFlops, AMCAccuracy, AMCFlops, Latency)):
        return name
    adaptive = LambdaSchedule(lambda_0, tau)
    rewards: dict[str, Reward] = {
        "accuracy_flops": AccuracyFlops(schedule=adaptive),
        "accuracy_flops_fixed": AccuracyFlops(schedule=LambdaSchedule(lambda_0, 0.0)),
        "top1_flops": AccuracyFlops("accuracy", adaptive),
        "amc_accuracy": AMCAccuracy(),
        "amc_flops": AMCFlops(),
        "latency": Latency(schedule=adaptive),
    }
    if name not in rewards:
        raise ValueError(unknown("reward", name, REWARD_NAMES))
    return rewards[name]
