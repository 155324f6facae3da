"""The folder of a sweep: a run folder a cell, why cells failed, and the tables made of what is finished.

``<save_dir>/`` holds ``sweep.yaml`` (the resolved configuration), ``cells/<task>-<method>-<target>/seed_<n>/`` (run
folders, see :mod:`benchmarks.job.run_folder`), ``failures/`` (one file a failed cell) and the tables of
:mod:`benchmarks.sweep.results_table`. Everything but the run folders can be made again from them.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from benchmarks.common.signed import FileError, read_signed, write_signed
from benchmarks.job.run_folder import RunFolder, RunState, open_run
from benchmarks.settings.source import ConfigError, ConfigSource
from benchmarks.sweep.config import Cell, SweepConfig, run_config
from benchmarks.sweep.results_table import read_results, write_tables
from benchmarks.sweep.worker_job import Job, Outcome
from hessian.support.files import write_atomic
from prune_gym.support.files import check_writable


class SweepFolderError(ValueError):
    """A sweep's folder that cannot be used as asked; the message says what to do."""


@dataclass(frozen=True)
class Failure:
    """The reason that a cell has no result.

    Attributes:
        cell: name of the cell.
        error: one line.
        trace: text of the traceback, or None.
        attempts: how often it was tried.
    """

    cell: str
    error: str
    trace: str | None
    attempts: int


class SweepFolder:
    """Files of a sweep.

    Args:
        sweep: its configuration.
    """

    def __init__(self, sweep: SweepConfig) -> None:
        self.sweep = sweep
        self.path = sweep.save_dir.expanduser()

    def open(self, *, overwrite: bool = False) -> None:
        """Make the folder ready, or refuse before anything is computed.

        Args:
            overwrite: start all cells of this sweep again.

        Raises:
            RunFolderError: it cannot be written, or holds runs of another configuration.
            SweepFolderError: its runs had another number of threads.
            ResultsError: its table of results is of another version, or damaged.
        """
        check_writable(self.path, key="save_dir")
        if not overwrite:
            self._check_threads()
            if (self.path / "results.csv").is_file():
                read_results(self.path)
        for cell in self.sweep.cells():
            open_run(run_config(self.sweep, cell), cell.seed, overwrite=overwrite)
            if overwrite:
                self._failure_path(cell).unlink(missing_ok=True)
        write_atomic(self.path / "sweep.yaml", self.sweep.to_yaml())

    def _check_threads(self) -> None:
        stored = self.path / "sweep.yaml"
        if not stored.is_file():
            return
        try:
            threads = ConfigSource.from_file(stored).tree.get("threads")
        except ConfigError as error:
            raise SweepFolderError(f"{stored} cannot be read ({error}); pass --overwrite to start again") from None
        if threads != self.sweep.threads:
            raise SweepFolderError(
                f"{self.path} holds runs with threads={threads}, asked for is threads={self.sweep.threads}; results "
                "are equal to the bit only with the same number: pass --overwrite to start again, or another save_dir"
            )

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other sweeps out of the folder; a dead one leaves no lock behind.

        Raises:
            SweepFolderError: another process works here.
        """
        check_writable(self.path, key="save_dir")
        with open(self.path / ".lock", "a") as file:
            if not _lock(file):
                raise SweepFolderError(f"another sweep is running in {self.path}; wait, or choose another save_dir")
            yield

    def job(self, cell: Cell) -> Job:
        """Return all that a worker needs to run a cell."""
        return Job(cell.name, run_config(self.sweep, cell).to_yaml(), cell.seed, self.sweep.plots)

    def run_folder(self, cell: Cell) -> RunFolder:
        """The run folder of a cell."""
        return RunFolder(self.path / "cells" / cell.folder / f"seed_{cell.seed}")

    def finished(self, cell: Cell) -> bool:
        """True if a cell has its result."""
        return self.run_folder(cell).state is RunState.FINISHED

    def result(self, cell: Cell) -> dict[str, Any] | None:
        """Content of a cell's ``result.json``; None before it is finished."""
        return self.run_folder(cell).read_result()

    def failure(self, cell: Cell) -> Failure | None:
        """Return the reason a cell failed; None if it did not, or was never tried."""
        path = self._failure_path(cell)
        try:
            return Failure(**read_signed(path, "the cell is tried again"))
        except FileNotFoundError:
            return None
        except (FileError, TypeError):
            return Failure(cell.name, f"{path} is damaged", None, 1)

    def record(self, cell: Cell, outcome: Outcome) -> None:
        """Keep how a cell ended.

        Raises:
            OSError: the failure cannot be written.
        """
        if outcome.error is None:
            self._failure_path(cell).unlink(missing_ok=True)
            return
        before = self.failure(cell)
        attempts = 1 if before is None else before.attempts + 1
        failure = Failure(cell.name, outcome.error, outcome.trace, attempts)
        write_signed(self._failure_path(cell), vars(failure))

    def write_tables(self, results: Mapping[Cell, Mapping[str, Any]]) -> list[Path]:
        """Write the tables of finished cells; see :func:`benchmarks.sweep.results_table.write_tables`."""
        return write_tables(self.path, list(results.values()))

    def _failure_path(self, cell: Cell) -> Path:
        return self.path / "failures" / f"{cell.folder}-seed_{cell.seed}.json"


def _lock(file: IO[str]) -> bool:
    """Lock a file for this process; False if another one holds it. Always True where there are no such locks."""
    try:
        import fcntl
    except ImportError:
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    file.truncate(0)
    file.write(f"{os.getpid()}\n")
    file.flush()
    return True
