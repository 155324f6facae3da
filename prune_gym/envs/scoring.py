"""Worth of plans under a reward: their value, and the score that a missed target lowers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from prune_gym.cost.budgeted import BudgetedCost
from prune_gym.cost.limits import FloatArray, IntArray
from prune_gym.envs.reward import Reward, violation
from prune_gym.measuring.evaluation import Evaluation

if TYPE_CHECKING:
    from prune_gym.envs.fidelity import Problem


@dataclass(frozen=True)
class PlanState:
    """A plan and what it is worth.

    Attributes:
        kept: int64 [L], kept units.
        evaluation: what the plan scores.
        reduction: its reduction of what the target limits.
        violation: relative shortfall of the reduction.
        value: what the reward finds it worth, without penalty.
        score: value minus the weighted violation.
    """

    kept: IntArray
    evaluation: Evaluation
    reduction: float
    violation: float
    value: float
    score: float


class Scorer:
    """Values and scores of one problem's plans.

    Args:
        problem: what is pruned.
        reward: what counts.
        limited: what the target limits, see :meth:`prune_gym.problem.problem.PruningProblem.cost_of`.
    """

    def __init__(self, problem: Problem, reward: Reward, limited: str | BudgetedCost = "flops") -> None:
        self._problem = problem
        self._reward = reward
        self._limited = limited
        self._cost: BudgetedCost | None = None

    @property
    def cost(self) -> BudgetedCost:
        """Cost that the target limits; latency is measured when first asked for."""
        if self._cost is None:
            self._cost = self._problem.cost_of(self._limited)
        return self._cost

    def state(self, kept: IntArray, evaluation: Evaluation, target: float, weight: float) -> PlanState:
        """A plan [L] with its score, where ``weight`` is lambda."""
        reduction = float(self.cost.reduction(kept))
        short = float(violation(reduction, target))
        value = float(self.values(getattr(evaluation, self._reward.metric), reduction, kept))
        return PlanState(kept, evaluation, reduction, short, value, value - weight * short)

    def values(self, qualities: Any, reductions: Any, kept: IntArray | None) -> Any:
        """Worth of plans, without penalty, [...].

        Args:
            qualities: [...], what they measure in the reward's metric.
            reductions: [...], their reductions of what the target limits.
            kept: int [..., L], the plans; only rewards that weigh something else need them.

        Raises:
            ValueError: the reward weighs latency and the plans are not given.
        """
        return self._reward.value(qualities, self._costs(reductions, kept))

    def drop(self, quality: Any) -> Any:
        """Accuracy lost against the dense network, of plans that measure so much in the reward's metric, [...]."""
        return getattr(self._problem.dense, self._reward.metric) - quality

    def scores(
        self, qualities: FloatArray, reductions: FloatArray, target: float, weight: float, kept: IntArray | None = None
    ) -> FloatArray:
        """Scores float64 [...] of plans under a target and a lambda; arguments as for :meth:`values`."""
        qualities, reductions = np.asarray(qualities, dtype=np.float64), np.asarray(reductions, dtype=np.float64)
        return np.asarray(self.values(qualities, reductions, kept) - weight * violation(reductions, np.float64(target)))

    def _costs(self, reductions: Any, kept: IntArray | None) -> Any:
        """Cost the reward weighs accuracy against: FLOPs, or latency relative to the dense network's, [...].

        Raises:
            ValueError: the reward weighs something that needs the plans, and none are given.
        """
        if self._reward.cost == "flops" and self._limited == "flops":
            return (1.0 - reductions) * self._problem.cost.dense_flops
        if kept is None and not self._reward.weighs_cost:
            return reductions
        if kept is None:
            weighed = "latency" if self._reward.cost == "latency" else "FLOPs"
            raise ValueError(
                f"this reward weighs {weighed}, which needs the plans: score_of(evaluations, reductions, kept)"
            )
        if self._reward.cost == "flops":
            return self._problem.cost.flops_form(kept)
        return self._problem.latency_table.relative(kept)
