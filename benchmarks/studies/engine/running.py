"""Running a study: the cells that are left, in parts, on workers and until a deadline, and the report of all that end.

A killed or stopped study goes on with the same command, whatever stopped it: every cell is kept the moment it ends.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

from rich.console import Console

from benchmarks.common.provenance import write_result
from benchmarks.common.table import report_console
from benchmarks.stat_tests.samples import few_seeds_are_stated
from benchmarks.studies.engine.store import mixed_versions
from benchmarks.studies.engine.study import CellT, Report, Store, Study
from benchmarks.studies.engine.workers import DISK_FULL, Begin, DiskFullError, ThisProcess, Workers
from hessian.support.files import write_atomic


@dataclass(frozen=True)
class Selection:
    """Choice of the cells, among those that are left, to run now.

    Attributes:
        part: (I, N) for every N-th cell, starting at the I-th, counted from 1.
        minutes: after so long no cell is begun; None: never.
        names: of the cells; None: all.
    """

    part: tuple[int, int] = (1, 1)
    minutes: float | None = None
    names: Collection[str] | None = None

    def share(self, cells: Sequence[CellT]) -> Sequence[CellT]:
        """Return the cells of these names and of the part."""
        part, parts = self.part
        return [cell for cell in cells if self.names is None or cell.name in self.names][part - 1 :: parts]


def run_study(
    study: Study[CellT],
    console: Console,
    *,
    selection: Selection = Selection(),
    begin: Begin | None = None,
    workers: Workers | None = None,
    copy_to: Path | None = None,
) -> int:
    """Run what is left of a study and publish its report.

    Args:
        study: which; opened here.
        console: where everything is said.
        selection: which of its cells.
        begin: makes what runs cells in a process of `workers`; absent means the study itself.
        workers: what runs the cells; absent means this process.
        copy_to: write the report's JSON file here too.

    Returns:
        How many cells failed when they were last tried.

    Raises:
        ValueError: what the study refuses.
        CellError: a cell failed in a study that does not go on without it.
        DiskFullError: nothing can be written any more.
    """
    study.open()
    for _ in run_cells(study, begin or (lambda device: study.run), workers or ThisProcess(), console, selection):
        pass
    return publish(study, console, copy_to)


def run_cells(
    study: Study[CellT],
    begin: Begin,
    workers: Workers,
    console: Console,
    selection: Selection = Selection(),
    started: Callable[[CellT], None] = lambda cell: None,
) -> Iterator[CellT]:
    """Run cells that have no result yet, keep how each ended, and say so.

    Args:
        study: whose.
        begin: makes what runs cells, once in every process, from the name of its device.
        workers: what runs them.
        console: where everything is said.
        selection: which of them.
        started: called with every cell that is begun.

    Yields:
        Every cell that ended, in the order they end.

    Raises:
        DiskFullError: nothing can be written any more; what is finished is safe.
    """
    store, cells = study.store, study.cells()
    mine = selection.share(cells)
    todo = {cell.name: cell for cell in mine if store.pending(cell)}
    before = sum(store.result(cell) is not None for cell in mine)
    failed = len(mine) - len(todo) - before
    if before or failed:
        apart = f", {failed} failed" if failed else ""
        say(console, f"{before} of {len(mine)} cells finished before{apart}")
    outcomes = workers.run(begin, _until(selection.minutes, todo.values(), console), started)
    with closing(outcomes), _disk(store, cells):
        for number, outcome in enumerate(outcomes, start=1):
            if outcome.disk_full:
                raise DiskFullError(_disk_full(store, cells, outcome.error))
            store.keep(todo[outcome.name], outcome)
            said = f"failed: {outcome.error}" if outcome.result is None else study.in_short(outcome.result)
            say(console, f"[{number}/{len(todo)}] {outcome.name}: {said}, {outcome.seconds:.1f} s")
            yield todo[outcome.name]


def publish(study: Study[CellT], console: Console, copy_to: Path | None = None) -> int:
    """Show, write and draw what the finished cells of a study say, and name those that failed.

    Args:
        study: which.
        console: where its tables are shown.
        copy_to: write the report's JSON file here too.

    Returns:
        How many cells failed when they were last tried.

    Raises:
        DiskFullError: the report cannot be written; what is finished is safe.
    """
    store, cells, console = study.store, study.cells(), report_console(console)
    results = {cell: result for cell in cells if (result := store.result(cell)) is not None}
    if results:
        with few_seeds_are_stated(), _disk(store, cells):
            report = study.report(results)
            _write(report, store.folder, study.name, copy_to)
        for table in report.tables:
            console.print(table)
    failures = {cell.name: error for cell in cells if (error := store.failure(cell)) is not None}
    for name, error in failures.items():
        say(console, f"failed: {name}: {error}", "red")
    if failures:
        say(console, store.retry)
    mixed = mixed_versions(results.values())
    if mixed is not None:
        say(console, mixed, "yellow")
    say(console, f"{len(results)} of {len(cells)} cells; results: {store.folder}")
    return len(failures)


def _write(report: Report, folder: Path, name: str, copy_to: Path | None) -> None:
    """Write tables as ``<name>.md``, numbers as ``<name>.json``, further files and pictures."""
    write_atomic(folder / f"{name}.md", "\n".join(table.markdown() for table in report.tables))
    if report.content is not None:
        for path in (folder / f"{name}.json", *([] if copy_to is None else [copy_to])):
            write_result(path, dict(report.content))
    for file, content in report.files.items():
        write_atomic(folder / file, content)
    draw(report)


def draw(report: Report) -> None:
    """Draw the pictures of a report."""
    for plot in report.plots:
        plot()


def say(console: Console, text: str, style: str | None = None) -> None:
    """Print a line as it is: no markup, no colours of numbers, no breaks."""
    console.print(text, style=style, markup=False, highlight=False, soft_wrap=True)


def _until(minutes: float | None, cells: Iterable[CellT], console: Console) -> Iterator[CellT]:
    """Cells until time is over, which is said."""
    started = time.monotonic()

    def in_time(cell: CellT) -> bool:
        over = minutes is not None and time.monotonic() - started > 60 * minutes
        if over:
            say(console, f"{minutes:g} minutes are over; the same command goes on")
        return not over

    return takewhile(in_time, cells)


@contextmanager
def _disk(store: Store[CellT], cells: Sequence[CellT]) -> Iterator[None]:
    """Say what is safe where nothing can be written any more.

    Raises:
        DiskFullError: the disk is full.
        OSError: any other error of the file system, as it is.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in DISK_FULL:
            raise
        raise DiskFullError(_disk_full(store, cells, error)) from None


def _disk_full(store: Store[CellT], cells: Sequence[CellT], error: object) -> str:
    """Message about the full disk: what is safe, and what to do."""
    finished = sum(store.result(cell) is not None for cell in cells)
    return (
        f"{store.folder} cannot be written any more ({error}); {finished} finished cells are safe there: make room, "
        "and the same command goes on"
    )
