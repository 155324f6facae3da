"""Fidelities against what comes after the search: which cheap score ranks plans by what they are worth in the end?

    python -m benchmarks.studies.audit.fidelities --json FILE [--task NAME] [--target X] [--plans 40] [--repeats 8]

Random moves around the knapsack plan, all on the target, are scored on the reward split after every repair, by labels
(soft accuracy) and without them (KL divergence from the dense network). Each plan is then carried to the end: refit,
reconstruction, fine-tuning with labels, and tested. The table has Spearman's correlations. Some plans are carried to
the end a second time with other images: how far these two agree is all that any score can reach. Every plan is written
as it is done; the same command goes on, and another task or target is added to the same file.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from torch import Tensor, nn
from torch.nn.functional import kl_div, log_softmax

from benchmarks.common.arguments import command_parser, positive, prepare
from benchmarks.common.columns import Column, Columns, Value
from benchmarks.common.command import reports_errors
from benchmarks.common.provenance import describe_machine, write_result
from benchmarks.common.signed import read_signed
from benchmarks.common.table import Table, report_console
from hessian.audit.rank_correlation import RankCorrelation, pooled
from prune_gym.data.splits import TensorSplit
from prune_gym.measuring.evaluator import Evaluator
from prune_gym.problem.problem import PruningProblem
from prune_gym.reconstruction import Reconstruction, Setting, reconstruct
from prune_gym.training.training import evaluate_model, fine_tune

REPAIRS = ("sequential_fast", "sequential", "reconstructed")
SIGNALS = ("predicted", *(f"{repair}, {judge}" for repair in REPAIRS for judge in ("labels", "dense")))
"""Scores of a plan; higher is better for all of them. *Dense* is the negative divergence from the dense network."""

ENDS = ("reconstructed", "fine_tuned")
SETTING = Setting(4e-3, True)
"""Setting of the reconstruction, the same for all plans: a race between several would be one more source of luck."""

UNLABELLED = 5000
LABELLED = 10_000
"""Images of the reconstruction and of the one epoch of fine-tuning, drawn from the train split."""

Row = dict[str, Any]


def scores(problem: PruningProblem, plans: Sequence[Sequence[int]]) -> Callable[[int], dict[str, float]]:
    """A function from a plan's number to its value under every signal."""
    task = problem.task
    evaluators = {repair: Evaluator(task, problem.hobs, repair) for repair in REPAIRS}
    predicted = -problem.predicted_loss(np.array(plans))
    images, labels = task.reward.images, task.reward.labels
    with torch.inference_mode():
        dense = log_softmax(task.model(images).double(), dim=1)

    def of(number: int) -> dict[str, float]:
        found = {"predicted": float(predicted[number])}
        for repair, evaluator in evaluators.items():
            logs = log_softmax(evaluator.logits(plans[number], images).double(), dim=1)
            found[f"{repair}, labels"] = float(logs.exp().gather(1, labels[:, None]).mean())
            found[f"{repair}, dense"] = -float(kl_div(logs, dense, reduction="batchmean", log_target=True))
        return found

    return of


def carried_to_the_end(problem: PruningProblem, refitted: nn.Module, seed: int) -> dict[str, dict[str, float]]:
    """Test scores of a refitted network after its reconstruction, and after fine-tuning that.

    Args:
        problem: its task.
        refitted: changed in place.
        seed: of the images and of their order.
    """
    task = problem.task
    assert isinstance(task.train, TensorSplit)
    assert isinstance(task.test, TensorSplit)
    order = torch.randperm(len(task.train), generator=torch.Generator().manual_seed(seed))
    settings = Reconstruction(candidates=(SETTING,))
    reconstruct(refitted, task.model, _images(task.train, order[:UNLABELLED]), settings, seed=seed)
    found = {"reconstructed": asdict(evaluate_model(refitted, task.test))}
    labelled = task.train.subset(order[:LABELLED])
    fine_tune(
        *(refitted, task.model, labelled),
        epochs=1,
        lr=0.01,
        batch_size=64,
        schedule="cosine",
        temperature=4.0,
        distillation_weight=0.9,
        seed=seed,
    )
    return {**found, "fine_tuned": asdict(evaluate_model(refitted, task.test))}


def _images(split: TensorSplit, indices: Tensor) -> Tensor:
    return split.images[indices]


def ranks(rows: Sequence[Row], signal: str, end: str) -> RankCorrelation:
    """Spearman's correlation of a signal with the soft test accuracy at an end, over plans."""
    pairs = np.array([[row["scores"][signal], row["ends"][0][end]["soft_accuracy"]] for row in rows])
    return pooled([*pairs[:, None]])


def repeated(rows: Sequence[Row], end: str) -> RankCorrelation:
    """Spearman's correlation of the soft test accuracies of plans that were carried to the end twice."""
    twice = [row["ends"] for row in rows if len(row["ends"]) == 2]
    pairs = np.array([[found[end]["soft_accuracy"] for found in ends] for ends in twice])
    return pooled([*pairs[:, None]])


