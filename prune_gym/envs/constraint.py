"""Constraints: the target binds as a penalty on the score, or as a projection of every plan."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hessian.support.names import unknown
from prune_gym.cost.budgeted import BudgetedCost
from prune_gym.cost.limits import CountLimits, FloatArray, IntArray
from prune_gym.cost.target import bounds


@dataclass(frozen=True)
class SoftConstraint:
    """Plans are what the action says; the score penalises a missed target."""

    projects = False

    def plan(self, logits: FloatArray, cost: BudgetedCost, limits: CountLimits, target: float | FloatArray) -> IntArray:
        """Kept counts int64 [..., L] of pruning ratios given in logit space [..., L]."""
        return limits.from_logits(logits)


@dataclass(frozen=True)
class HardConstraint:
    """Every plan is moved to the smallest reachable reduction at or above the target."""

    projects = True

    def plan(self, logits: FloatArray, cost: BudgetedCost, limits: CountLimits, target: float | FloatArray) -> IntArray:
        """Kept counts int64 [..., L], on the target, of pruning ratios given in logit space [..., L]."""
        return cost.project_logits(logits, target, limits)


Constraint = SoftConstraint | HardConstraint

CONSTRAINT_NAMES = ("soft", "hard")
"""Constraints :func:`make_constraint` knows by name."""


def make_constraint(name: str | Constraint) -> Constraint:
    """A constraint by its name (an object passes through).

    Raises:
        ValueError: unknown name; the known ones are listed.
    """
    if isinstance(name, (SoftConstraint, HardConstraint)):
        return name
    if name not in CONSTRAINT_NAMES:
        raise ValueError(unknown("constraint", name, CONSTRAINT_NAMES))
    return SoftConstraint() if name == "soft" else HardConstraint()


RESOLUTION = 0.01
"""Sampled targets are at most this far apart, so that episodes of nearly the same target share one start plan."""


@dataclass(frozen=True)
class TargetRange:
    """Targets in [low, high], fractions in (0, 1)."""

    low: float
    high: float

    @classmethod
    def of(cls, target: float | Sequence[float] | None, default: float) -> TargetRange:
        """Read what a user gave: a number, a pair, or None for the default.

        Raises:
            ValueError: not a number in (0, 1) or an ascending pair of such.
        """
        return cls(*bounds("target", default if target is None else target))

    def sample(self, generator: np.random.Generator) -> float:
        """One target, uniform over an even grid from low to high; draws nothing where there is a single target."""
        if self.low == self.high:
            return self.low
        points = int(np.ceil((self.high - self.low) / RESOLUTION - 1e-9)) + 1
        return float(np.linspace(self.low, self.high, points)[generator.integers(points)])

    def choose(self, options: Mapping[str, Any], generator: np.random.Generator) -> float:
        """The target of an episode: from the reset options ``{"target": x}``, or sampled.

        Raises:
            ValueError: an unknown option, or a target that is not a number in (0, 1).
        """
        for name in options:
            if name != "target":
                raise ValueError(unknown("reset option", name, ("target",)))
        if options.get("target") is None:
            return self.sample(generator)
        target = TargetRange.of(options["target"], self.low)
        if target.low != target.high:
            raise ValueError(f"options['target'] is a single reduction; got {options['target']!r}")
        return target.low
