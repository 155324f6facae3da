"""How the FLOPs target binds: as a penalty on the score, or as a projection of every plan."""

from __future__ import annotations

from dataclasses import dataclass

from hessian.suggestions import unknown
from prune_gym.cost import CostModel
from prune_gym.limits import CountLimits, FloatArray, IntArray


@dataclass(frozen=True)
class SoftConstraint:
    """Plans are what the action says; the score penalises a missed target."""

    projects = False

    def plan(self, logits: FloatArray, cost: CostModel, limits: CountLimits, target: float | FloatArray) -> IntArray:
        """Kept counts int64 [..., L] of pruning ratios given in logit space [..., L]."""
        return limits.from_logits(logits)


@dataclass(frozen=True)
class HardConstraint:
    """Every plan is moved to the smallest reachable FLOPs reduction at or above the target."""

    projects = True

    def plan(self, logits: FloatArray, cost: CostModel, limits: CountLimits, target: float | FloatArray) -> IntArray:
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
