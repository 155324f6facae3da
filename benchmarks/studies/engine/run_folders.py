"""Studies whose cells are runs of the main job: a run folder a cell, and a file for why one failed.

A run is resumed inside the cell; everything else can be made again from the run folders.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.common.signed import write_signed
from benchmarks.job.run_folder import RunFolder, RunState, open_run
from benchmarks.settings.schema import Config
from benchmarks.settings.source import ConfigError
from benchmarks.studies.engine.store import read_object
from benchmarks.studies.engine.study import Outcome, Result
from prune_gym.support.files import check_writable

if TYPE_CHECKING:
    from rich.console import Console


@dataclass(frozen=True)
class RunCell:
    """A run of the main job.

    Attributes:
        name: what it is called.
        config: its configuration.
        seed: of search and fine-tuning.
    """

    name: str
    config: Config
    seed: int

    def __hash__(self) -> int:
        return hash(self.name)

    @property
    def folder(self) -> RunFolder:
        """The run folder."""
        return RunFolder(self.config.experiment.save_dir.expanduser() / f"seed_{self.seed}")


@dataclass(frozen=True)
class RunFolders:
    """Results in run folders, failures in ``<folder>/failures``.

    Attributes:
        folder: of the study.
        retry_failed: whether cells are run again that failed.
    """

    folder: Path
    retry_failed: bool = False

    @property
    def retry(self) -> str:
        """Advice about failed cells, for messages."""
        return f"tracebacks: {self.folder / 'failures'}; --retry-failed runs them again"

    def open(self, cells: Iterable[RunCell], *, overwrite: bool = False) -> None:
        """Make run folders ready, or refuse before anything is computed.

        Args:
            cells: whose folders.
            overwrite: start them again.

        Raises:
            NotWritableError: a folder cannot be written.
            RunFolderError: one holds a run of another configuration.
        """
        check_writable(self.folder, key="save_dir")
        for cell in cells:
            open_run(cell.config, cell.seed, overwrite=overwrite)
            if overwrite:
                self._failure_path(cell).unlink(missing_ok=True)

    def result(self, cell: RunCell) -> Result | None:
        """Return the content of a cell's ``result.json``; None before it is finished."""
        return cell.folder.read_result()

    def failure(self, cell: RunCell) -> str | None:
        """Return why a cell failed; None if it did not, or was never tried."""
        error = self._failed(cell).get("error")
        return None if error is None else str(error)

    def pending(self, cell: RunCell) -> bool:
        """Return whether a cell has to be run."""
        finished = cell.folder.state is RunState.FINISHED
        return not finished and (self.retry_failed or self.failure(cell) is None)

    def keep(self, cell: RunCell, outcome: Outcome) -> None:
        """Keep why a cell failed, and how often; a run keeps its result itself."""
        path = self._failure_path(cell)
        if outcome.error is None:
            path.unlink(missing_ok=True)
            return
        attempts = 1 + self._failed(cell).get("attempts", 0)
        why = {"cell": cell.name, "error": outcome.error, "trace": outcome.trace, "attempts": attempts}
        write_signed(path, why)

    def _failed(self, cell: RunCell) -> Result:
        path = self._failure_path(cell)
        try:
            return read_object(path) if path.is_file() else {}
        except ConfigError as error:
            return {"error": str(error)}

    def _failure_path(self, cell: RunCell) -> Path:
        return self.folder / "failures" / f"{cell.name.replace('/', '-')}.json"


@dataclass(frozen=True)
class MainJob:
    """Runs or resumes the main job in the folder of a cell.

    Cells do not depend on which ones ran before in a process: each starts from the same global random state.

    Attributes:
        device: where networks run.
        plots: whether every run draws its plots.
        console: where its stages are shown; None: nowhere, as in worker processes.
    """

    device: str
    plots: bool = False
    console: Console | None = None

    def __call__(self, cell: RunCell) -> Result:
        """Return what the run measured."""
        import torch
        from rich.console import Console

        from benchmarks.job.pipeline import run_experiment
        from prune_gym.support.device import resolve_device
        from prune_gym.support.stage_progress import StageProgress

        folder = open_run(cell.config, cell.seed)
        if folder.state is RunState.FINISHED:
            return folder.read_result() or {}
        with StageProgress(self.console or Console(quiet=True)) as progress, torch.random.fork_rng():
            device = resolve_device(self.device)
            return run_experiment(cell.config, cell.seed, folder, device=device, progress=progress, plots=self.plots)


def accuracies(result: Result) -> str:
    """Return what is said of a run that has just ended."""
    one_shot, final = (100 * result[stage]["accuracy"] for stage in ("one_shot", "final"))
    return f"one-shot {one_shot:.2f} %, fine-tuned {final:.2f} %"
