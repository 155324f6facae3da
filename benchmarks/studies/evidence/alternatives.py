"""Other ways to build R-SPAR, compared on a surrogate: which of its parts matter, and which others would do as well.

    python -m benchmarks.studies.evidence.alternatives --evaluations FILE [--task NAME] [--target X] [--seeds S ...] ...

FILE is the ``evaluations.csv`` of a comparison of agents. Nothing is measured; what is compared is the score without
luck of the plan each variant ends with (:mod:`benchmarks.studies.evidence.surrogate`).
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from rich.console import Console

import prune_gym  # noqa: F401  registers the environments
from agents.interface.monitor import until
from agents.interface.protocol import TOLERANCE
from agents.model.acquisition import ExpectedImprovement, Proposer, UpperConfidence
from agents.registry import create
from agents.rspar.state import ImaginationSettings
from benchmarks.common.arguments import check_distinct, positive, writable
from benchmarks.common.command import reports_errors
from benchmarks.common.provenance import write_result
from benchmarks.common.table import TextTable, percent, percent_range, report_console
from benchmarks.stat_tests.aggregates import interquartile_mean, probability_of_improvement, stratified_bootstrap
from benchmarks.stat_tests.samples import few_seeds_are_stated
from benchmarks.studies.agents.cells import MAX_REVISITS
from benchmarks.studies.evidence.surrogate import SurrogateFidelity, read_plans
from prune_gym.problem.problem import PruningProblem

REFERENCE = "R-SPAR"
NEAR = 0.03
"""The surrogate is fitted to plans whose FLOPs reduction is this near to the target."""
Options = Callable[[], dict[str, Any]]

VARIANTS: dict[str, tuple[str, Options]] = {
    REFERENCE: ("rspar", dict),
    "the policy's samples only, no variations of measured plans": (
        "rspar",
        lambda: {
            "proposer": Proposer(ExpectedImprovement(), candidates=1, refinements=0),
            "imagination": ImaginationSettings(broad=0),
        },
    ),
    "no broad moves beside the policy's samples": ("rspar", lambda: {"imagination": ImaginationSettings(broad=0)}),
    "twice the candidates, twice the rounds": (
        "rspar",
        lambda: {"proposer": Proposer(ExpectedImprovement(), candidates=1024, refinements=5)},
    ),
    "no policy (the Gaussian process alone)": ("gp", dict),
    "no policy, and a quadratic trend": ("gp", lambda: {"trend": "quadratic"}),
    "no reward model (plain PPO, 16 steps an update)": ("rspar", lambda: {"imagination": None, "n_steps": 16}),
    "greedy: largest expected score": ("rspar", lambda: {"proposer": Proposer(UpperConfidence(0.0))}),
    "upper confidence bound, 1 deviation": ("rspar", lambda: {"proposer": Proposer(UpperConfidence(1.0))}),
    "upper confidence bound, 2 deviations": ("rspar", lambda: {"proposer": Proposer(UpperConfidence(2.0))}),
    "candidates are not refined": ("rspar", lambda: {"proposer": Proposer(ExpectedImprovement(), refinements=0)}),
    "20 incumbents instead of 5": ("rspar", lambda: {"proposer": Proposer(ExpectedImprovement(), incumbents=20)}),
    "a quarter of the imagined moves": (
        "rspar",
        lambda: {"imagination": ImaginationSettings(moves=128, batch_size=128)},
    ),
    "first moves half as large": ("rspar", lambda: {"initial_std": 0.1}),
    "first moves twice as large": ("rspar", lambda: {"initial_std": 0.4}),
    "CMA-ES": ("cmaes", dict),
}
"""Name -> agent and how to make its options."""


def run(
    problem: PruningProblem, fidelity: SurrogateFidelity, variant: str, target: float, evaluations: int, seed: int
) -> dict[str, Any]:
    """Search once.

    Returns:
        ``truth`` (score without luck of the best plan seen), ``seen`` (its score with luck), ``seconds`` of the agent.
    """
    agent_name, options = VARIANTS[variant]
    env = gym.make(
        "HOBSPrune-v0",
        problem=problem,
        fidelity=fidelity,
        target_flops_reduction=target,
        constraint="hard",
        disable_env_checker=True,
    )
    agent = create(agent_name, env, seed, **options())
    started = time.process_time()
    agent.learn(env, MAX_REVISITS * evaluations, callback=until(evaluations))
    seconds = time.process_time() - started
    env.reset(options={"target": target})
    kept, found = env.unwrapped.best_plan(TOLERANCE)  # type: ignore[attr-defined]
    truth = float(fidelity.truth(problem, kept[None])[0])
    return {"variant": variant, "seed": seed, "truth": truth, "seen": found.soft_accuracy, "seconds": seconds}


def summarise(runs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One row a variant: interquartile means, intervals, and the reference's probability of improvement over it."""
    groups = {variant: [run for run in runs if run["variant"] == variant] for variant in VARIANTS}
    ours = [run["truth"] for run in groups[REFERENCE]]
    rows = []
    for variant, group in groups.items():
        theirs = [run["truth"] for run in group]
        if not theirs or not ours:
            continue
        chance = stratified_bootstrap(probability_of_improvement, [ours], [theirs]) if variant != REFERENCE else None
        rows.append(
            {
                "variant": variant,
                "runs": len(group),
                "truth": asdict(stratified_bootstrap(interquartile_mean, [theirs])),
                "seen": interquartile_mean([[run["seen"] for run in group]]),
                "improvement": None if chance is None else asdict(chance),
                "seconds": float(np.mean([run["seconds"] for run in group])),
            }
        )
    return rows


