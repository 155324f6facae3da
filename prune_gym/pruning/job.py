"""The stages of one pruning, in order: look, price, plan, cut, repair, test."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from hessian.support.progress import Progress
from prune_gym.cost.joint import Budget, guided
from prune_gym.cost.limits import CountLimits, IntArray
from prune_gym.cost.target import Target
from prune_gym.problem.problem import PruningProblem
from prune_gym.pruning.bisection import Bisection
from prune_gym.pruning.doubts import warnings_of
from prune_gym.pruning.finishing import Finished, Finisher, default_settings
from prune_gym.pruning.numbers import compare, score_name
from prune_gym.pruning.planning import Planner
from prune_gym.pruning.result import PruneResult
from prune_gym.pruning.targets import Targets, TargetsNotMetError
from prune_gym.reconstruction.settings import Reconstruction
from prune_gym.support.stage_progress import StageProgress

MAX_RATIO = 0.95
"""Largest share of a layer's channels that goes."""

BISECTION_STEPS = 9
"""Plans that a bisection measures at most, after the refit alone."""

DEEPER_STEPS = 3
"""Plans that it measures after reconstruction, which allows deeper cuts than the refit alone."""

SEARCH_SHARE = 0.4
"""Of the time that is left after the first plan, where minutes are given; the rest is the reconstruction's."""

RESERVE = 0.1
"""Of the minutes, for testing and saving."""


class Searcher(Protocol):
    """Search for a better plan than the predicted best, by measuring."""

    def __call__(
        self,
        problem: PruningProblem,
        target: Target,
        limits: CountLimits,
        *,
        evaluations: int | None,
        seconds: float | None,
        seed: int,
        progress: Progress,
    ) -> IntArray:
        """The best plan found that meets the target, int64 [L].

        Args:
            problem: what is pruned.
            target: what to reach.
            limits: legal counts.
            evaluations: plans to measure; None: as time allows.
            seconds: wall time; None: as plans allow.
            seed: of what is random.
            progress: called with (description, done, total).
        """
        ...


@dataclass(frozen=True)
class Effort:
    """Effort that a pruning may spend.

    Attributes:
        minutes: wall time for all of it; None for as long as it takes.
        search: plans to measure by the registered searcher, or a searcher; None takes the predicted best plan, unless
            there are minutes to spend.
        reconstruct: whether to match the dense network by gradient steps, or how.
    """

    minutes: float | None = None
    search: int | Searcher | None = None
    reconstruct: bool | Reconstruction = True


