"""A sweep as a study: a run folder a cell, why cells failed, and the tables made of what is finished.

``<save_dir>/`` holds ``sweep.yaml`` (the resolved configuration), ``cells/<task>-<method>-<target>/seed_<n>/`` (run
folders, see :mod:`benchmarks.job.run_folder`), ``failures/`` (one file a failed cell) and the tables of
:mod:`benchmarks.sweep.results_table`. Everything but the run folders can be made again from them.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import IO

from benchmarks.common.errors import InputError
from benchmarks.settings.source import ConfigError, ConfigSource
from benchmarks.studies.engine.run_folders import MainJob, RunCell, RunFolders, accuracies
from benchmarks.studies.engine.study import Report, Result
from benchmarks.sweep.config import SweepConfig, run_config
from benchmarks.sweep.results_table import read_results, result_files, summary_table
from hessian.support.files import write_atomic
from prune_gym.support.files import check_writable


class SweepFolderError(InputError):
    """A sweep's folder that cannot be used as asked; the message says what to do."""


@dataclass(frozen=True)
class SweepStudy:
    """Methods x tasks x targets x seeds, a run of the main job each.

    Attributes:
        sweep: the grid.
        retry_failed: whether cells are run again that failed.
        overwrite: start all cells again.
    """

    sweep: SweepConfig
    retry_failed: bool = False
    overwrite: bool = False

    name = "sweep"

    @property
    def path(self) -> Path:
        """The folder."""
        return self.sweep.save_dir.expanduser()

    @property
    def store(self) -> RunFolders:
        """A run folder a cell."""
        return RunFolders(self.path, self.retry_failed)

    def cells(self) -> list[RunCell]:
        """Return all runs."""
        return self._cells

    @cached_property
    def _cells(self) -> list[RunCell]:
        return [RunCell(cell.name, run_config(self.sweep, cell), cell.seed) for cell in self.sweep.cells()]

    def run(self, cell: RunCell) -> Result:
        """Run or resume a run on the CPU."""
        return MainJob("cpu", self.sweep.plots)(cell)

    def in_short(self, result: Result) -> str:
        """Return the accuracies of a run."""
        return accuracies(result)

    def report(self, results: Mapping[RunCell, Result]) -> Report:
        """Return means over seeds, and every run as files."""
        runs = list(results.values())
        return Report([summary_table(runs)], None, result_files(runs))

    def open(self) -> None:
        """Make the folder ready, or refuse before anything is computed.

        Raises:
            NotWritableError: it cannot be written.
            RunFolderError: it holds runs of another configuration.
            SweepFolderError: its runs had another number of threads.
            ResultsError: its table of results is of another version, or damaged.
        """
        check_writable(self.path, key="save_dir")
        if not self.overwrite:
            self._check_threads()
            if (self.path / "results.csv").is_file():
                read_results(self.path)
        self.store.open(self.cells(), overwrite=self.overwrite)
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
