"""R-SPAR against searches and Stable-Baselines3 at equal measured evaluations: agents x tasks x targets x seeds.

    python -m benchmarks.studies.agents --config FILE [--part I/N] [--minutes M] [KEY=VALUE ...]

Every run is a file of its own in ``save_dir/cells``, and every measured plan is kept: a killed or stopped study goes on
with the same command, inside a run too, and ends as if it had not stopped; several processes can share the work. When
runs are there, tables are printed, and ``comparison.md``, ``comparison.json``, ``evaluations.csv`` and plots are
written to ``save_dir``. An agent with a ``source`` is trained there first; its file is kept in ``save_dir/agents``.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from benchmarks.common.arguments import share
from benchmarks.common.command import reports_errors
from benchmarks.common.provenance import describe_machine, versions
from benchmarks.common.signed import write_signed
from benchmarks.common.table import report_console
from benchmarks.stat_tests.samples import few_seeds_are_stated
from benchmarks.studies.agents.cells import run_cell
from benchmarks.studies.agents.config import AgentEntry, Cell, StudyConfig
from benchmarks.studies.agents.curves import is_front
from benchmarks.studies.agents.plots import plot_fronts, plot_progress
from benchmarks.studies.agents.policies import policy_table
from benchmarks.studies.agents.signal import reward_to_test, signal_table
from benchmarks.studies.agents.sources import SourceAgents, trained_on
from benchmarks.studies.agents.tables import study_table, summarise, write_evaluations
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
from benchmarks.studies.engine.plan_store import PlanStore
from hessian.support.files import write_atomic
from prune_gym.problem.problem import PruningProblem

SAME_STUDY = ("evaluations", "environment")
"""Keys whose change makes runs incomparable; so do the targets and the budget of the fronts."""


@reports_errors(OSError, ValueError, ImportError, interrupted="interrupted: nothing is lost, the same command goes on")
def main(argv: Sequence[str] | None = None) -> int:
    """Run the study, or what is left of it.

    Args:
        argv: arguments; absent means those of the process.

    Returns:
        Exit code: 0 done (or out of time), 2 bad input, 130 interrupted.
    """
    options = _parser().parse_intermixed_args(argv)
    study = StudyConfig.load(options.config, options.overrides)
    device = prepared_device(options, study)
    _open_folder(study)
    console = Console()
    _run(study, options, device, console)
    _report(study, report_console(console))
    return 0


def _open_folder(study: StudyConfig) -> None:
    """Refuse to mix runs of different studies; more agents, tasks, targets or seeds of the same one are welcome."""
    path, current = study.save_dir / "study.json", study.model_dump(mode="json")
    agents = {entry.title: entry.model_dump(mode="json") for entry in study.agents}
    if path.is_file():
        stored = read_object(path)
        changed = [key for key in SAME_STUDY if stored["study"][key] != current[key]]
        fronts = stored["study"]["fronts"], current["fronts"]
        if all(front["targets"] for front in fronts):
            changed += [f"fronts.{key}" for key in ("targets", "evaluations") if fronts[0][key] != fronts[1][key]]
        before = {label: _entry(agent) for label, agent in stored["agents"].items()}
        changed += [f"agent {label!r}" for label in agents if before.get(label, agents[label]) != agents[label]]
        refuse_changes(study.save_dir, changed)
        agents = {**before, **agents}
    content = {"study": current, "agents": agents, "versions": versions(), "threads": torch.get_num_threads()}
    content["machine"] = describe_machine()
    write_signed(path, content)
    write_atomic(study.save_dir / "config.yaml", study.to_yaml())


def _entry(stored: dict[str, Any]) -> dict[str, Any]:
    """An agent's entry as it would be written today, with keys it did not have then at their defaults."""
    return AgentEntry.model_validate(stored).model_dump(mode="json")


