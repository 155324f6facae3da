"""What is each step of the repair worth? One-shot accuracy at uniform budgets, step by step.

Every layer loses about the same share of its units; nothing is fine-tuned and nothing is chosen, so the test split may
be looked at.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from hessian.patches.filter_norms import filter_norms
from hessian.support.progress import Progress
from prune_gym.problem.problem import PruningProblem
from prune_gym.surgery.pruner import PhysicalPruner, Refit
from prune_gym.training.training import evaluate_model

TARGETS = (0.52, 0.75, 0.84)


@dataclass(frozen=True)
class Step:
    """A way to prune and repair.

    Attributes:
        name: what it is called in tables; everything of H-OBS is refitted, in closed form or sequentially.
        order: which units go first, ``"magnitude"`` or ``"hobs"``.
        refit: how the surviving weights are repaired (:class:`prune_gym.surgery.pruner.PhysicalPruner`).
        recalibrate_bn: whether BatchNorm statistics are taken anew on the calibration split.
    """

    name: str
    order: str
    refit: Refit
    recalibrate_bn: bool


LADDER = (
    Step("magnitude", "magnitude", "none", False),
    Step("magnitude + BN recal", "magnitude", "none", True),
    Step("magnitude + sequential", "magnitude", "sequential", False),
    Step("H-OBS + BN recal", "hobs", "closed_form", True),
    Step("H-OBS + sequential", "hobs", "sequential", False),
)


@dataclass(frozen=True)
class OneShot:
    """Test accuracies at one uniform budget.

    Attributes:
        target: FLOPs reduction asked for.
        reduction: FLOPs reduction reached.
        accuracies: step name -> test accuracy, fractions in [0, 1].
    """

    target: float
    reduction: float
    accuracies: Mapping[str, float]


@dataclass(frozen=True)
class OneShotRun:
    """The ladder on one dense network.

    Attributes:
        weights: name of the file of dense weights, or None for the task's own.
        seed: of the curvature sketch.
        dense_accuracy: test accuracy before pruning, a fraction.
        budgets: a row a target.
    """

    weights: str | None
    seed: int
    dense_accuracy: float
    budgets: tuple[OneShot, ...]


def measure_one_shot(
    problem: PruningProblem, targets: Sequence[float] = TARGETS, progress: Progress | None = None
) -> tuple[float, tuple[OneShot, ...]]:
    """Prune to uniform budgets by every step of the ladder.

    Args:
        problem: the task; it needs a test split.
        targets: FLOPs reductions.
        progress: called with (description, done, total).

    Returns:
        Dense test accuracy and a row a target.

    Raises:
        ValueError: the task has no test split, or a target is out of reach.
    """
    task = problem.task
    if task.test is None:
        raise ValueError(f"task {task.name!r} has no test split to report on")
    plans = [problem.start_plan("uniform", target) for target in targets]
    pruner = PhysicalPruner(task.model, task.example_input[:1], ignored_layers=task.ignored_layers)
    rows = []
    for index, (target, kept) in enumerate(zip(targets, plans, strict=True)):
        accuracies = {}
        for number, step in enumerate(LADDER, start=1):
            network = _pruned(problem, pruner, kept.tolist(), step)
            accuracies[step.name] = evaluate_model(network, task.test).accuracy
            if progress is not None:
                progress(step.name, index * len(LADDER) + number, len(plans) * len(LADDER))
        rows.append(OneShot(target, float(problem.cost.reduction(kept)), accuracies))
    return evaluate_model(task.model, task.test).accuracy, tuple(rows)


def _pruned(problem: PruningProblem, pruner: PhysicalPruner, kept: Sequence[int], step: Step) -> nn.Module:
    plan = problem.hobs.plan(kept) if step.order == "hobs" else magnitude_plan(problem, kept)
    images = problem.task.calibration if step.refit != "none" or step.recalibrate_bn else None
    analyzer = problem.hobs if step.refit == "closed_form" else None
    return pruner.prune(
        plan, refit=step.refit, calibration=images, recalibrate_bn=step.recalibrate_bn, analyzer=analyzer
    )


def magnitude_plan(problem: PruningProblem, kept: Sequence[int]) -> dict[str, list[int]]:
    """The plan that keeps the units with the largest filters (L2 norm), as many a layer as asked for."""
    modules = dict(problem.task.model.named_modules())
    plan = {}
    for group, count in zip(problem.groups, kept, strict=True):
        smallest = torch.argsort(filter_norms(group, modules), stable=True)[: group.num_units - count]
        if len(smallest):
            plan[group.name] = group.channels(smallest.tolist())
    return plan
