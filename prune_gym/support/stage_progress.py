"""Progress on the terminal: one bar a stage, fed by plain callbacks.

Long steps report progress by calling ``callback(description, done, total)``. Here that becomes a row of bars on a
terminal or in a notebook, and one line a stage where output goes to a file.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars
from rich.table import Column

from hessian.support.progress import Progress


class StageProgress:
    """The bars of one run, a row a stage; a context manager.

    Args:
        console: where to draw; absent means the standard output; a quiet one shows nothing.
    """

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console()
        self._bars = Bars(
            SpinnerColumn("line", finished_text="+"),
            TextColumn("{task.description}", table_column=Column(min_width=22, no_wrap=True)),
            BarColumn(bar_width=28),
            TimeElapsedColumn(),
            TextColumn("{task.fields[detail]}", style="dim", table_column=Column(no_wrap=True)),
            console=self.console,
            disable=not (self.console.is_terminal or self.console.is_jupyter),
        )

    def __enter__(self) -> StageProgress:
        self._bars.start()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._bars.stop()

    @contextmanager
    def stage(self, name: str) -> Iterator[Progress]:
        """Show a bar while the body runs; it ends full if the body ends well.

        Args:
            name: what to call the stage.

        Yields:
            The callback that moves the bar; a body that never calls it gets a pulsing bar.
        """
        bar = self._bars.add_task(name, total=None, detail="")
        started = time.perf_counter()
        yield self._callback(bar)
        self._bars.update(bar, total=1, completed=1, detail="")
        if not (self.console.is_terminal or self.console.is_jupyter):
            self.console.print(f"{name}: {time.perf_counter() - started:.1f} s", highlight=False)

    def _callback(self, bar: TaskID) -> Progress:
        def report(description: str, done: int, total: int) -> None:
            self._bars.update(bar, total=total, completed=done, detail=f"{description} {done}/{total}")

        return report
