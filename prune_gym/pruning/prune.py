"""One call from a trained network, images and targets to a smaller network: ``prune_gym.prune``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from prune_gym.problem.problem import PruningProblem
from prune_gym.pruning.data import MAX_IMAGES, Outputs, Pictures, make_pruning_task, read_pictures
from prune_gym.pruning.job import Effort, Job, Searcher
from prune_gym.pruning.result import PruneResult
from prune_gym.pruning.shown import progress_for
from prune_gym.pruning.targets import Targets
from prune_gym.reconstruction.settings import Reconstruction
from prune_gym.support.stage_progress import StageProgress
from prune_gym.tasks.task import Metric


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
    minutes: float | None = None,
    search: int | Searcher | None = None,
    reconstruct: bool | Reconstruction = True,
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
    weights that stay are refitted and then matched to the dense network's outputs. Labels are not needed.

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
        minutes: wall time for all of it; what is left after the first plan goes into a search and the reconstruction.
        search: plans that R-SPAR measures, in place of taking the predicted best; or what searches.
        reconstruct: whether the pruned network is matched to the dense one by gradient steps on the images, without
            labels; or how.
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
            effort=Effort(minutes, search, reconstruct),
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
    effort: Effort,
    device: str | int | torch.device | None = None,
    seed: int = 0,
    name: str = "network",
    cache_dir: str | Path | None = None,
    shown: StageProgress,
) -> PruneResult:
    """:func:`prune` for targets and images that are read already, on bars that are drawn already."""
    job = Job(targets, effort, shown, batch_size, seed)
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