class Job:
    """One pruning.

    Args:
        targets: what to reach.
        effort: what to spend.
        shown: where progress is drawn.
        batch_size: images of the batch whose latency counts.
        seed: of what is random.
    """

    def __init__(self, targets: Targets, effort: Effort, shown: StageProgress, batch_size: int, seed: int) -> None:
        self._targets, self._effort, self._shown = targets, effort, shown
        self._batch_size, self._seed = batch_size, seed
        self._seconds: dict[str, float] = {}
        self._started, self._cpu = time.perf_counter(), time.process_time()

    @contextmanager
    def stage(self, name: str) -> Iterator[Progress]:
        """Draw a bar for a stage, and keep its time."""
        started = time.perf_counter()
        with self._shown.stage(name) as report:
            yield report
        self._seconds[name] = time.perf_counter() - started

    def run(self, problem: PruningProblem) -> PruneResult:
        """Prune.

        Raises:
            TargetsNotMetError: no network meets the targets.
        """
        planner = Planner(problem, self._targets, problem.cost.limits(MAX_RATIO), self._batch_size)
        planner.check()
        with self.stage("price channels") as report:
            problem.progress = report
            problem.load()
        if self._targets.latency is not None:
            with self.stage("measure latencies") as report:
                problem.progress = report
                planner.measure_latency()
        finisher = Finisher(problem, self._settings(problem), self._seed)
        finished = self._finished(planner, finisher)
        with self.stage("test and time"):
            return self._result(problem, finished)

    def _settings(self, problem: PruningProblem) -> Reconstruction | None:
        given = self._effort.reconstruct
        if isinstance(given, Reconstruction):
            return given
        return default_settings(problem) if given else None

    # ------------------------------------------------------------------ plans

    def _finished(self, planner: Planner, finisher: Finisher) -> Finished:
        if self._targets.max_drop is not None:
            return self._deepest(planner, finisher, self._targets.max_drop)
        kept = self._closed(planner, 0.0)
        kept = self._searched(planner, kept, 0.0)
        return self._repaired(finisher, kept)

    def _closed(self, planner: Planner, reduction: float) -> IntArray:
        with self.stage("plan") as report:
            return planner.close_latency(planner.plan(reduction), reduction, report)

    def _repaired(self, finisher: Finisher, kept: IntArray) -> Finished:
        with self.stage("cut and refit"):
            cut = finisher.cut(kept)
        if finisher.settings is None:
            return cut
        with self.stage("reconstruct") as report:
            return finisher.reconstructed(cut, report, self._left(1.0))

    def _left(self, share: float) -> float | None:
        """Seconds of the time that is left; None without a limit."""
        if self._effort.minutes is None:
            return None
        whole = 60.0 * self._effort.minutes * (1.0 - RESERVE)
        return max(1.0, share * (whole - (time.perf_counter() - self._started)))

    def _searched(self, planner: Planner, kept: IntArray, reduction: float) -> IntArray:
        """The best plan measured, where a search was asked for; else the plan as it is."""
        search, seconds = self._effort.search, self._left(SEARCH_SHARE)
        budgets = planner.budgets(reduction)
        if (search is None and seconds is None) or not budgets:
            return kept
        searcher = registered_searcher() if search is None or isinstance(search, int) else search
        with self.stage("search") as report:
            best = searcher(
                planner.problem,
                target_of(budgets),
                planner.limits,
                evaluations=search if isinstance(search, int) else None,
                seconds=seconds,
                seed=self._seed,
                progress=report,
            )
        # A plan of another shape may be slower than the table says; then the one that was timed stays.
        return best if planner.meets_latency(best) else kept

    def _deepest(self, planner: Planner, finisher: Finisher, bound: float) -> Finished:
        """The deepest cut that meets all costs and stays within the drop, after all repair.

        Raises:
            TargetsNotMetError: the least cut loses too much already.
        """
        problem = planner.problem
        dense = problem.dense.accuracy

        def refitted(reduction: float) -> float:
            plan = planner.plan(reduction)
            return 100.0 * (dense - problem.evaluator.evaluate(plan.tolist()).accuracy)

        finished: dict[float, Finished] = {}

        def repaired(reduction: float) -> float:
            cut = finisher.cut(planner.close_latency(planner.plan(reduction), reduction))
            # Cuts are alike, so that one race between settings serves them all.
            raced = next((before.setting for before in finished.values() if before.setting is not None), None)
            finished[reduction] = finisher.by(raced).reconstructed(cut, None, self._left(1.0 / DEEPER_STEPS))
            return 100.0 * (dense - finished[reduction].score.accuracy)

        least, most = self._targets.flops or 0.0, problem.cost.largest_reduction(planner.limits)
        with self.stage("find the deepest cut") as report:
            first = Bisection(refitted, bound)
            deepest = first.run(least, most, BISECTION_STEPS, report)
        with self.stage("repair cuts") as report:
            second = Bisection(repaired, bound)
            low = least if deepest is None else deepest
            if deepest is None or self._targets.latency is not None:
                second.measure(low)
            else:
                # Reconstruction keeps the better network, so this one is within the bound without it.
                second.measured[low] = first.measured[low]
            found = second.run(low, most, DEEPER_STEPS if finisher.settings is not None else 0, report)
            if found is not None and found not in finished:
                repaired(found)
        if found is None:
            raise TargetsNotMetError(_too_much_lost(self._targets, low, second.measured[low], bound))
        return finished[found]

    # ------------------------------------------------------------------ the result

    def _result(self, problem: PruningProblem, finished: Finished) -> PruneResult:
        task = problem.task
        networks = {"dense": task.model, "one_shot": finished.one_shot, "pruned": finished.network}
        numbers = compare(networks, task, self._batch_size)
        plan = problem.hobs.plan(finished.kept.tolist())
        ratios = 1.0 - finished.kept / problem.cost.units
        seconds = {**self._seconds, "all, CPU time": time.process_time() - self._cpu}
        return PruneResult(
            model=finished.network,
            tier=finished.tier,
            targets=self._targets,
            scored_by=score_name(task),
            scored_on="held-out" if task.test is None else "test",
            dense=numbers["dense"],
            one_shot=numbers["one_shot"],
            pruned=numbers["pruned"],
            kept={
                group.name: sorted(set(range(group.size)) - set(plan.get(group.name, ()))) for group in problem.groups
            },
            ratios=dict(zip(problem.layer_names, ratios.tolist(), strict=True)),
            plans_measured=problem.evaluator.num_measured,
            batch_size=self._batch_size,
            seconds=seconds,
            warnings=warnings_of(task, numbers["dense"].held_out),
            example_input=task.example_input[:1].clone(),
            _dense_model=task.model,
        )


def target_of(budgets: list[Budget]) -> Target:
    """Budgets as the one target of an environment."""
    if len(budgets) == 1:
        return Target(budgets[0].cost, budgets[0].reduction)
    joint = guided(budgets)[0]
    return Target(joint, joint.target)


SEARCHERS = "prune_gym.searchers"
"""Entry points that searchers are found by; this package's own is R-SPAR."""


def registered_searcher() -> Searcher:
    """The installed searcher.

    Raises:
        ImportError: there is none.
    """
    from importlib.metadata import entry_points

    found = list(entry_points(group=SEARCHERS))
    if not found:
        raise ImportError(
            "no searcher is installed (entry points of 'prune_gym.searchers'); install the package anew, or pass one: "
            "prune(..., search=agents.rspar.plan_search.search_plans)"
        )
    searcher: Searcher = found[0].load()
    return searcher


def _too_much_lost(targets: Targets, reduction: float, drop: float, bound: float) -> str:
    """Message about targets that cost more accuracy than allowed."""
    cut = f"removing {100 * reduction:.1f} % of the FLOPs" if reduction else "the least cut"
    return (
        f"{targets.described()}: {cut} already loses {drop:.2f} points on the held-out images, more than {bound:g}; "
        "allow a larger drop, or ask for less"
    )