def table(title: str, rows: Sequence[Row]) -> Table:
    """Rank correlations of every signal with every end, and of the ends with themselves."""
    columns: Columns = ("score of a plan", *(Column(name, ".2f") for name in ("reconstructed", "fine-tuned")))
    lines: list[list[Value]] = [[signal, *(ranks(rows, signal, end).value for end in ENDS)] for signal in SIGNALS]
    if sum(len(row["ends"]) == 2 for row in rows) > 1:
        lines.append(["the end itself, again", *(repeated(rows, end).value for end in ENDS)])
    return Table(title, columns, lines, f"Spearman with the soft test accuracy over {len(rows)} plans")


def summary(rows: Sequence[Row]) -> dict[str, Any]:
    """Correlations with intervals, as JSON."""
    found = {signal: {end: asdict(ranks(rows, signal, end)) for end in ENDS} for signal in SIGNALS}
    spreads = {end: float(np.std([row["ends"][0][end]["soft_accuracy"] for row in rows], ddof=1)) for end in ENDS}
    twice = [row["ends"] for row in rows if len(row["ends"]) == 2]
    if len(twice) < 2:
        return {"plans": len(rows), "signals": found, "spread": spreads}
    luck = {
        end: float(np.sqrt(np.mean([(a[end]["soft_accuracy"] - b[end]["soft_accuracy"]) ** 2 / 2 for a, b in twice])))
        for end in ENDS
    }
    again = {end: asdict(repeated(rows, end)) for end in ENDS}
    return {"plans": len(rows), "signals": found, "spread": spreads, "luck": luck, "again": again}


@reports_errors(OSError, ValueError, KeyError, interrupted="interrupted: the same command goes on with the next plan")
def main(argv: Sequence[str] | None = None) -> int:
    """Score plans, carry them to the end, and compare.

    Args:
        argv: arguments; absent means those of the process.

    Returns:
        Exit code: 0 done, 2 bad input, 130 interrupted.
    """
    options = _parser().parse_args(argv)
    from benchmarks.studies.evidence.reward_plans import plans_around

    console = Console()
    problem = PruningProblem(options.task, device=prepare(options)).load()
    task, target = options.task, options.target or problem.default_target
    path = options.json or Path("results/fidelities.json")
    studies, study = _begun(path, task, target)
    rows = study["rows"]
    plans = plans_around(problem, target, options.plans, options.size, options.seed)[1:].tolist()
    _check_same(rows, plans, path)
    score = scores(problem, plans)
    refit = Evaluator(problem.task, problem.hobs, "sequential")
    for number, kept in enumerate(plans):
        row = rows[number] if number < len(rows) else {"kept": kept, "scores": score(number), "ends": []}
        missing = range(len(row["ends"]), 2 if number < options.repeats else 1)
        for seed in missing:
            row["ends"].append(carried_to_the_end(problem, refit.export(kept), seed))
        if number == len(rows):
            rows.append(row)
        if missing:
            described = {"unlabelled": UNLABELLED, "labelled": LABELLED, "machine": describe_machine()}
            study["summary"] = summary(rows) if len(rows) > 2 else None
            write_result(path, {**described, "studies": studies})
            ends = {end: f"{100 * row['ends'][0][end]['accuracy']:.2f} %" for end in ENDS}
            console.print(f"plan {number + 1} of {len(plans)}: {ends}", style="dim", highlight=False)
    if len(rows) > 2:
        report_console(console).print(table(f"{task}, {target:.0%} of the FLOPs removed", rows))
    return 0


def _begun(path: Path, task: str, target: float) -> tuple[list[Row], Row]:
    """All studies of a file, and the one of a task and target, begun where it is not there."""
    studies: list[Row] = []
    if path.is_file():
        studies = read_signed(path, "delete it to start again")["studies"]
    study = next((one for one in studies if (one["task"], one["target"]) == (task, target)), None)
    if study is None:
        study = {"task": task, "target": target, "rows": []}
        studies.append(study)
    return studies, study


def _check_same(rows: Sequence[Row], plans: Sequence[Sequence[int]], path: Path) -> None:
    """Refuse to go on with plans that are not those of the file.

    Raises:
        ValueError: they are not.
    """
    if any(row["kept"] != kept for row, kept in zip(rows, plans, strict=False)):
        raise ValueError(f"{path} holds other plans of this task and target; give another --json")


def _parser() -> argparse.ArgumentParser:
    what = (__doc__ or "").splitlines()[0]
    parser = command_parser("benchmarks.studies.audit.fidelities", what, "task", "json", "gpu", "threads")
    parser.set_defaults(task="fashion-resnet20")
    parser.add_argument("--target", type=float, metavar="X", help="FLOPs reduction (default: the task's)")
    parser.add_argument("--plans", type=positive, default=40, help="random moves (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=8, help="plans carried to the end twice (default: %(default)s)")
    parser.add_argument("--size", type=float, default=0.6, help="largest entry of a move (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the moves (default: %(default)s)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
