"""One folder a run: fresh, resumable or finished, and never half a file.

``<save_dir>/seed_<n>/`` holds the resolved ``config.yaml`` from the first moment, what finished stages left in
``unfinished/`` while the run goes on, and ``result.json`` last of all: a folder with a result is a finished run.
"""

from __future__ import annotations

import csv
import enum
import io
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from benchmarks.common.errors import InputError
from benchmarks.common.signed import FileError, read_signed, write_signed
from benchmarks.files.models import check, read_result
from benchmarks.settings.reading import load_config
from benchmarks.settings.schema import Config
from benchmarks.settings.source import ConfigError
from hessian.support.files import write_atomic
from prune_gym.support.files import check_writable, write_json_atomic

OWN_FILES = (
    *("config.yaml", "result.json", "history.csv", "budgets.json"),
    *("agent.safetensors", "pruned.safetensors", "pruned.json"),
)
OWN_FOLDERS = ("plots", "unfinished")

START_AGAIN = "pass --overwrite to start again"


class RunFolderError(InputError):
    """A run folder that cannot be used as asked; the message says what to do."""


class RunState(enum.Enum):
    """State of a run folder."""

    FRESH = "fresh"
    RESUMABLE = "resumable"
    FINISHED = "finished"


@dataclass(frozen=True)
class RunFolder:
    """The files of one run.

    Attributes:
        path: the folder, ``<save_dir>/seed_<n>``.
    """

    path: Path

    @property
    def state(self) -> RunState:
        """Its state now."""
        if (self.path / "result.json").is_file():
            return RunState.FINISHED
        return RunState.RESUMABLE if (self.path / "config.yaml").is_file() else RunState.FRESH

    @property
    def unfinished(self) -> Path:
        """Folder of what finished stages leave for a resumed run; gone once the run is finished."""
        return self.path / "unfinished"

    @property
    def plots(self) -> Path:
        """Folder of the plots."""
        return self.path / "plots"

    @property
    def agent(self) -> Path:
        """The agent that searched, where it can be used again."""
        return self.path / "agent.safetensors"

    @property
    def checkpoint(self) -> Path:
        """The pruned network's weights; its manifest ``pruned.json`` lies beside it."""
        return self.path / "pruned.safetensors"

    def write_json(self, name: str, content: Any) -> Path:
        """Write ``<folder>/<name>`` with a checksum, whole or not at all.

        Raises:
            RunFolderError: the folder was removed since the run began.
        """
        self._check_still_there()
        return write_signed(self.path / name, content)

    def write_table(self, name: str, content: Mapping[str, Any]) -> Path:
        """Write ``<folder>/<name>`` for people and other programs, whole or not at all; nothing here reads it back."""
        self._check_still_there()
        return write_json_atomic(self.path / name, content)

    def read_json(self, name: str, model: TypeAdapter[Any]) -> Any:
        """Return the content of ``<folder>/<name>``, verified, or None if there is no such file.

        Args:
            name: of the file.
            model: what it may say.

        Raises:
            RunFolderError: the file is damaged or was changed.
        """
        path = self.path / name
        if not path.is_file():
            return None
        try:
            return check(read_signed(path, START_AGAIN), model, path, START_AGAIN)
        except FileError as error:
            raise RunFolderError(str(error)) from None

    def read_result(self) -> dict[str, Any] | None:
        """Return what a finished run's ``result.json`` says; None before it is finished.

        Raises:
            RunFolderError: it is damaged, was changed, or says what no run can have measured.
        """
        path = self.path / "result.json"
        if not path.is_file():
            return None
        try:
            return read_result(path, START_AGAIN)
        except FileError as error:
            raise RunFolderError(str(error)) from None

    def _check_still_there(self) -> None:
        if not (self.path / "config.yaml").is_file():
            raise RunFolderError(
                f"{self.path} was removed or emptied while its run went on; what it had reached is lost: start it again"
            )

    def write_csv(self, name: str, rows: Sequence[Mapping[str, Any]]) -> Path:
        """Write rows with the same keys as a table with a header; no rows give an empty file."""
        self._check_still_there()
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, fieldnames=list(rows[0]) if rows else [], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        return write_atomic(self.path / name, text.getvalue())

    def finish(self, result: Mapping[str, Any]) -> None:
        """Write ``result.json``, which makes the run finished, and drop what only a resumed run needs."""
        self.write_json("result.json", result)
        self.forget_unfinished()

    def forget_unfinished(self) -> None:
        """Drop what a resumed run would go on from."""
        shutil.rmtree(self.unfinished, ignore_errors=True)

    def forget_progress(self) -> None:
        """Drop what an unfinished run has reached, the fine-tuned network included."""
        # The manifest first: without it there is no network, whatever else is left.
        for path in (self.checkpoint.with_suffix(".json"), self.checkpoint):
            path.unlink(missing_ok=True)
        self.forget_unfinished()

    def withdraw(self) -> None:
        """Leave no trace of a run that was refused before it reached anything; others stay as they are."""
        if self.state is not RunState.RESUMABLE or any(self._reached()):
            return
        self.clear()
        for folder in (self.path, *self.path.parents[:1]):
            if folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()

    def _reached(self) -> list[Path]:
        """Files of finished stages; that a stage began says nothing."""
        began = ("seconds.json", "versions.json")
        return [path for path in self.unfinished.glob("*") if path.name not in began]

    def clear(self) -> None:
        """Remove everything a run writes; files of other origin stay."""
        # The result goes first: a clearing cut short must not leave a folder that looks finished.
        for name in ("result.json", *OWN_FILES):
            (self.path / name).unlink(missing_ok=True)
        for name in OWN_FOLDERS:
            shutil.rmtree(self.path / name, ignore_errors=True)


def open_run(config: Config, seed: int, *, overwrite: bool = False) -> RunFolder:
    """Prepare the folder of one seed and tell what it holds through its ``state``.

    A fresh folder gets its ``config.yaml`` here, so an interruption at any later moment leaves a resumable run.

    Args:
        config: the resolved configuration.
        seed: the seed of the run.
        overwrite: start again, whatever the folder holds.

    Raises:
        NotWritableError: the folder cannot be written.
        RunFolderError: it holds a run of another configuration.
    """
    folder = RunFolder(config.experiment.save_dir.expanduser() / f"seed_{seed}")
    check_writable(folder.path)
    config = config.for_seed(seed)
    if overwrite:
        folder.clear()
    if folder.state is RunState.FRESH:
        write_atomic(folder.path / "config.yaml", config.to_yaml())
    else:
        _check_same_run(folder, config)
    return folder


def _check_same_run(folder: RunFolder, config: Config) -> None:
    held = folder.state.value
    advice = "pass --overwrite to replace it, or set another experiment.save_dir"
    try:
        differences = load_config(folder.path / "config.yaml").differences(config)
    except (ConfigError, FileNotFoundError) as error:
        raise RunFolderError(
            f"{folder.path} holds a {held} run whose config.yaml cannot be read ({error}); {advice}"
        ) from None
    if differences:
        listed = "".join(f"\n  {line}" for line in differences)
        raise RunFolderError(
            f"{folder.path} holds a {held} run of another configuration (there != now):{listed}\n{advice}"
        )
