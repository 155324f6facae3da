"""Studies: a grid of cells, what measures one of them, and what all results say together.

:func:`benchmarks.studies.engine.running.run_study` runs the cells that have no result yet, wherever they were left, and
publishes the :class:`Report` of those that have one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

if TYPE_CHECKING:
    from benchmarks.common.table import Table

Result = dict[str, Any]
"""Measurements of a cell, as JSON can hold them."""


class Cell(Protocol):
    """One run of a grid; hashable, and it can be sent to another process."""

    @property
    def name(self) -> str:
        """Name in messages and on disk; no two cells of a study share it."""


CellT = TypeVar("CellT", bound=Cell)
StoredT = TypeVar("StoredT", bound=Cell, contravariant=True)


@dataclass(frozen=True)
class Outcome:
    """End of one cell: its result or its error.

    Attributes:
        name: of the cell.
        seconds: wall time (s).
        result: what was measured; None: it failed.
        error: what went wrong, one line.
        trace: the traceback's text, or None.
        disk_full: whether no other cell can be written either.
    """

    name: str
    seconds: float
    result: Result | None = None
    error: str | None = None
    trace: str | None = None
    disk_full: bool = False


@dataclass(frozen=True)
class Report:
    """Tables, numbers, files and plots made of all results of a study.

    Attributes:
        tables: shown on the terminal and written as Markdown.
        content: numbers, written as JSON; None where the study keeps them elsewhere.
        files: name -> content of further files, such as CSV tables.
        plots: each draws a picture into the folder of the study.
    """

    tables: Sequence[Table]
    content: Mapping[str, Any] | None = None
    files: Mapping[str, str | bytes] = field(default_factory=dict)
    plots: Sequence[Callable[[], object]] = ()


class Store(Protocol[StoredT]):
    """Place of the results of a study."""

    @property
    def folder(self) -> Path:
        """The folder of the study."""

    @property
    def retry(self) -> str:
        """Advice about failed cells, for messages."""

    def result(self, cell: StoredT) -> Result | None:
        """Return what was measured in a cell; None where it is not finished."""

    def failure(self, cell: StoredT) -> str | None:
        """Return why a cell failed when it was last tried; None where it did not."""

    def pending(self, cell: StoredT) -> bool:
        """Return whether a cell has to be run."""

    def keep(self, cell: StoredT, outcome: Outcome) -> None:
        """Keep how a cell ended."""


class Study(Protocol[CellT]):
    """A grid of runs with a folder, whatever is compared."""

    @property
    def name(self) -> str:
        """Name of the files of its report, without suffix."""

    @property
    def store(self) -> Store[CellT]:
        """Place of its results."""

    def open(self) -> None:
        """Refuse what cannot be run or added to, before anything is computed: a ValueError says why."""

    def cells(self) -> Sequence[CellT]:
        """Return all runs in the order they are done: seeds outermost, so that an unfinished table has whole seeds."""

    def run(self, cell: CellT) -> Result:
        """Measure a cell."""

    def in_short(self, result: Result) -> str:
        """Return what is said on the terminal of a cell that has just ended."""

    def report(self, results: Mapping[CellT, Result]) -> Report:
        """Return what finished cells say together; there is at least one."""
