"""Models of the reward compared on plans that were measured: which of them knows good plans from better ones.

    python -m benchmarks.studies.evidence.reward_models --evaluations FILE [--task NAME] [--target X] [--json FILE]

FILE is the ``evaluations.csv`` of a comparison of agents. Every model learns from the first plans of a run and is asked
about the best plans of all other runs: their rank correlation with what was measured, and the negative log density of
what was measured (nats a plan, less is better). Nothing is measured.
"""

from __future__ import annotations

import argparse
import csv
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from scipy.stats import norm, spearmanr

from agents.model.experience import damage
from agents.model.reward_model import covariance, log_odds, polynomial
from benchmarks.common.arguments import writable
from benchmarks.common.command import reports_errors
from benchmarks.common.provenance import write_result
from benchmarks.common.table import TextTable, report_console
from prune_gym.problem.problem import PruningProblem

LEARNED = (32, 64, 112)
"""Plans a model has learned from when it is asked."""
BEST = 40
"""Plans of every other run it is asked about, the best ones."""

Floats = NDArray[np.float64]
Run = tuple[NDArray[np.int64], Floats]
Inputs = Callable[[PruningProblem, NDArray[np.int64]], Floats]


def log_share_kept(problem: PruningProblem, kept: NDArray[np.int64]) -> Floats:
    """Another input than the damage: the logarithm of the share of units every layer keeps [N, L]."""
    return np.log(kept / problem.cost.units)


def models() -> dict[str, tuple[Inputs, Callable[[int], Any]]]:
    """Name -> inputs, and the covariance for a number of them."""
    from sklearn.gaussian_process.kernels import RBF, ConstantKernel, DotProduct, Matern, WhiteKernel

    def smooth(shape: Any) -> Any:
        return ConstantKernel(1.0, (1e-2, 1e2)) * shape

    linear, quadratic = polynomial("linear"), polynomial("quadratic")
    cubic = ConstantKernel(0.01, (1e-6, 1e2)) * DotProduct(1.0, (1e-2, 1e2)) ** 3
    noise = WhiteKernel(1e-2, (1e-6, 1.0))
    scales = (0.1, 100.0)
    rough = Matern(3.0, scales, nu=1.5)
    return {
        "quadratic trend": (damage, lambda size: covariance("quadratic")),
        "linear trend (R-SPAR)": (damage, lambda size: covariance("linear")),
        "no trend": (damage, lambda size: smooth(rough) + noise),
        "quadratic trend alone": (damage, lambda size: quadratic + noise),
        "cubic trend": (damage, lambda size: smooth(rough) + cubic + noise),
        "quadratic trend, Matern 5/2": (damage, lambda size: smooth(Matern(3.0, scales, nu=2.5)) + quadratic + noise),
        "linear trend, squared exponential": (damage, lambda size: smooth(RBF(3.0, scales)) + linear + noise),
        "linear trend, a length scale a layer": (
            damage,
            lambda size: smooth(Matern(np.full(size, 3.0), scales, nu=1.5)) + linear + noise,
        ),
        "quadratic trend, shares kept": (log_share_kept, lambda size: covariance("quadratic")),
        "linear trend, shares kept": (log_share_kept, lambda size: covariance("linear")),
    }


def read_runs(path: Path, task: str, target: float, shortest: int) -> dict[str, Run]:
    """Every run at a target, in the order measured: kept int [N, L] and soft accuracy [N].

    Args:
        path: an ``evaluations.csv``.
        task: name of a task.
        target: FLOPs reduction of the runs.
        shortest: runs of fewer plans are left out.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it is another table, or holds fewer than two such runs.
    """
    rows: dict[str, list[tuple[list[int], float]]] = {}
    try:
        with open(path, newline="") as file:
            for row in csv.DictReader(file):
                if row["task"] == task and [float(value) for value in row["targets"].split()] == [target]:
                    plan = [int(count) for count in row["kept"].split()], float(row["soft_accuracy"])
                    rows.setdefault(f"{row['agent']}-{row['seed']}", []).append(plan)
    except (KeyError, ValueError, AttributeError) as error:
        raise ValueError(f"{path} is no table of evaluations (evaluations.csv of a comparison of agents)") from error
    runs = {
        name: (np.array([kept for kept, _ in run]), np.array([score for _, score in run]))
        for name, run in rows.items()
        if len(run) >= shortest
    }
    if len(runs) < 2:
        raise ValueError(f"{path} holds {len(runs)} runs of {shortest} plans for {task!r} at {target:g}; 2 are needed")
    return runs


