"""One call from a trained network, images and targets to a smaller network: ``prune_gym.prune``."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hessian.support.progress import Progress
from prune_gym.problem.problem import PruningProblem
from prune_gym.pruning.data import MAX_IMAGES, Outputs, Pictures, make_pruning_task, read_pictures
from prune_gym.pruning.doubts import warnings_of
from prune_gym.pruning.finishing import Finished, finish
from prune_gym.pruning.numbers import compare, score_name
from prune_gym.pruning.planning import Bisection, Planner, refused
from prune_gym.pruning.result import PruneResult
from prune_gym.pruning.shown import progress_for
from prune_gym.pruning.targets import Targets
from prune_gym.support.stage_progress import StageProgress
from prune_gym.tasks.task import Metric

MAX_RATIO = 0.95
"""Largest share of a layer's channels that goes."""

BISECTION_STEPS = 9
"""Plans a bisection measures at most."""


def prune(
    model: nn.Module,
    images: Any,
    labels: Any = None,
    *,
    flops: float | str | None = None,
    params: float | str | None = None,
    latency: str | None = None,
    max_drop: float | None = None,
    val: Any = None,
    test: Any = None,
    metric: Metric | None = None,
    criterion: Callable[[Tensor, Tensor], Tensor] | None = None,
    outputs: Outputs = "auto",
    ignored_layers: Sequence[str] = (),
    batch_size: int = 32,
    max_images: int = MAX_IMAGES,
    device: str | int | torch.device | None = None,
    seed: int = 0,
    name: str = "network",
    cache_dir: str | Path | None = None,
    progress: bool | None = None,
) -> PruneResult:
    """Make a trained network smaller.

    Channels are priced by H-OBS, the counts of every layer are the best predicted ones that meet the targets, and the
    weights that stay are refitted, so that the smaller network computes what the dense one did. Labels are not needed.

    Example:
        >>> result = prune_gym.prune(model, images, flops=0.5)  # doctest: +SKIP
        >>> print(result.report())  # doctest: +SKIP
        >>> small = result.model  # doctest: +SKIP

    Args:
        model: the trained network; never modified.
        images: what it is repaired on, as it takes them (resized, normalised): a tensor [N, C, H, W], (images, labels),
            a dataset or loader of images or of pairs. A few hundred do, a thousand are better.
        labels: of a tensor of images.
        flops: share of the FLOPs to remove (``0.5``, ``"50%"``), or what may be left (``"0.5x"``).
        params: the same for parameters.
        latency: largest latency of a batch, ``"4.2ms"`` or ``"0.6x"`` of the dense network's, on this machine.
        max_drop: largest loss in percentage points of accuracy (of the metric, of agreement with the dense network).
            Alone, the network is made as small as it allows; beside other targets it is checked.
        val: images the network was not trained on, to score it; None holds a fifth of ``images`` out.
        test: images for the report alone; None reports on the held-out ones.
        metric: ``metric(model, split) -> float``, higher is better, in place of accuracy.
        criterion: the loss the network was trained with; None means cross-entropy where outputs are classes, else
            squared error.
        outputs: ``"classes"`` or ``"numbers"``, where neither labels nor criterion tell what the outputs are.
        ignored_layers: names of layers to leave alone.
        batch_size: images of the batch whose latency counts.
        max_images: images of each kind held in memory.
        device: where to work; None means where the network is.
        seed: which images are held out.
        name: what to call the network in caches and reports.
        cache_dir: where curvature is kept between calls.
        progress: True draws bars, False does not, None draws them on a terminal and in notebooks.

    Returns:
        The network and its report.

    Raises:
        TargetError: a target cannot be read, or none is given.
        TargetsNotMetError: no network meets the targets; the message says what is reachable.
        TypeError: the model or the images are something else.
        ValueError: the images do not fit the network, or the network cannot be pruned.
    """
    targets = Targets.of(flops, params, latency, max_drop)
    if not isinstance(model, nn.Module):
        raise TypeError(f"model is a torch.nn.Module; got {type(model).__name__}")
    with progress_for(progress) as shown:
        with shown.stage("read images"):
            pictures = read_pictures("images", images, labels, limit=max_images)
            held_out = None if val is None else read_pictures("val", val, limit=max_images)
            tested = None if test is None else read_pictures("test", test, limit=max_images)
        return prune_within(
            targets,
            model,
            pictures,
            val=held_out,
            test=tested,
            metric=metric,
            criterion=criterion,
            outputs=outputs,
            ignored_layers=ignored_layers,
            batch_size=batch_size,
            device=device,
            seed=seed,
            name=name,
            cache_dir=cache_dir,
            shown=shown,
        )