def _run(study: StudyConfig, options: argparse.Namespace, device: torch.device, console: Console) -> None:
    part, parts = options.part
    mine = [cell for number, cell in enumerate(study.cells()) if number % parts == part - 1]
    todo = [cell for cell in mine if not _path(study, cell).is_file()]
    console.print(f"{len(mine) - len(todo)} of {len(mine)} runs finished before", highlight=False)
    trained = {entry.title: entry.source for entry in study.agents if entry.source is not None}
    names = dict.fromkeys((*study.tasks, *(source.task for source in trained.values())))
    problems = {task: PruningProblem(task, device=device, repair=study.environment.repair) for task in names}
    sources = {label: _source_agents(study, label, problems[source.task]) for label, source in trained.items()}
    _check(study, problems)
    networks, deadline = _networks(study, read_cells(study.save_dir / "cells")), Deadline(options.minutes, console)
    for number, cell in enumerate(todo, start=1):
        if deadline.passed():
            return
        problem = problems[cell.task].load()
        networks.admit(cell.task, problem.network_key)
        source = sources[cell.agent].trained(cell.seed, networks) if cell.agent in sources else None
        result = run_cell(study, cell, problem, PlanStore(study.plans_folder, problem, _path(study, cell).stem), source)
        result |= {NETWORK: problem.network_key, "versions": versions()}
        if source is not None:
            result["source"] = {"task": trained[cell.agent].task, NETWORK: trained_on(source)}
        write_signed(_path(study, cell), result, indent=None)
        best = next(iter(result["best"].values()))
        what = f"best {100 * best['soft_accuracy']:.2f} %" if result["hypervolume"] is None else "front"
        seconds = result["seconds"]
        console.print(
            f"[{number}/{len(todo)}] {_path(study, cell).stem}: {what}, {len(result['evaluations'])} plans, "
            f"own {seconds['own']:.1f} s, measuring {seconds['evaluations']:.1f} s",
            highlight=False,
            markup=False,
            soft_wrap=True,
        )


def _source_agents(study: StudyConfig, label: str, problem: PruningProblem) -> SourceAgents:
    entry = study.entry(label)
    assert entry.source is not None
    folder = study.save_dir / "agents" / label
    return SourceAgents(
        folder, study.plans_folder, entry.source, problem, study.environment_of(entry), options=entry.options
    )


def _networks(study: StudyConfig, cells: Sequence[dict[str, Any]]) -> MeasuredNetworks:
    own = ((dense_name(cell), cell.get(NETWORK)) for cell in cells)
    sources = ((cell["source"]["task"], cell["source"][NETWORK]) for cell in cells if "source" in cell)
    return MeasuredNetworks(study.save_dir, (*own, *sources))


def _check(study: StudyConfig, problems: dict[str, PruningProblem]) -> None:
    for entry in study.agents:
        ratio = study.environment_of(entry).max_pruning_ratio
        for task in study.tasks:
            check_targets(task, problems[task], ratio, (*study.targets, *study.fronts.targets))
        if entry.source is not None:
            check_targets(entry.source.task, problems[entry.source.task], ratio, entry.source.targets)


def _path(study: StudyConfig, cell: Cell) -> Path:
    return study.save_dir / "cells" / cell.file_name


def _report(study: StudyConfig, console: Console) -> None:
    """Print, write and draw what is there."""
    paths = [_path(study, cell) for cell in study.cells()]
    results = [read_object(path) for path in paths if path.is_file()]
    _networks(study, results)
    if results:
        with few_seeds_are_stated():
            rows = summarise(results, study.reference)
            _draw(study, results)
        questions = dict.fromkeys(row["question"] for row in rows)
        tables = [
            study_table(question, [row for row in rows if row["question"] == question], study.reference)
            for question in questions
        ]
        policies = policy_table(results)
        tables += [policies] if policies is not None else []
        signal = reward_to_test(results)
        tables += [signal_table(signal)] if signal else []
        for table in tables:
            console.print(table.rich())
        write_atomic(study.save_dir / "comparison.md", "\n".join(table.markdown() for table in tables))
        content = {"study": study.model_dump(mode="json"), "versions": versions(), "rows": rows, "signal": signal}
        write_signed(study.save_dir / "comparison.json", content)
        write_evaluations(study.save_dir / "evaluations.csv", results)
    warn(console, mixed_versions(results))
    console.print(f"{len(results)} of {len(paths)} runs; results: {study.save_dir}", highlight=False, soft_wrap=True)


def _draw(study: StudyConfig, results: Sequence[dict[str, Any]]) -> None:
    for target in study.targets:
        chosen = [result for result in results if result["targets"] == [target]]
        if chosen:
            title = f"{study.name}: {100 * target:g} % of the FLOPs removed"
            plot_progress(chosen, title, study.save_dir / "plots" / f"progress-{target:g}.png")
    for task in study.tasks:
        chosen = [result for result in results if is_front(result) and result["task"] == task]
        if chosen:
            plot_fronts(chosen, f"{study.name}: {task}", study.save_dir / "plots" / f"fronts-{task}.png")


def _parser() -> argparse.ArgumentParser:
    parser = study_parser("benchmarks.studies.agents", "Compare agents at equal measured evaluations.")
    part = "only every N-th run, starting at the I-th"
    parser.add_argument("--part", type=share, default=(1, 1), metavar="I/N", help=part)
    return parser
