"""What keeps the reward from telling which plan is better on test: too few images, the repair, or what is counted?

    python -m benchmarks.studies.evidence.signal_limits --study DIR [--task NAME] [--target X] [--images N ...] ...

DIR holds a comparison of agents. The plans its searches ended with are measured again after the fast and after the full
refit: on the reward split, on more and more images the dense network was trained on (a reward split can only be larger
with them), and on the test split, which no reward could be better than. What each of these scores says of test after
the full refit is a line and the luck around it (:mod:`benchmarks.studies.agents.signal`). No search sees any of this.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track

from benchmarks.common.arguments import positive, writable
from benchmarks.common.command import reports_errors
from benchmarks.common.provenance import write_result
from benchmarks.common.table import TextTable, report_console
from benchmarks.studies.agents.signal import CONFIDENT, MIN_RUNS, ON_TEST, final_plans, line_through
from benchmarks.studies.engine.cells import read_cells
from benchmarks.studies.engine.networks import NETWORK
from prune_gym.data.splits import TensorSplit
from prune_gym.problem.problem import PruningProblem

IMAGES = (2000, 4000, 8000)
"""Sizes of a larger reward split, by default."""
SEED = 9
"""Decides which training images stand in for it."""

REWARD_SPLIT = "reward split"
SEEN_IMAGES = "training images"
TEST_SPLIT = "test split"

REPAIRS = {"sequential_fast": "fast refit", "sequential": "full refit"}
"""Repairs a search may measure with -> what tables call them."""

Plans = Mapping[tuple[int, ...], Mapping[str, Any]]
Row = dict[str, Any]


def plans_of(folder: Path, task: str, target: float) -> tuple[Plans, str]:
    """The plans a comparison's searches ended with, and the digest of the network they are of.

    Args:
        folder: of the comparison.
        task: name of a task.
        target: FLOPs reduction.

    Raises:
        ValueError: there are too few, some lack the soft accuracy on test, or they are of several networks.
    """
    cells = [cell for cell in read_cells(folder / "cells") if cell["task"] == task]
    plans = final_plans([cell for cell in cells if cell["targets"] == [target]])
    if len(plans) < MIN_RUNS:
        raise ValueError(f"{folder} has {len(plans)} final plans of {task!r} at {target:g}; {MIN_RUNS} are needed")
    if any(metric not in plan for plan in plans.values() for metric in ON_TEST):
        raise ValueError(f"{folder} lacks {' or '.join(ON_TEST)} of a final plan; it was made by an earlier version")
    networks = {cell[NETWORK] for cell in cells}
    if len(networks) > 1:
        raise ValueError(f"{folder} holds runs on {len(networks)} networks; a line through both says nothing")
    return plans, networks.pop()


def limits(task: str, plans: Plans, network: str, images: Sequence[int], console: Console) -> list[Row]:
    """Measure the plans in every way and put a line through each.

    Args:
        task: name of a task.
        plans: kept vector -> its scores on test after the full refit
        (:data:`benchmarks.studies.agents.signal.ON_TEST`).
        network: digest of the network they are of.
        images: how many training images to look at.
        console: where progress is shown.

    Returns:
        One row a (repair, images, way to look at test): ``repair``, ``where`` (:data:`REWARD_SPLIT`,
        :data:`SEEN_IMAGES` or :data:`TEST_SPLIT`), ``images``, ``metric``, and what
        :func:`benchmarks.studies.agents.signal.line_through` finds.

    Raises:
        ValueError: the task's network is another one, or has fewer training images.
    """
    rows: list[Row] = []
    for repair, words in REPAIRS.items():
        problem = PruningProblem(task, repair=repair).load()
        if problem.network_key != network:
            raise ValueError(f"the plans are of another network than that of {task!r} here; train or download that one")
        looks = _looks(problem, images)
        scores = np.array([_scores(problem, kept, looks) for kept in track(plans, words, console=console)])
        for number, (where, split) in enumerate(looks):
            rows += _lines(repair, where, len(split), scores[:, number], plans)
    return rows


def _looks(problem: PruningProblem, images: Sequence[int]) -> list[tuple[str, TensorSplit]]:
    """Where images are from, and the images."""
    task = problem.task
    if not isinstance(task.train, TensorSplit) or not isinstance(task.test, TensorSplit):
        raise ValueError(f"the images of {task.name!r} are not in memory")
    if len(task.train) < max(images):
        raise ValueError(f"{task.name!r} has {len(task.train)} training images; {max(images)} were asked for")
    order = torch.randperm(len(task.train), generator=torch.Generator().manual_seed(SEED))
    seen = [(SEEN_IMAGES, task.train.subset(order[:count])) for count in sorted(images)]
    return [(REWARD_SPLIT, task.reward), *seen, (TEST_SPLIT, task.test)]


def _scores(problem: PruningProblem, kept: Sequence[int], looks: Sequence[tuple[str, TensorSplit]]) -> list[float]:
    """Soft accuracy of a plan on every set of images; those of one kind are a beginning of the largest."""
    largest = dict(looks)
    outputs = problem.evaluator.logits(kept, torch.cat([split.images for split in largest.values()]))
    labels = torch.cat([split.labels for split in largest.values()]).to(outputs.device)
    truth = outputs.double().softmax(dim=1).gather(1, labels[:, None])[:, 0]
    found = dict(zip(largest, truth.split([len(split) for split in largest.values()]), strict=True))
    return [float(found[where][: len(split)].mean()) for where, split in looks]


def _lines(repair: str, where: str, images: int, scores: NDArray[np.float64], plans: Plans) -> list[Row]:
    about = {"repair": repair, "where": where, "images": images}
    test = {metric: np.array([plan[metric] for plan in plans.values()]) for metric in ON_TEST}
    return [{**about, "metric": metric, **line_through(scores, values)} for metric, values in test.items()]


def limits_table(rows: Sequence[Mapping[str, Any]], plans: int) -> TextTable:
    """The rows of :func:`limits`."""
    return TextTable(
        "What limits the reward",
        ("measured after", "on", "on test", "points", "±", "luck", f"lead for P = {CONFIDENT:g}"),
        [
            [
                REPAIRS[row["repair"]],
                f"{row['images']:,} {row['where']}",
                ON_TEST[row["metric"]],
                f"{row['slope']:.2f}",
                f"{row['slope_error']:.2f}",
                f"{100 * row['residual_std']:.2f}",
                "" if row["lead_needed"] is None else f"{100 * row['lead_needed']:.2f}",
            ]
            for row in rows
        ],
        f"{plans} final plans of all searches; points: what a point of the measured soft accuracy is worth on test "
        "after the full refit; luck: standard deviation around that line (points); lead: points by which an agent must "
        "be ahead where plans are measured to be ahead on test with that probability",
    )


@reports_errors(OSError, ValueError, KeyError)
def main(argv: Sequence[str] | None = None) -> int:
    """Measure from the command line.

    Args:
        argv: arguments; absent means those of the process.

    Returns:
        Exit code: 0 done, 2 bad input, 130 interrupted.
    """
    options = _parser().parse_args(argv)
    torch.set_num_threads(1)
    console = Console()
    plans, network = plans_of(options.study, options.task, options.target)
    rows = limits(options.task, plans, network, options.images, console)
    report_console(console).print(limits_table(rows, len(plans)).rich())
    if options.json is not None:
        about = {"task": options.task, "target": options.target, "plans": len(plans), NETWORK: network}
        write_result(options.json, {**about, "rows": rows})
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.studies.evidence.signal_limits",
        description="What keeps the reward from ranking plans as test does.",
    )
    add = parser.add_argument
    add("--study", type=Path, required=True, metavar="DIR", help="folder of a comparison of agents")
    add("--task", default="fashion-resnet20", help="whose plans these are (default: fashion-resnet20)")
    add("--target", type=float, default=0.91, help="FLOPs reduction of the searches (default: 0.91)")
    add(
        "--images",
        type=positive,
        nargs="+",
        default=list(IMAGES),
        metavar="N",
        help="training images to look at (default: %(default)s)",
    )
    add("--json", type=writable, metavar="FILE", help="where to write the result")
    return parser


if __name__ == "__main__":
    sys.exit(main())
