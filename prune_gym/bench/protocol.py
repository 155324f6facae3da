"""The protocol of the bench: seeds, targets, networks, and the score that makes results of all of them comparable.

The *normalised score* of a plan is 0 for the knapsack's plan and 1 for the best plan known for that network and target,
``(score - knapsack) / (best - knapsack)`` in soft accuracy. It may be negative, and above 1 where a plan beats all that
are known. Where the two differ by less than :data:`LEAST_GAIN`, the target is no contest and is left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from prune_gym.bench.networks import BenchNetwork
from prune_gym.bench.problem import BenchProblem
from prune_gym.cost.limits import FloatArray, IntArray

SEEDS = (42, 2024, 10086)
"""Seeds of a submission's runs."""

TARGETS = (0.6, 0.75, 0.85, 0.92)
"""FLOPs reductions that plans are asked for; a network is asked for those that it can reach with room to choose."""

EVALUATIONS = 64
"""Distinct plans that a search may score in a run, the start plan included."""

LEAST_GAIN = 0.002
"""Soft accuracy between knapsack and best plan below which a target is no contest."""

REACH = 0.97
"""Share of the largest reachable reduction up to which a target leaves room to choose."""

THRESHOLDS = {"easy": 0.3, "medium": 0.6, "hard": 0.9}
"""Mean normalised scores that count as solved at three levels."""


def reachable(network: BenchNetwork) -> list[float]:
    """Targets of the protocol that a network is asked for."""
    problem = BenchProblem(network)
    most = problem.cost.largest_reduction(problem.cost.limits())
    return [target for target in TARGETS if target <= REACH * most]


@dataclass(frozen=True)
class Scale:
    """Scores between which a contest is normalised.

    Attributes:
        knapsack: soft accuracy of the knapsack's plan, which counts 0.
        best: soft accuracy of the best plan known, which counts 1.
    """

    knapsack: float
    best: float

    @property
    def is_contest(self) -> bool:
        """Return whether there is something to gain."""
        return self.best - self.knapsack >= LEAST_GAIN

    def __call__(self, soft_accuracy: Any) -> Any:
        """Normalised scores of soft accuracies, [...]."""
        return (soft_accuracy - self.knapsack) / max(self.best - self.knapsack, LEAST_GAIN)


def surrogate_scale(problem: BenchProblem, target: float) -> Scale:
    """The scale of a target by the surrogate.

    Raises:
        ValueError: no reference plan is known at this target; those that are get named.
    """
    known = problem.network.references
    if target not in known:
        raise ValueError(
            f"{problem.name} has no reference plan at target {target:g}, only at "
            f"{', '.join(f'{value:g}' for value in sorted(known)) or 'none'}"
        )
    plans = np.stack([problem.start_plan("knapsack", target), known[target]])
    soft = problem.surrogate_metrics(plans)[:, 1].tolist()
    return Scale(soft[0], max(soft))


def contests(problem: BenchProblem) -> dict[float, Scale]:
    """Targets of a network with something to gain, and their scales."""
    scales = {target: surrogate_scale(problem, target) for target in sorted(problem.network.references)}
    return {target: scale for target, scale in scales.items() if scale.is_contest}


def measured_scale(
    kept: IntArray, soft: FloatArray, reductions: FloatArray, knapsack: IntArray, target: float, tolerance: float = 0.02
) -> Scale:
    """The scale of a target by measured plans.

    Args:
        kept: int [N, L], measured plans, the knapsack's among them.
        soft: float64 [N], their soft accuracies.
        reductions: float64 [N], their FLOPs reductions.
        knapsack: int [L], the knapsack's plan.
        target: FLOPs reduction asked for.
        tolerance: plans compete whose reduction is in ``[target, target + tolerance]``.

    Raises:
        ValueError: the knapsack's plan was not measured.
    """
    own = (kept == knapsack).all(axis=1)
    if not own.any():
        raise ValueError(f"the knapsack's plan at target {target:g} is not among the measured plans")
    meets = own | ((reductions >= target) & (reductions <= target + tolerance))
    return Scale(float(soft[own][0]), float(soft[meets].max()))


def best_known(problem: BenchProblem, target: float, known: Sequence[IntArray] = (), seed: int = 0) -> IntArray:
    """The best plan on a target that a long search of the surrogate finds, int64 [L].

    Plans are moved in logit space and projected onto the target, the best survive; then single units are exchanged
    between layers until no exchange helps.

    Args:
        problem: with a surrogate.
        target: FLOPs reduction to reach.
        known: plans to start from besides knapsack and uniform, for example the best measured ones.
        seed: of the moves.

    Raises:
        ValueError: a target out of reach.
    """
    limits = problem.cost.limits()
    rng = np.random.default_rng(seed)
    given = [plan for plan in known if problem.cost.reduction(plan) >= target and limits.contains(plan)]
    start = [problem.start_plan(name, target) for name in ("knapsack", "uniform")]
    pool: IntArray = np.unique(np.stack([*start, *given]), axis=0)
    for width in (1.5, 1.0, 0.7, 0.5, 0.35, 0.25, 0.15):
        parents = pool[rng.integers(len(pool), size=1024)]
        some = rng.random(parents.shape) < rng.choice([0.2, 0.5, 1.0], size=(len(parents), 1))
        moves = width * rng.normal(size=parents.shape) * some
        moved = problem.cost.project_logits(limits.logits(parents) + moves, target, limits)
        pool = np.unique(np.concatenate([pool, moved]), axis=0)
        pool = pool[np.argsort(-problem.surrogate_metrics(pool)[:, 1], kind="stable")[:32]]
    return _exchanged(problem, pool[0], target)


def _exchanged(problem: BenchProblem, plan: IntArray, target: float) -> IntArray:
    """A plan after the best exchange of units between two layers, again and again while one helps."""
    limits, layers = problem.cost.limits(), len(plan)
    steps = np.eye(layers, dtype=np.int64)
    both = [up * a - down * b for a in steps for b in steps for up in (0, 1, 2) for down in (0, 1, 2)]
    changes = np.unique(np.stack(both), axis=0)
    while True:
        candidates = plan + changes
        legal = limits.contains(candidates) & (problem.cost.reduction(candidates) >= target)
        candidates = np.concatenate([plan[None], candidates[legal]])
        best = candidates[problem.surrogate_metrics(candidates)[:, 1].argmax()]
        if (best == plan).all():
            return plan
        plan = best
