"""Running a sweep: which cells are left, what becomes of them, and when the tables are written."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from typing import Any

from rich.console import Console

from benchmarks.common.table import report_console
from benchmarks.settings.source import ConfigError
from benchmarks.sweep.config import Cell, SweepConfig, run_config
from benchmarks.sweep.folder import SweepFolder
from benchmarks.sweep.results_table import summary_table
from benchmarks.sweep.worker_job import Job, Outcome
from benchmarks.sweep.workers import Workers
from hessian.discovery.find import find_channel_groups
from prune_gym.cost.model import CostModel
from prune_gym.support.stage_progress import StageProgress
from prune_gym.tasks.registry import task_status, task_structure

TABLES_EVERY = 10.0
"""Seconds between two writes of the tables while cells end."""


class DiskFullError(RuntimeError):
    """Nothing can be written any more; what is finished is safe."""


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
        RunFolderError, SweepFolderError, ResultsError: the folder cannot be used.
        DiskFullError: the disk is full; what is finished is safe.
    """
    console = console or Console(quiet=True)
    check_cells(sweep)
    folder = SweepFolder(sweep)
    with folder.locked():
        folder.open(overwrite=overwrite)
        return _Sweep(folder, console).execute(workers, retry_failed)


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


class _Sweep:
    """One call of the command: which cells are left, what became of them, and when tables are written."""

    def __init__(self, folder: SweepFolder, console: Console) -> None:
        self._folder, self._console = folder, console
        self._cells = {cell.name: cell for cell in folder.sweep.cells()}
        self._results: dict[Cell, Mapping[str, Any]] = {}
        self._written = time.monotonic()

    def execute(self, workers: Workers, retry_failed: bool) -> int:
        """Run what is left; returns how many cells failed."""
        todo = self._todo(retry_failed)
        done = len(self._results)
        if done or len(todo) < len(self._cells):
            failed = len(self._cells) - done - len(todo)
            again = ", --retry-failed runs them again" if failed else ""
            self._say(f"{done} of {len(self._cells)} cells finished before, {failed} failed{again}")
        try:
            if todo:
                self._run(todo, workers)
        finally:
            self._write_tables()
        return self._report()

    def _todo(self, retry_failed: bool) -> list[Cell]:
        todo = []
        for cell in self._cells.values():
            result = self._folder.result(cell)
            if result is not None:
                self._results[cell] = result
            elif retry_failed or self._folder.failure(cell) is None:
                todo.append(cell)
        return todo

    def _run(self, todo: Sequence[Cell], workers: Workers) -> None:
        ended = 0
        with StageProgress(self._console) as progress, progress.stage("sweep") as report:

            def started(job: Job) -> None:
                report(job.name, ended, len(todo))

            with closing(workers.run([self._folder.job(cell) for cell in todo], started)) as outcomes:
                for outcome in outcomes:
                    ended += 1
                    self._take(outcome, f"[{ended}/{len(todo)}]")

    def _take(self, outcome: Outcome, count: str) -> None:
        """Keep an outcome."""
        cell = self._cells[outcome.name]
        if outcome.disk_full:
            raise DiskFullError(self._disk_full(outcome.error))
        try:
            self._folder.record(cell, outcome)
        except OSError as error:
            raise DiskFullError(self._disk_full(error)) from None
        if outcome.error is None:
            result = self._folder.result(cell)
            assert result is not None
            self._results[cell] = result
            accuracy = 100 * result["final"]["accuracy"]
            self._say(f"{count} {outcome.name}: {accuracy:.2f} %, {outcome.seconds:.1f} s")
        else:
            self._say(f"{count} {outcome.name}: failed: {outcome.error}", style="red")
        if time.monotonic() - self._written > TABLES_EVERY:
            self._write_tables()

    def _write_tables(self) -> None:
        self._written = time.monotonic()
        if not self._results:
            return
        try:
            self._folder.write_tables(self._results)
        except OSError as error:
            raise DiskFullError(self._disk_full(error)) from None

    def _disk_full(self, error: object) -> str:
        finished = sum(self._folder.finished(cell) for cell in self._cells.values())
        return (
            f"{self._folder.path} cannot be written any more ({error}); {finished} finished cells are safe there: make "
            "room, and the same command goes on"
        )

    def _report(self) -> int:
        """Show the results and list what failed."""
        if self._results:
            report_console(self._console).print(summary_table(list(self._results.values())))
        failures = [failure for cell in self._cells.values() if (failure := self._folder.failure(cell)) is not None]
        for failure in failures:
            self._say(f"failed: {failure.cell} ({failure.attempts}x): {failure.error}", style="red")
        if failures:
            self._say(f"tracebacks: {self._folder.path / 'failures'}; --retry-failed runs them again")
        self._say(f"{len(self._results)} of {len(self._cells)} cells; results: {self._folder.path}")
        return len(failures)

    def _say(self, text: str, style: str | None = None) -> None:
        self._console.print(text, style=style, markup=False, highlight=False, soft_wrap=True)
