"""Worker processes on this machine: each runs one job at a time, and a killed one costs that job only."""

from __future__ import annotations

import multiprocessing
import signal
import traceback
from collections import deque
from collections.abc import Callable, Generator, Sequence
from contextlib import suppress
from multiprocessing import connection
from multiprocessing.connection import Connection
from typing import Protocol

from benchmarks.sweep.worker_job import Job, Outcome, prepare_process, run_job
from prune_gym.support.child_process import end_with_parent

STOP_SECONDS = 5.0
"""How long a worker may take to end after it was asked to."""


class WorkerStartError(RuntimeError):
    """A worker process could not begin, so no job can run; the message has its traceback."""


class Workers(Protocol):
    """Workers that run the jobs of a sweep."""

    def run(self, jobs: Sequence[Job], started: Callable[[Job], None]) -> Generator[Outcome, None, None]:
        """Run jobs and yield how each ended, in the order they end.

        A caller that stops iterating stops the workers; what they were at stays resumable.

        Args:
            jobs: what to run.
            started: called with every job that begins.
        """
        ...


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

    def run(self, jobs: Sequence[Job], started: Callable[[Job], None]) -> Generator[Outcome, None, None]:
        """Run jobs; see :class:`Workers`.

        Raises:
            WorkerStartError: a worker could not begin.
        """
        waiting = deque(jobs)
        busy: dict[Connection, _Worker] = {}
        try:
            for number in range(min(self.workers, len(jobs))):
                worker = self._start(number)
                busy[worker.connection] = worker
                worker.give(waiting.popleft(), started)
            while busy:
                ready = set(connection.wait(list(busy)))
                for worker in [worker for end, worker in busy.items() if end in ready]:
                    yield worker.outcome()
                    if waiting and worker.process.is_alive():
                        worker.give(waiting.popleft(), started)
                        continue
                    del busy[worker.connection]
                    worker.stop()
                    if waiting:
                        worker = self._start(worker.number)
                        busy[worker.connection] = worker
                        worker.give(waiting.popleft(), started)
        finally:
            for worker in busy.values():
                worker.process.terminate()
            for worker in busy.values():
                worker.stop()

    def _start(self, number: int) -> _Worker:
        return _Worker(number, self.threads, self.devices[number % len(self.devices)], self.imports)


class _Worker:
    """One process and the job it has."""

    def __init__(self, number: int, threads: int, device: str, imports: Sequence[str]) -> None:
        context = multiprocessing.get_context("spawn")
        self.number = number
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, threads, device, tuple(imports)))
        self.process.start()
        # With our copy closed, the end of the process is the end of the connection.
        theirs.close()
        self.job: Job | None = None

    def give(self, job: Job, started: Callable[[Job], None]) -> None:
        """Hand over a job."""
        self.job = job
        # A process that is dead already is found by outcome().
        with suppress(BrokenPipeError):
            self.connection.send(job)
        started(job)

    def outcome(self) -> Outcome:
        """Return the end of the job, also where it took the process with it."""
        assert self.job is not None
        try:
            received = self.connection.recv()
        except (EOFError, ConnectionResetError):
            self.process.join()
            return Outcome(self.job.name, 0.0, _cause_of_death(self.process.exitcode))
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


def _serve(jobs: Connection, threads: int, device: str, imports: Sequence[str]) -> None:
    """Body of a worker process: answer every job with its outcome until there are no more."""
    # Ctrl-C reaches the whole process group; the parent decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with_parent()
    try:
        prepare_process(threads, imports)
    except Exception:  # whatever it is, the parent has to hear of it
        jobs.send(traceback.format_exc())
        return
    while True:
        try:
            job = jobs.recv()
        except (EOFError, OSError):
            return
        jobs.send(run_job(job, device))