def assess(problem: PruningProblem, runs: Mapping[str, Run], name: str) -> list[dict[str, Any]]:
    """What one model predicts, from the first plans of every run, of the best plans of the others.

    Returns:
        One row a (run, number of plans learned from): ``model``, ``run``, ``learned``, ``spearman``, ``surprise``
        (negative log density, nats a plan).
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.gaussian_process import GaussianProcessRegressor

    make_inputs, make_kernel = models()[name]
    rows = []
    for asked, (kept, scores) in runs.items():
        unseen, truth = _best_of_others(runs, asked)
        for learned in LEARNED:
            inputs = make_inputs(problem, kept[:learned])
            process = GaussianProcessRegressor(make_kernel(inputs.shape[1]), normalize_y=True)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ConvergenceWarning)
                process.fit(inputs - inputs[0], log_odds(scores[:learned]))
            mean, std = process.predict(make_inputs(problem, unseen) - inputs[0], return_std=True)
            rows.append(
                {
                    "model": name,
                    "run": asked,
                    "learned": learned,
                    "spearman": float(spearmanr(mean, truth).statistic),
                    "surprise": float(-norm.logpdf(log_odds(truth), mean, std).mean()),
                }
            )
    return rows


def _best_of_others(runs: Mapping[str, Run], asked: str) -> Run:
    """The best plans of all runs but one, without those it measured itself."""
    own = set(map(tuple, runs[asked][0].tolist()))
    found: dict[tuple[int, ...], float] = {}
    for name, (kept, scores) in runs.items():
        if name != asked:
            best = np.argsort(-scores, kind="stable")[:BEST]
            found |= dict(zip(map(tuple, kept[best].tolist()), scores[best].tolist(), strict=True))
    plans = [plan for plan in found if plan not in own]
    return np.array(plans), np.array([found[plan] for plan in plans])


def models_table(rows: Sequence[Mapping[str, Any]]) -> TextTable:
    """Means over runs, the best ranking after the first plans on top."""
    names = list(dict.fromkeys(row["model"] for row in rows))

    def mean(name: str, key: str, learned: int) -> float:
        return float(np.mean([row[key] for row in rows if row["model"] == name and row["learned"] == learned]))

    ordered = sorted(names, key=lambda name: -mean(name, "spearman", LEARNED[0]))
    headings = [f"{what} after {learned}" for what in ("ranking", "surprise") for learned in LEARNED]
    return TextTable(
        "Models of the reward, asked about the best plans of other runs",
        ("model", *headings),
        [
            [name, *(f"{mean(name, key, learned):.2f}" for key in ("spearman", "surprise") for learned in LEARNED)]
            for name in ordered
        ],
        "ranking: Spearman correlation with what was measured; surprise: negative log density, nats a plan; after so "
        f"many plans of a run, means over {len({row['run'] for row in rows})} runs",
    )


@reports_errors(OSError, ValueError)
def main(argv: Sequence[str] | None = None) -> int:
    """Compare from the command line.

    Args:
        argv: arguments; absent means those of the process.

    Returns:
        Exit code: 0 done, 2 bad input, 130 interrupted.
    """
    options = _parser().parse_args(argv)
    torch.set_num_threads(1)
    console = Console()
    runs = read_runs(options.evaluations, options.task, options.target, max(LEARNED))
    problem = PruningProblem(options.task).load()
    rows = []
    for name in models():
        console.print(name, style="dim", highlight=False)
        rows += assess(problem, runs, name)
    report_console(console).print(models_table(rows).rich())
    if options.json is not None:
        write_result(options.json, {"task": options.task, "target": options.target, "rows": rows})
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.studies.evidence.reward_models",
        description="Models of the reward compared on measured plans.",
    )
    add = parser.add_argument
    add("--evaluations", type=Path, required=True, metavar="FILE", help="evaluations.csv of a comparison of agents")
    add("--task", default="fashion-resnet20", help="whose plans these are (default: fashion-resnet20)")
    add("--target", type=float, default=0.91, help="FLOPs reduction of the runs (default: 0.91)")
    add("--json", type=writable, metavar="FILE", help="where to write the result")
    return parser


if __name__ == "__main__":
    sys.exit(main())
