"""Workers of a Ray cluster: the cells of a sweep as remote tasks (extra ``ray``).

Every node needs this project installed, and sees ``save_dir`` under the same path (a shared file system): runs are
written, and resumed, where they would be on one machine. A lost node costs no finished cell; those it was at are begun
again elsewhere.
"""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Sequence
from itertools import islice
from typing import Any

from benchmarks.studies.engine.study import Cell, CellT, Outcome
from benchmarks.studies.engine.workers import Begin, WorkerStartError, attempt, prepare_process

BEGUN_AGAIN = 2
"""Times that a cell is begun again because its node was lost."""


class RayWorkers:
    """Ray tasks, one cell each.

    Args:
        address: of a running cluster (``"auto"``, ``"ray://host:10001"``, ``"host:6379"``); None starts a local one,
            which ends with the cells.
        workers: cells at a time; None: as many as the cluster has room for.
        threads: CPU threads of every cell, as many CPUs it asks Ray for.
        imports: modules imported first; they register tasks.
        gpu: whether every cell asks Ray for a GPU.

    Raises:
        ImportError: Ray is not installed.
    """

    def __init__(
        self,
        address: str | None,
        workers: int | None,
        threads: int,
        imports: Sequence[str] = (),
        *,
        gpu: bool = False,
    ) -> None:
        try:
            import ray
        except ImportError as error:
            raise ImportError("--ray needs Ray: pip install 'prune-gym[ray]'") from error
        self._ray: Any = ray
        self.address, self.workers, self.threads, self.imports = address, workers, threads, tuple(imports)
        self.gpu = gpu

    def run(
        self, begin: Begin, cells: Iterable[CellT], started: Callable[[CellT], None]
    ) -> Generator[Outcome, None, None]:
        """Run cells; see :class:`benchmarks.studies.engine.workers.Workers`.

        Raises:
            WorkerStartError: no cluster at the address.
        """
        ours = self._connect()
        run = self._ray.remote(num_cpus=self.threads, num_gpus=int(self.gpu), max_retries=0)(_run_in_ray)
        waiting, running, lost = iter(cells), dict[Any, CellT](), Counter[str]()
        device = "cuda:0" if self.gpu else "cpu"

        def give(cell: CellT) -> None:
            running[run.remote(begin, cell, self.threads, device, self.imports)] = cell
            started(cell)

        try:
            while True:
                room = None if self.workers is None else self.workers - len(running)
                for cell in islice(waiting, room):
                    give(cell)
                if not running:
                    return
                (ended, *_), _ = self._ray.wait(list(running), num_returns=1)
                cell = running.pop(ended)
                outcome, node_lost = self._outcome(ended, cell)
                lost[cell.name] += node_lost
                if node_lost and lost[cell.name] <= BEGUN_AGAIN:
                    give(cell)
                else:
                    yield outcome
        finally:
            for reference in running:
                self._ray.cancel(reference, force=True)
            if ours:
                self._ray.shutdown()

    def _connect(self) -> bool:
        """Make sure there is a cluster; returns whether it has to be left again.

        Raises:
            WorkerStartError: there is no cluster, and none can be started.
        """
        if self._ray.is_initialized():
            return False
        options: dict[str, Any] = {"log_to_driver": False, "include_dashboard": False, "logging_level": "warning"}
        if self.address is None:
            cores = (self.workers or max(1, (os.cpu_count() or 1) // self.threads)) * self.threads
            # Local workers find what this process finds; those of a cluster have their own installation.
            options |= {"num_cpus": cores, "runtime_env": {"env_vars": {"PYTHONPATH": os.pathsep.join(sys.path)}}}
        else:
            options |= {"address": self.address}
            del options["include_dashboard"]
        try:
            self._ray.init(**options)
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise WorkerStartError(f"no Ray cluster at {self.address or 'this machine'}: {error}") from None
        return True

    def _outcome(self, reference: Any, cell: Cell) -> tuple[Outcome, bool]:
        """End of a cell, and whether that is because its node was lost."""
        try:
            return self._ray.get(reference), False
        except self._ray.exceptions.RayError as error:
            # The worker died, or could not begin; what a cell itself dies of comes back as an outcome.
            first = str(error).strip().splitlines()[0]
            outcome = Outcome(cell.name, 0.0, error=f"{type(error).__name__}: {first}", trace=str(error))
            return outcome, isinstance(error, self._ray.exceptions.NodeDiedError)


def _run_in_ray(begin: Begin, cell: Cell, threads: int, device: str, imports: Sequence[str]) -> Outcome:
    prepare_process(threads, imports)
    return attempt(begin(device), cell)
