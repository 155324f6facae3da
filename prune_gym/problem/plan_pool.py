"""Plans measured side by side: processes of this machine, or Ray actors, that hold a task and its curvature.

A pool is attached to a problem. Whatever asks that problem to measure several plans at once then gets them measured on
the pool: vector environments in every step, agents that choose plans in batches, and :meth:`PruningProblem.prefetch`
directly. A plan measures the same to the bit on a process with as many threads, so a pool changes when results are
there and never what they are.
"""

from __future__ import annotations

import multiprocessing
import pickle
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from prune_gym.support.child_process import end_with_parent

if TYPE_CHECKING:
    from prune_gym.measuring.evaluation import Evaluation
    from prune_gym.measuring.evaluator import Evaluator
    from prune_gym.problem.problem import PruningProblem

Plan = tuple[int, ...]
Timed = tuple["Evaluation", float]
"""Scores of a plan, and the seconds that measuring it took."""

Self = TypeVar("Self", bound="PlanPool")


class PoolError(RuntimeError):
    """Some plans could not be measured on a pool; those measured before are known."""


class PlanPool(ABC):
    """Measures plans of one problem elsewhere; a context manager that attaches itself to the problem.

    Args:
        problem: what is pruned; loaded if it is not.

    Raises:
        ValueError: the problem has a pool already.
    """

    def __init__(self, problem: PruningProblem) -> None:
        if problem.pool is not None:
            raise ValueError("the problem has a pool already; close that one first")
        self.problem = problem.load()
        problem.pool = self

    @abstractmethod
    def measure(self, plans: Sequence[Plan]) -> Iterable[tuple[Plan, Timed]]:
        """Measure distinct plans side by side, and give each with its scores as soon as it is there.

        Args:
            plans: kept units a layer.

        Raises:
            PoolError: a process was lost, and nobody is there to take over.
        """

    def fill(self, evaluator: Evaluator, plans: Sequence[Sequence[int]]) -> None:
        """Measure the plans an evaluator does not know yet, side by side, and put them into its archive.

        Args:
            evaluator: measures plans one by one.
            plans: kept units a layer; repeated and known ones cost nothing.

        Raises:
            PoolError: a process was lost, and nobody is there to take over; what was measured before is known.
        """
        keys = dict.fromkeys(tuple(int(count) for count in plan) for plan in plans)
        missing = [plan for plan in keys if plan not in evaluator.archive]
        if not missing:
            return
        found: dict[Plan, Timed] = {}
        try:
            found.update(self.measure(missing))
        finally:
            # In the order asked for, whoever was the first to be ready.
            for plan in (plan for plan in missing if plan in found):
                evaluator.archive[plan], evaluator.seconds[plan] = found[plan]

    def close(self) -> None:
        """Detach from the problem and end the processes; what was measured stays known."""
        if self.problem.pool is self:
            self.problem.pool = None

    def __enter__(self: Self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class ProcessPool(PlanPool):
    """Processes of this machine.

    Args:
        problem: what is pruned.
        workers: processes.
        threads: CPU threads of each; None: as many as here, which makes results equal to the bit.

    Raises:
        ValueError: fewer than one process or thread, the problem has a pool already, or it cannot be sent to others.
    """

    def __init__(self, problem: PruningProblem, workers: int = 2, threads: int | None = None) -> None:
        threads = torch.get_num_threads() if threads is None else threads
        check_sizes(workers, threads)
        pickled = sendable(problem)  # first: a problem that cannot be sent is left without a pool
        super().__init__(problem)
        self._executor = ProcessPoolExecutor(
            workers, multiprocessing.get_context("spawn"), _begin_process, (pickled, threads)
        )

    def measure(self, plans: Sequence[Plan]) -> Iterator[tuple[Plan, Timed]]:
        """Measure distinct plans side by side; see :meth:`PlanPool.measure`.

        Raises:
            PoolError: a measuring process was lost.
        """
        try:
            running = {self._executor.submit(_measure_here, plan): plan for plan in plans}
            for ended in as_completed(running):
                yield running[ended], ended.result()
        except BrokenProcessPool as error:
            self.close()
            raise PoolError("a measuring process was lost (killed, or out of memory?); the pool is closed") from error

    def close(self) -> None:
        """Detach from the problem and end the processes; what was measured stays known."""
        super().close()
        self._executor.shutdown(cancel_futures=True)


class RayPool(PlanPool):
    """Actors of a Ray cluster (extra ``ray``): ``ray.init(...)`` first, with whatever your cluster needs.

    Nodes may differ: an actor goes where there is room for it. With a problem on a GPU each has a GPU of its own. Where
    an actor is lost, with its node or alone, the others measure its plan.

    Args:
        problem: what is pruned; on a GPU, on ``"cuda:0"``.
        workers: actors; None: as many as the nodes have room for.
        threads: CPU threads of each, as many CPUs it asks Ray for; None: as many as here.

    Raises:
        ImportError: Ray is not installed.
        ValueError: fewer than one actor or thread, no room for one, a GPU other than the first, the problem has a pool
            already, or it cannot be sent to others.
    """

    def __init__(self, problem: PruningProblem, workers: int | None = 2, threads: int | None = None) -> None:
        try:
            import ray
        except ImportError as error:
            raise ImportError("RayPool needs Ray: pip install 'prune-gym[ray]'") from error
        threads = torch.get_num_threads() if threads is None else threads
        check_sizes(1 if workers is None else workers, threads)
        if problem.device.type == "cuda" and problem.device.index:
            raise ValueError(f"an actor has one GPU, its 'cuda:0'; the problem is on {problem.device}")
        gpus = int(problem.device.type == "cuda")
        if workers is None:
            workers = sum(_room(node["Resources"], threads, gpus) for node in ray.nodes() if node["Alive"])
        if workers < 1:
            raise ValueError(f"no node has room for an actor of {threads} CPUs and {gpus} GPUs")
        pickled = sendable(problem)
        super().__init__(problem)
        self._ray: Any = ray
        actor = ray.remote(num_cpus=threads, num_gpus=gpus)(Measurer)
        stored = ray.put(pickled)
        self._actors = [actor.remote(stored, threads) for _ in range(workers)]

    def measure(self, plans: Sequence[Plan]) -> Iterator[tuple[Plan, Timed]]:
        """Measure distinct plans side by side; see :meth:`PlanPool.measure`.

        Raises:
            PoolError: all measuring actors were lost.
        """
        waiting, idle, running = list(plans), list(self._actors), dict[Any, tuple[Any, Plan]]()
        lost: Exception | None = None
        while waiting or running:
            while waiting and idle:
                actor, plan = idle.pop(), waiting.pop(0)
                running[actor.measure.remote(plan)] = actor, plan
            if not running:
                self.close()
                raise PoolError(f"every measuring actor was lost ({lost}); the pool is closed") from lost
            (ended, *_), _ = self._ray.wait(list(running), num_returns=1)
            actor, plan = running.pop(ended)
            try:
                timed: Timed = self._ray.get(ended)
            except self._ray.exceptions.RayActorError as error:
                lost = error
                self._actors.remove(actor)
                waiting.insert(0, plan)
            else:
                idle.append(actor)
                yield plan, timed

    def close(self) -> None:
        """Detach from the problem and end the actors; what was measured stays known."""
        super().close()
        for actor in self._actors:
            self._ray.kill(actor)
        self._actors = []


def _room(resources: Mapping[str, float], threads: int, gpus: int) -> int:
    """Actors that a node has room for."""
    by_cpus = int(resources.get("CPU", 0) // threads)
    return min(by_cpus, int(resources.get("GPU", 0) // gpus)) if gpus else by_cpus


class Measurer:
    """A problem's evaluator in another process.

    Args:
        pickled: the problem.
        threads: CPU threads.
    """

    def __init__(self, pickled: bytes, threads: int) -> None:
        torch.set_num_threads(threads)
        problem: PruningProblem = pickle.loads(pickled)
        self._evaluator: Evaluator = problem.evaluator
        self._evaluator.archive.clear()

    def measure(self, plan: Plan) -> Timed:
        """Measure one plan."""
        return self._evaluator.evaluate(plan), self._evaluator.seconds[plan]


def sendable(problem: PruningProblem) -> bytes:
    """The loaded problem, pickled.

    Raises:
        ValueError: something in it cannot be pickled.
    """
    try:
        return pickle.dumps(problem.load())
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise ValueError(
            f"the task cannot be sent to another process ({error}); define its criterion and the classes of its "
            "network at the top level of a module"
        ) from error


def check_sizes(workers: int, threads: int) -> None:
    """Check the numbers of workers and threads.

    Raises:
        ValueError: one is not a whole number, at least 1.
    """
    for name, value in (("workers", workers), ("threads", threads)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"{name} is a whole number, at least 1; got {value!r}")


_measurer: list[Measurer] = []
"""The measurer of this process, if it belongs to a pool."""


def _begin_process(pickled: bytes, threads: int) -> None:
    end_with_parent()
    _measurer.append(Measurer(pickled, threads))


def _measure_here(plan: Plan) -> Timed:
    return _measurer[0].measure(plan)
