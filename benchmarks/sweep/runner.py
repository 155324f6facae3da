"""Running a sweep: which cells are left, what becomes of them, and when the tables are written."""

from __future__ import annotations

import time
from functools import partial

from rich.console import Console

from benchmarks.settings.source import ConfigError
from benchmarks.studies.engine.run_folders import MainJob, RunCell
from benchmarks.studies.engine.running import publish, run_cells
from benchmarks.studies.engine.workers import Workers
from benchmarks.sweep.config import SweepConfig, run_config
from benchmarks.sweep.study import SweepStudy
from hessian.discovery.find import find_channel_groups
from prune_gym.cost.model import CostModel
from prune_gym.support.stage_progress import StageProgress
from prune_gym.tasks.registry import task_status, task_structure

TABLES_EVERY = 10.0
"""Seconds between two writes of the tables while cells end."""


def run_sweep(
    sweep: SweepConfig,
    workers: Workers,
    *,
    retry_failed: bool = False,
    overwrite: bool = False,
    console: Console | None = None,
) -> int:
    """Run all cells that have no result yet, and write the tables.

    Args:
        sweep: the grid.
        workers: what runs the cells.
        retry_failed: run cells again that failed before.
        overwrite: start again, whatever the folder holds.
        console: where to show what happens; absent means nowhere.

    Returns:
        How many cells failed, this time or before.

    Raises:
        ConfigError: a target out of reach, or a task without its data.
        RunFolderError, SweepFolderError, ResultsError, NotWritableError: the folder cannot be used.
        DiskFullError: the disk is full; what is finished is safe.
        KeyboardInterrupt: passed on once the tables are written.
    """
    console, study = console or Console(quiet=True), SweepStudy(sweep, retry_failed, overwrite)
    check_cells(sweep)
    with study.locked():
        study.open()
        try:
            _run(study, workers, console)
        except KeyboardInterrupt:
            publish(study, Console(quiet=True))
            raise
        return publish(study, console)


def _run(study: SweepStudy, workers: Workers, console: Console) -> None:
    """Run what is left, and write the tables now and then."""
    written, ended, cells = time.monotonic(), 0, study.cells()
    begin = partial(MainJob, plots=study.sweep.plots)
    with StageProgress(console) as progress, progress.stage("sweep") as report:

        def started(cell: RunCell) -> None:
            report(cell.name, ended, len(cells))

        for _ in run_cells(study, begin, workers, console, started=started):
            ended += 1
            if time.monotonic() - written > TABLES_EVERY:
                publish(study, Console(quiet=True))
                written = time.monotonic()


def check_cells(sweep: SweepConfig) -> None:
    """Refuse targets out of reach and tasks whose data are missing, before anything is computed.

    Raises:
        ConfigError: one line for each.
    """
    problems = []
    ratio = run_config(sweep, sweep.cells()[0]).pruning.max_pruning_ratio
    for task in sweep.tasks:
        problems += [f"task {task!r}: {line}" for line in task_status(task).to_do]
        structure = task_structure(task)
        groups = find_channel_groups(structure.model, structure.example_input[:1], structure.ignored_layers)
        cost = CostModel(groups, structure.model, structure.example_input)
        for target in sweep.targets or (structure.default_target,):
            try:
                cost.check_target(target, cost.limits(ratio))
            except ValueError as error:
                problems.append(f"task {task!r}: {error}")
    if problems:
        raise ConfigError("\n".join(problems))