def prune_within(
    targets: Targets,
    model: nn.Module,
    pictures: Pictures,
    *,
    val: Pictures | None = None,
    test: Pictures | None = None,
    metric: Metric | None = None,
    criterion: Callable[[Tensor, Tensor], Tensor] | None = None,
    outputs: Outputs = "auto",
    ignored_layers: Sequence[str] = (),
    batch_size: int = 32,
    device: str | int | torch.device | None = None,
    seed: int = 0,
    name: str = "network",
    cache_dir: str | Path | None = None,
    shown: StageProgress,
) -> PruneResult:
    """:func:`prune` for targets and images that are read already, on bars that are drawn already."""
    job = _Job(targets, shown, batch_size)
    with job.stage("look at the network"):
        task = make_pruning_task(
            name,
            model,
            pictures,
            val=val,
            test=test,
            metric=metric,
            criterion=criterion,
            outputs=outputs,
            ignored_layers=tuple(ignored_layers),
            seed=seed,
        )
        problem = PruningProblem(task, device=device, cache_dir=cache_dir)
    return job.run(problem)


class _Job:
    """The stages of one pruning, in order."""

    def __init__(self, targets: Targets, shown: StageProgress, batch_size: int) -> None:
        self._targets, self._shown, self._batch_size = targets, shown, batch_size
        self._seconds: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[Progress]:
        started = time.perf_counter()
        with self._shown.stage(name) as report:
            yield report
        self._seconds[name] = time.perf_counter() - started

    def run(self, problem: PruningProblem) -> PruneResult:
        planner = Planner(problem, self._targets, problem.cost.limits(MAX_RATIO))
        planner.check()
        with self.stage("price channels") as report:
            problem.progress = report
            problem.load()
        reduction = self._reduction(planner)
        with self.stage("cut and repair") as report:
            finished = finish(problem, planner.plan(reduction), report)
        self._check_drop(planner, finished)
        with self.stage("test and time"):
            return self._result(problem, finished)

    def _reduction(self, planner: Planner) -> float:
        """FLOPs reduction to cut at: the target's, or the deepest within the drop."""
        problem, bound = planner.problem, self._targets.max_drop
        if bound is None:
            return planner.least

        def drop_of(reduction: float) -> float:
            kept = planner.plan(reduction)
            return 100.0 * (problem.dense.accuracy - problem.evaluator.evaluate(kept.tolist()).accuracy)

        with self.stage("find the deepest cut") as report:
            search = Bisection(drop_of, bound)
            deepest = search.run(planner.least, problem.cost.largest_reduction(planner.limits), BISECTION_STEPS, report)
        if deepest is None:
            raise refused(self._targets, search.measured[planner.least], planner.least, None)
        return deepest

    def _check_drop(self, planner: Planner, finished: Finished) -> None:
        """Refuse a network that lost more than allowed."""

    def _result(self, problem: PruningProblem, finished: Finished) -> PruneResult:
        task = problem.task
        networks = {"dense": task.model, "one_shot": finished.one_shot, "pruned": finished.network}
        numbers = compare(networks, task, self._batch_size)
        plan = problem.hobs.plan(finished.kept.tolist())
        ratios = 1.0 - finished.kept / problem.cost.units
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
            seconds=dict(self._seconds),
            warnings=warnings_of(task, numbers["dense"].held_out),
            example_input=task.example_input[:1].clone(),
            _dense_model=task.model,
        )
