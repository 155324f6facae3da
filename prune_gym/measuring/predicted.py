"""The few measured plans that the map from predicted losses to metrics is fitted to."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from hessian.support.progress import Progress
from prune_gym.allocation.knapsack import knapsack
from prune_gym.allocation.loss_curves import LossCurves
from prune_gym.cost.limits import CountLimits, FloatArray, IntArray
from prune_gym.cost.model import CostModel
from prune_gym.measuring.evaluator import Evaluator
from prune_gym.measuring.monotone import PredictedMetrics, fit


def fit_to_measurements(
    evaluator: Evaluator, losses: LossCurves, cost: CostModel, progress: Progress | None = None
) -> PredictedMetrics:
    """Measure the unpruned network and about 20 plans, and fit the maps to them.

    Args:
        evaluator: measures plans.
        losses: predicts their losses.
        cost: the network's cost model.
        progress: called with (description, done, total).
    """
    plans = [cost.units, *probe_plans(losses.curves, cost, cost.limits())]
    if evaluator.one_by_one is None:
        evaluator.evaluate_many([plan.tolist() for plan in plans])
    measured = []
    for done, plan in enumerate(plans, start=1):
        measured.append(dataclasses.astuple(evaluator.evaluate(plan.tolist())))
        if progress is not None:
            progress("fitting predictions", done, len(plans))
    return fit(losses.log_of_plans(np.array(plans)), np.array(measured))


def probe_plans(
    curves: Sequence[FloatArray], cost: CostModel, limits: CountLimits, count: int = 20, seed: int = 0
) -> list[IntArray]:
    """Plans that cover the range of reductions: half of them knapsack solutions, half those with every ratio jittered.

    The remaining FLOPs fall geometrically from 80 % to the least reachable, since accuracy falls at deep cuts.

    Args:
        curves: predicted loss curves, as for :func:`prune_gym.allocation.knapsack.knapsack`.
        cost: the network's cost model.
        limits: legal counts.
        count: number of plans (rounded up to even; duplicates are dropped).
        seed: seed of the jitter.
    """
    generator = np.random.default_rng(seed)
    least = max(1.0 - cost.largest_reduction(limits), 1e-3)
    remaining = np.geomspace(max(0.8, least), least, (count + 1) // 2)
    plans = []
    for target in np.minimum(1.0 - remaining, cost.largest_reduction(limits)):
        plan = knapsack(curves, cost, float(target), limits=limits)
        jitter = generator.normal(scale=0.7, size=len(plan))
        plans += [plan, cost.project_logits(limits.logits(plan) + jitter, float(target), limits)]
    return [np.array(plan) for plan in dict.fromkeys(tuple(plan.tolist()) for plan in plans)]
