"""R-SPAR trained on one task, at work on others: at once, and after a few measured evaluations there.

    python -m benchmarks.studies.transfer --config FILE [--minutes M] [KEY=VALUE ...]

A policy is trained on the source task for every seed and carried to every other task, where it acts without learning
(zero-shot) and then learns, beside an agent that begins there. Every run is a file in ``save_dir/cells``; the same
command goes on with what is left. Tables go to the terminal and, as ``transfer.md`` and ``transfer.json``, to
``save_dir``.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from benchmarks.common.columns import Interval, percent_column
from benchmarks.common.command import reports_errors
from benchmarks.common.provenance import versions, write_result
from benchmarks.common.signed import write_signed
from benchmarks.common.table import Table, report_console
from benchmarks.stat_tests.aggregates import interquartile_mean, probability_of_improvement, stratified_bootstrap
from benchmarks.stat_tests.samples import few_seeds_are_stated
from benchmarks.studies.agents.sources import SourceAgents, trained_on
from benchmarks.studies.engine.cells import mixed_versions, read_cells, read_object
from benchmarks.studies.engine.command import (
    Deadline,
    check_targets,
    prepared_device,
    refuse_changes,
    study_parser,
    warn,
)
from benchmarks.studies.engine.networks import NETWORK, MeasuredNetworks, dense_name
from benchmarks.studies.transfer.config import TransferConfig
from benchmarks.studies.transfer.runs import carry_over
from hessian.support.files import write_atomic
from prune_gym.problem.problem import PruningProblem

SAME_STUDY = ("source", "evaluations", "environment", "options")
"""Keys whose change makes runs incomparable."""
LOOKS = (0.25, 1.0)
"""Shares of the evaluations after which learning is looked at."""
SOURCE_NETWORK = "source_network"
"""Key of a run: digest of what its policy was trained on."""

Row = dict[str, Any]


@reports_errors(OSError, ValueError, KeyError, interrupted="interrupted: the same command goes on with the next run")
def main(argv: Sequence[str] | None = None) -> int:
    """Run the study, or what is left of it.

    Args:
        argv: arguments; absent means those of the process.

    Returns:
        Exit code: 0 done (or out of time), 2 bad input, 130 interrupted.
    """
    options = _parser().parse_intermixed_args(argv)
    config = TransferConfig.load(options.config, options.overrides)
    device = prepared_device(options, config)
    _open_folder(config)
    console = Console()
    _run(config, device, console, options.minutes)
    _report(config, report_console(console))
    return 0


def _open_folder(config: TransferConfig) -> None:
    """Refuse to mix runs of different studies; more tasks, targets or seeds are welcome."""
    path, current = config.save_dir / "study.json", config.model_dump(mode="json")
    if path.is_file():
        stored = read_object(path)
        refuse_changes(config.save_dir, [key for key in SAME_STUDY if stored[key] != current[key]])
    write_signed(path, current)


def _run(config: TransferConfig, device: torch.device, console: Console, minutes: float | None) -> None:
    repair = config.environment.repair
    names = dict.fromkeys((config.source.task, *config.tasks))
    problems = {task: PruningProblem(task, device=device, repair=repair) for task in names}
    _check(config, problems)
    networks, deadline = _networks(config, read_cells(config.save_dir / "cells")), Deadline(minutes, console)
    agents = SourceAgents(
        config.save_dir / "agents",
        config.plans_folder,
        config.source,
        problems[config.source.task],
        config.environment,
        config.options,
    )
    for seed in config.seeds:
        for task in config.tasks:
            for target in config.targets:
                path = _path(config, task, target, seed)
                if path.is_file():
                    continue
                if deadline.passed():
                    return
                source = agents.trained(seed, networks)
                problem = problems[task].load()
                networks.admit(task, problem.network_key)
                row = carry_over(config, seed, target, problem, source)
                networks_of_row = {NETWORK: problem.network_key, SOURCE_NETWORK: trained_on(source)}
                write_signed(path, {**row, **networks_of_row, "versions": versions()})
                console.print(f"{path.stem}: {_in_short(row)}", highlight=False, markup=False, soft_wrap=True)


def _networks(config: TransferConfig, rows: Sequence[Row]) -> MeasuredNetworks:
    """Networks of the tasks, and of the source task in what rows say about their policies."""
    own = ((dense_name(row), row.get(NETWORK)) for row in rows)
    sources = ((config.source.task, row.get(SOURCE_NETWORK)) for row in rows)
    return MeasuredNetworks(config.save_dir, (*own, *sources))


def _check(config: TransferConfig, problems: dict[str, PruningProblem]) -> None:
    for task, problem in problems.items():
        targets = config.source.targets if task == config.source.task else ()
        targets = (*targets, *(config.targets if task in config.tasks else ()))
        check_targets(task, problem, config.environment.max_pruning_ratio, targets)


def _path(config: TransferConfig, task: str, target: float, seed: int) -> Path:
    return config.save_dir / "cells" / f"{task}-{target:g}-seed{seed}.json"


def _in_short(row: Row) -> str:
    values = {
        "start": row["start"]["soft_accuracy"],
        "zero-shot": row["zero_shot"]["soft_accuracy"],
        "transferred": row["transferred"]["best"]["soft_accuracy"],
        "from scratch": row["scratch"]["best"]["soft_accuracy"],
    }
    return ", ".join(f"{name} {100 * value:.2f} %" for name, value in values.items())


def summarise(rows: Sequence[Row], evaluations: int) -> list[Row]:
    """Interquartile means and comparisons for every (task, target).

    Args:
        rows: of :func:`benchmarks.studies.transfer.runs.carry_over`.
        evaluations: measured evaluations of a run.

    Returns:
        One row a (task, target): ``runs``, ``soft_accuracy`` and ``test_accuracy`` (agent -> interquartile mean and
        its interval), and ``chances`` (what -> probability of improvement and its interval).
    """
    looks = [max(1, round(share * evaluations)) for share in LOOKS]
    summary = []
    for task, target in dict.fromkeys((row["task"], row["target"]) for row in rows):
        runs = [row for row in rows if (row["task"], row["target"]) == (task, target)]
        soft = {name: [run[name]["soft_accuracy"] for run in runs] for name in ("start", "zero_shot")}
        test = {name: [run[name]["test_accuracy"] for run in runs] for name in ("start", "zero_shot")}
        for name in ("transferred", "scratch"):
            soft |= {f"{name} {look}": [run[name]["curve"][look - 1] for run in runs] for look in looks}
            test[f"{name} {looks[-1]}"] = [run[name]["best"]["test_accuracy"] for run in runs]
        pairs = [("zero_shot", "start"), *((f"transferred {look}", f"scratch {look}") for look in looks)]
        summary.append(
            {
                "task": task,
                "target": target,
                "runs": len(runs),
                "soft_accuracy": {name: _estimate(values) for name, values in soft.items()},
                "test_accuracy": {name: _estimate(values) for name, values in test.items()},
                "chances": {f"{ours} > {theirs}": _chance(soft[ours], soft[theirs]) for ours, theirs in pairs},
            }
        )
    return summary


def _estimate(values: Sequence[float]) -> dict[str, float]:
    return asdict(stratified_bootstrap(interquartile_mean, [values]))


def _chance(ours: Sequence[float], theirs: Sequence[float]) -> dict[str, float]:
    return asdict(stratified_bootstrap(probability_of_improvement, [ours], [theirs]))


def _report(config: TransferConfig, console: Console) -> None:
    paths = [
        _path(config, task, target, seed) for task in config.tasks for target in config.targets for seed in config.seeds
    ]
    rows = [read_object(path) for path in paths if path.is_file()]
    _networks(config, rows)
    if rows:
        with few_seeds_are_stated():
            summary = summarise(rows, config.evaluations)
        tables = [transfer_table(found) for found in summary]
        for table in tables:
            console.print(table.rich())
        write_atomic(config.save_dir / "transfer.md", "\n".join(table.markdown() for table in tables))
        write_result(config.save_dir / "transfer.json", {"study": config.model_dump(mode="json"), "rows": summary})
    warn(console, mixed_versions(rows))
    console.print(f"{len(rows)} of {len(paths)} runs; results: {config.save_dir}", highlight=False, soft_wrap=True)


def transfer_table(found: Row) -> Table:
    """Return the table of one (task, target) of :func:`summarise`."""
    tests = found["test_accuracy"]
    rows = [
        [name.replace("_", "-"), Interval.of(soft), Interval.of(tests[name]) if name in tests else None]
        for name, soft in found["soft_accuracy"].items()
    ]
    chances = [f"P({what}) {c['value']:.2f} [{c['low']:.2f}, {c['high']:.2f}]" for what, c in found["chances"].items()]
    return Table(
        f"{found['task']}, {100 * found['target']:g} % of the FLOPs removed, {found['runs']} runs",
        ("plan", percent_column("reward split [95 %]"), percent_column("test [95 %]")),
        rows,
        "interquartile means in %; reward split: soft accuracy; numbers are measured evaluations. On the reward split: "
        + "; ".join(chances).replace("_", "-"),
    )


def _parser() -> argparse.ArgumentParser:
    return study_parser("benchmarks.studies.transfer", "What R-SPAR learned on one task is worth on others.")
