"""Results of a study on disk, a file a cell: written whole, read back so that the same command goes on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.common.provenance import versions
from benchmarks.common.signed import FileError, read_signed, write_signed
from benchmarks.settings.source import ConfigError
from benchmarks.studies.engine.study import Cell, Outcome, Result
from benchmarks.studies.engine.workers import CellError

STUDY = "study.json"
"""Name of the file with what the cells of a folder have in common."""


@dataclass(frozen=True)
class CellFiles:
    """Results in ``<folder>/cells``, a JSON file a cell; a cell whose result says ``error`` is tried again.

    Attributes:
        folder: of the study.
    """

    folder: Path

    retry = "the same command tries them again"

    def study(self) -> Result | None:
        """Return what the cells of the folder have in common; None where there are none yet."""
        path = self.folder / STUDY
        return read_object(path) if path.is_file() else None

    def open(self, content: Mapping[str, Any], changed: Sequence[str], option: str = "save_dir") -> None:
        """Write down what the study is, or refuse to add to the results of another one.

        Args:
            content: what its cells have in common.
            changed: what differs from :meth:`study` in a way that makes runs incomparable.
            option: what names the folder, for the message.

        Raises:
            ConfigError: something differs.
        """
        if changed:
            raise ConfigError(
                f"{self.folder} holds runs of another study (different: {', '.join(changed)}); choose another "
                f"{option}, or delete it"
            )
        write_signed(self.folder / STUDY, content)

    def path(self, cell: Cell) -> Path:
        """Return the file of a cell."""
        return self.folder / "cells" / f"{cell.name}.json"

    def finished(self) -> list[Result]:
        """Return the results of all finished cells in the folder, whoever ran them, sorted by name.

        Raises:
            ConfigError: one is damaged.
        """
        cells = (read_object(path) for path in sorted((self.folder / "cells").glob("*.json")))
        return [cell for cell in cells if "error" not in cell]

    def result(self, cell: Cell) -> Result | None:
        """Return what was measured in a cell; None where it is not finished."""
        content = self._read(cell)
        return None if content is None or "error" in content else content

    def failed(self, cell: Cell) -> Result | None:
        """Return what is known of a cell that failed when it was last tried; None where it did not."""
        content = self._read(cell)
        return content if content is not None and "error" in content else None

    def failure(self, cell: Cell) -> str | None:
        """Return why a cell failed when it was last tried; None where it did not."""
        failed = self.failed(cell)
        return None if failed is None else str(failed["error"])

    def pending(self, cell: Cell) -> bool:
        """Return whether a cell has to be run."""
        return self.result(cell) is None

    def keep(self, cell: Cell, outcome: Outcome) -> None:
        """Write the result of a cell with the versions it depends on.

        Raises:
            CellError: there is none; the message has the traceback.
        """
        if outcome.result is None:
            raise CellError(f"{cell.name}: {outcome.trace or outcome.error}")
        write_signed(self.path(cell), {**outcome.result, "versions": versions()}, indent=None)

    def forget(self) -> None:
        """Delete the results of all cells, whoever ran them, and what they had in common."""
        for path in (*(self.folder / "cells").glob("*.json"), self.folder / STUDY):
            path.unlink(missing_ok=True)

    def _read(self, cell: Cell) -> Result | None:
        path = self.path(cell)
        return read_object(path) if path.is_file() else None


def read_object(path: Path) -> Result:
    """Return the object a JSON file of a study holds.

    Raises:
        ConfigError: it is damaged; the message names it and says what to do.
    """
    try:
        content = read_signed(path, "delete it, and the same command makes it again")
    except FileError as error:
        raise ConfigError(str(error)) from None
    if not isinstance(content, dict):
        raise ConfigError(f"{path} is damaged (it holds no object); delete it, and the same command makes it again")
    return content


def mixed_versions(results: Iterable[Mapping[str, Any]]) -> str | None:
    """Return what to say where cells were measured by several versions of the same software; None where not.

    Args:
        results: of finished cells; those that record no versions are passed over.
    """
    seen: dict[str, set[str]] = {}
    for result in results:
        for package, version in result.get("versions", {}).items():
            seen.setdefault(package, set()).add(version)
    several = [f"{package} {' and '.join(sorted(found))}" for package, found in seen.items() if len(found) > 1]
    return f"cells of several versions: {', '.join(several)}" if several else None
