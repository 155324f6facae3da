"""Worth of every step of the repair: one-shot test accuracy at equal ratios, step by step.

    python -m benchmarks.studies.evidence.one_shot [--task NAME] [--json FILE] [--threads N]

Every layer loses about the same share of its units; nothing is fine-tuned and nothing is chosen, so the test split may
be looked at.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from rich.console import Console

from benchmarks.common.arguments import command_parser, prepare
from benchmarks.common.columns import percent_column
from benchmarks.common.command import reports_errors
from benchmarks.common.provenance import write_result
from benchmarks.common.table import Table, report_console

if TYPE_CHECKING:
    from torch import nn

    from prune_gym.problem.problem import PruningProblem
    from prune_gym.surgery.pruner import PhysicalPruner, Refit

TARGETS = (0.52, 0.75, 0.84)
LADDER: Mapping[str, tuple[str, Refit, bool]] = {
    "magnitude": ("magnitude", "none", False),
    "magnitude + BN recal": ("magnitude", "none", True),
    "magnitude + sequential": ("magnitude", "sequential", False),
    "H-OBS + BN recal": ("hobs", "closed_form", True),
    "H-OBS + sequential": ("hobs", "sequential", False),
}
"""Step -> what orders the units of a layer, the repair of the weights that stay, whether batch norms are taken anew."""

Row = dict[str, Any]


@reports_errors(ValueError, KeyError)
def main(argv: Sequence[str] | None = None) -> int:
    """Measure the steps from the command line.

    Args:
        argv: arguments; absent means those of the process.

    Returns:
        Exit code: 0 done, 2 bad input.
    """
    module, what = "benchmarks.studies.evidence.one_shot", (__doc__ or "").splitlines()[0]
    parser = command_parser(module, what, "task", "json", "gpu", "threads")
    parser.set_defaults(task="fashion-resnet20")
    options = parser.parse_args(argv)
    device = prepare(options)
    # Here, not above, so that help need not wait for PyTorch.
    from prune_gym.problem.problem import PruningProblem
    from prune_gym.training.training import evaluate_model

    problem = PruningProblem(options.task, device=device).load()
    rows = [one_shot(problem, target) for target in TARGETS]
    report_console(Console()).print(ladder_table(rows))
    if options.json is not None and problem.task.test is not None:
        dense = evaluate_model(problem.task.model, problem.task.test).accuracy
        run = {"weights": None, "seed": problem.curvature.seed, "dense_accuracy": dense, "budgets": rows}
        write_result(options.json, {"task": options.task, "curvature": asdict(problem.curvature), "runs": [run]})
    return 0


def one_shot(problem: PruningProblem, target: float) -> Row:
    """Prune a task to equal ratios by every step of the ladder.

    Args:
        problem: the task, with a test split.
        target: FLOPs reduction.

    Returns:
        Target, reduction reached, and step -> test accuracy, a fraction.

    Raises:
        ValueError: the task has no test split, or the target is out of reach.
    """
    from prune_gym.surgery.pruner import PhysicalPruner
    from prune_gym.training.training import evaluate_model

    task = problem.task
    if task.test is None:
        raise ValueError(f"task {task.name!r} has no test split to report on")
    kept = problem.start_plan("uniform", target)
    pruner = PhysicalPruner(task.model, task.example_input[:1], ignored_layers=task.ignored_layers)
    accuracies = {step: evaluate_model(_pruned(problem, pruner, kept, step), task.test).accuracy for step in LADDER}
    return {"target": target, "reduction": float(problem.cost.reduction(kept)), "accuracies": accuracies}


def _pruned(problem: PruningProblem, pruner: PhysicalPruner, kept: Any, step: str) -> nn.Module:
    from prune_gym.measuring.magnitude import rank_by_magnitude

    order, refit, recalibrate = LADDER[step]
    analysis = rank_by_magnitude(problem.task, problem.curvature) if order == "magnitude" else problem.hobs
    plan = analysis.plan(kept.tolist())
    images = problem.task.calibration if refit != "none" or recalibrate else None
    analyzer = problem.hobs if refit == "closed_form" else None
    return pruner.prune(plan, refit=refit, calibration=images, recalibrate_bn=recalibrate, analyzer=analyzer)


def ladder_table(rows: Sequence[Row]) -> Table:
    """Test accuracies, a row a target and a column a step."""
    columns = [percent_column("removed", 0, unit=" %"), *(percent_column(step) for step in LADDER)]
    return Table("", columns, [[row["target"], *row["accuracies"].values()] for row in rows], "test accuracy, %")


if __name__ == "__main__":
    sys.exit(main())