@reports_errors(OSError, ValueError, KeyError)
def main(argv: Sequence[str] | None = None) -> int:
    """Compare from the command line.

    Args:
        argv: arguments; absent means those of the process.

    Returns:
        Exit code: 0 done, 2 bad input, 130 interrupted.
    """
    options = _parser().parse_args(argv)
    check_distinct("--seeds", options.seeds)
    torch.set_num_threads(1)
    console = Console()
    kept, soft_accuracy = read_plans(options.evaluations, options.task)
    problem = PruningProblem(options.task).load()
    near = np.abs(problem.cost.reduction(kept) - options.target) <= NEAR
    fidelity = SurrogateFidelity(problem, kept[near], soft_accuracy[near])
    fit = fidelity.fit
    console.print(f"{fit.plans} plans, left-out Spearman {fit.spearman:.3f}, R^2 {fit.r_squared:.3f}", highlight=False)
    runs = []
    for seed in options.seeds:
        for variant in VARIANTS:
            runs.append(run(problem, fidelity, variant, options.target, options.budget, seed))
            line = f"seed {seed}, {variant}: {100 * runs[-1]['truth']:.2f} %, {runs[-1]['seconds']:.1f} s"
            console.print(line, style="dim", highlight=False)
        with few_seeds_are_stated():
            rows = summarise(runs)
        if options.json is not None:
            about = {"task": options.task, "target": options.target, "evaluations": options.budget}
            write_result(options.json, {**about, "fit": asdict(fit), "rows": rows, "runs": runs})
    report_console(console).print(alternatives_table(rows).rich())
    return 0


def alternatives_table(rows: Sequence[Mapping[str, Any]]) -> TextTable:
    """The rows of :func:`summarise`, best first."""
    ordered = sorted(rows, key=lambda row: -row["truth"]["value"])
    runs = max(row["runs"] for row in rows)
    return TextTable(
        f"R-SPAR and others on a surrogate, {runs} runs each",
        ("variant", "true score", "[95 %]", "as seen", f"P({REFERENCE} >)", "[95 %]", "own s"),
        [_cells(row) for row in ordered],
        "soft accuracies in %, interquartile means over seeds; as seen: with the luck of the plan chosen",
    )


def _cells(row: Mapping[str, Any]) -> list[str]:
    truth, chance = row["truth"], row["improvement"]
    return [
        row["variant"],
        percent(truth["value"]),
        percent_range(truth["low"], truth["high"]),
        percent(row["seen"]),
        "" if chance is None else f"{chance['value']:.2f}",
        "" if chance is None else f"{chance['low']:.2f} - {chance['high']:.2f}",
        f"{row['seconds']:.1f}",
    ]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.studies.evidence.alternatives",
        description="Other ways to build R-SPAR, compared on a surrogate.",
    )
    add = parser.add_argument
    add("--evaluations", type=Path, required=True, metavar="FILE", help="evaluations.csv of a comparison of agents")
    add("--task", default="fashion-resnet20", help="whose plans these are (default: fashion-resnet20)")
    add("--target", type=float, default=0.91, help="FLOPs reduction (default: 0.91)")
    add("--budget", type=positive, default=128, help="evaluations a run (default: 128)")
    add("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    add("--json", type=writable, metavar="FILE", help="where to write the result")
    return parser


if __name__ == "__main__":
    sys.exit(main())
