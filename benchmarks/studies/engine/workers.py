"""Workers that run the cells of a study: this process, or others, of which a killed one costs its cell only.

Nothing here needs PyTorch before a cell runs, so that a worker can set its threads before PyTorch reads them.
"""

from __future__ import annotations

import errno
import importlib
import multiprocessing
import os
import signal
import time
import traceback
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import connection
from multiprocessing.connection import Connection
from typing import Any, Protocol

from benchmarks.common.errors import CommandError
from benchmarks.studies.engine.study import Cell, CellT, Outcome, Result

STOP_SECONDS = 5.0
"""Time a worker may take to end after it was asked to (s)."""

DISK_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO})
"""System errors that are about the disk, not about the cell that met them."""


class WorkError(CommandError, RuntimeError):
    """A study cannot go on; what is finished is kept."""


class WorkerStartError(WorkError):
    """A worker process could not begin, so no cell can run; the message has its traceback."""


class CellError(WorkError):
    """A cell failed in a study that does not go on without it; the message has its traceback."""


class DiskFullError(WorkError):
    """Nothing can be written any more; what is finished is safe."""


Work = Callable[[Any], Result]
"""Measures a cell."""

Begin = Callable[[str], Work]
"""Makes what measures cells, once in every process, from the name of its device."""


class Workers(Protocol):
    """Runners of the cells of a study."""

    def run(
        self, begin: Begin, cells: Iterable[CellT], started: Callable[[CellT], None]
    ) -> Generator[Outcome, None, None]:
        """Run cells and yield how each ended, in the order they end.

        A caller that stops iterating stops the workers; what they were at stays resumable.

        Args:
            begin: makes what measures cells; sent to other processes where there are any.
            cells: what to run; the next is taken when there is somebody to run it.
            started: called with every cell that is begun.
        """
        ...


@dataclass(frozen=True)
class ThisProcess:
    """One cell after the other, in this process; what a cell raises is raised.

    Attributes:
        device: where cells compute.
    """

    device: str = "cpu"

    def run(
        self, begin: Begin, cells: Iterable[CellT], started: Callable[[CellT], None]
    ) -> Generator[Outcome, None, None]:
        """Run cells; see :class:`Workers`."""
        work = None
        for cell in cells:
            started(cell)
            began = time.perf_counter()
            work = work or begin(self.device)
            result = work(cell)
            yield Outcome(cell.name, time.perf_counter() - began, result)


def attempt(work: Work, cell: Cell) -> Outcome:
    """Run a cell, whatever comes of it.

    Args:
        work: measures it.
        cell: which.
    """
    started = time.perf_counter()
    try:
        result = work(cell)
    except Exception as error:  # whatever a cell dies of is that cell's outcome, and must not cost the others
        seconds, message = time.perf_counter() - started, f"{type(error).__name__}: {error}"
        full = isinstance(error, OSError) and error.errno in DISK_FULL
        return Outcome(cell.name, seconds, None, message, traceback.format_exc(), full)
    return Outcome(cell.name, time.perf_counter() - started, result)


def prepare_process(threads: int, imports: Sequence[str]) -> None:
    """Set up a fresh process for cells.

    Args:
        threads: of PyTorch and of what it calls.
        imports: modules to import; they register tasks.
    """
    for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[variable] = str(threads)
    import torch

    torch.set_num_threads(threads)
    for module in imports:
        importlib.import_module(module)


class LocalWorkers:
    """Processes of this machine, started afresh (``spawn``), so that threads and GPUs are theirs from the beginning.

    Args:
        workers: processes.
        threads: CPU threads of each.
        devices: names; the i-th process computes on the i-th of them, and round again.
        imports: modules every process imports first; they register tasks.
    """

    def __init__(self, workers: int, threads: int, devices: Sequence[str] = ("cpu",), imports: Sequence[str] = ()):
        self.workers, self.threads, self.devices, self.imports = workers, threads, tuple(devices), tuple(imports)

    def run(
        self, begin: Begin, cells: Iterable[CellT], started: Callable[[CellT], None]
    ) -> Generator[Outcome, None, None]:
        """Run cells; see :class:`Workers`.

        Raises:
            WorkerStartError: a worker could not begin.
        """
        waiting = iter(cells)
        busy: dict[Connection, _Worker] = {}

        def give_next(number: int, worker: _Worker | None = None) -> bool:
            """Hand the next cell to a worker, a new one where there is none; False where no cell is left."""
            cell = next(waiting, None)
            if cell is None:
                return False
            worker = worker or _Worker(number, self.threads, self.devices[number % len(self.devices)], self.imports)
            busy[worker.connection] = worker
            worker.give(begin, cell)
            started(cell)
            return True

        try:
            for number in range(self.workers):
                if not give_next(number):
                    break
            while busy:
                ready = set(connection.wait(list(busy)))
                for worker in [worker for end, worker in busy.items() if end in ready]:
                    yield worker.outcome()
                    if worker.process.is_alive() and give_next(worker.number, worker):
                        continue
                    del busy[worker.connection]
                    dead = not worker.process.is_alive()
                    worker.stop()
                    if dead:
                        give_next(worker.number)
        finally:
            for worker in busy.values():
                worker.process.terminate()
            for worker in busy.values():
                worker.stop()


class _Worker:
    """One process and the cell it has."""

    def __init__(self, number: int, threads: int, device: str, imports: Sequence[str]) -> None:
        context = multiprocessing.get_context("spawn")
        self.number = number
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, threads, device, tuple(imports)))
        self.process.start()
        # With our copy closed, the end of the process is the end of the connection.
        theirs.close()
        self.cell: Cell | None = None

    def give(self, begin: Begin, cell: Cell) -> None:
        """Hand over a cell, and before the first one what makes the work of it."""
        # A process that is dead already is found by outcome().
        with suppress(BrokenPipeError):
            if self.cell is None:
                self.connection.send(begin)
            self.connection.send(cell)
        self.cell = cell

    def outcome(self) -> Outcome:
        """Return how the cell ended, that it took the process with it included.

        Raises:
            WorkerStartError: the process could not begin.
        """
        assert self.cell is not None
        try:
            received = self.connection.recv()
        except (EOFError, ConnectionResetError):
            self.process.join()
            return Outcome(self.cell.name, 0.0, error=_cause_of_death(self.process.exitcode))
        if isinstance(received, str):
            raise WorkerStartError(f"a worker process could not begin:\n{received}")
        assert isinstance(received, Outcome)
        return received

    def stop(self) -> None:
        """End the process."""
        self.connection.close()
        self.process.join(STOP_SECONDS)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()


def _cause_of_death(exitcode: int | None) -> str:
    if exitcode is not None and exitcode < 0:
        name = signal.Signals(-exitcode).name
        why = " (a process that takes too much memory is killed like this)" if name == "SIGKILL" else ""
        return f"the worker process was killed by {name}{why}; what it had done is kept"
    return f"the worker process ended with exit code {exitcode}; what it had done is kept"


def _serve(cells: Connection, threads: int, device: str, imports: Sequence[str]) -> None:
    """Body of a worker process: answer every cell with its outcome until there are no more."""
    from prune_gym.support.child_process import end_with_parent

    # Ctrl-C reaches the whole process group; the parent decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with_parent()
    try:
        prepare_process(threads, imports)
        # Only now: what it names may import PyTorch.
        work = cells.recv()(device)
    except Exception:  # whatever it is, the parent has to hear of it
        cells.send(traceback.format_exc())
        return
    while True:
        try:
            cell = cells.recv()
        except (EOFError, OSError):
            return
        cells.send(attempt(work, cell))
