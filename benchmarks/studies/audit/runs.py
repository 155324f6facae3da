"""Audits of a task's prices over dense networks, seeds and splits, as one result."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import cross_entropy

from hessian.audit.report import AuditReport
from prune_gym.data.loader_split import DatasetSplit
from prune_gym.data.splits import TensorSplit
from prune_gym.measuring.curvature_cache import CurvatureSettings
from prune_gym.problem.problem import PruningProblem
from prune_gym.support.stage_progress import StageProgress

BATCH_SIZE = 250


@dataclass(frozen=True)
class AuditRequest:
    """Request for audits of one task.

    Attributes:
        task: name of a task.
        weights: files of dense weights, or None alone for the task's own.
        seeds: of the curvature sketch and of the sample of channels.
        splits: which images the prices are held against.
        images: at most so many of each split, or None for all.
        channels_per_layer: single units sampled a layer.
        curvature: how curvature is measured; the seed is replaced.
    """

    task: str
    weights: tuple[Path | None, ...] = (None,)
    seeds: tuple[int, ...] = (0,)
    splits: tuple[str, ...] = ("calibration", "reward")
    images: int | None = None
    channels_per_layer: int = 16
    curvature: CurvatureSettings = field(default_factory=CurvatureSettings)


@dataclass(frozen=True)
class AuditRun:
    """One audit.

    Attributes:
        weights: name of the file of dense weights, or None for the task's own.
        seed: of the curvature sketch and of the sample.
        split: which images.
        dense_accuracy: of the dense network on the reward split, a fraction.
        report: what was found.
    """

    weights: str | None
    seed: int
    split: str
    dense_accuracy: float
    report: AuditReport


def problems(
    task: str,
    weights: Sequence[Path | None],
    seeds: Sequence[int],
    device: str | torch.device | None,
    curvature: CurvatureSettings,
) -> Iterator[tuple[Path | None, int, PruningProblem]]:
    """The task with every dense network and curvature seed; curvature comes from the cache where it is there."""
    for path in weights:
        for seed in seeds:
            yield (
                path,
                seed,
                PruningProblem(
                    task,
                    device=device,
                    curvature=replace(curvature, seed=seed),
                    repair="closed_form",
                    task_options={} if path is None else {"weights": path},
                ),
            )


def run_audits(request: AuditRequest, device: str | torch.device | None, progress: StageProgress) -> list[AuditRun]:
    """Audit every combination of dense network, seed and split.

    Raises:
        KeyError: unknown task.
        FileNotFoundError: weights or data are missing.
        ValueError: an argument out of range, or a split the task does not have.
    """
    runs = []
    for path, seed, problem in problems(request.task, request.weights, request.seeds, device, request.curvature):
        name = None if path is None else path.name
        label = f"{name or request.task}, seed {seed}"
        with progress.stage(f"{label}: curvature") as report_progress:
            problem.progress = report_progress
            problem.load()
        criterion = None if problem.task.criterion is cross_entropy else problem.task.criterion
        for split in request.splits:
            with progress.stage(f"{label}: {split} images") as report_progress:
                report = problem.hobs.audit(
                    images_of(problem, split, request.images).batches(BATCH_SIZE),
                    criterion,
                    channels_per_layer=request.channels_per_layer,
                    num_batches=None,
                    seed=seed,
                    progress=report_progress,
                )
            runs.append(AuditRun(name, seed, split, problem.dense.accuracy, report))
    return runs


def images_of(problem: PruningProblem, split: str, count: int | None) -> TensorSplit:
    """A split of a task, or its first images.

    Raises:
        ValueError: the task has no such split.
    """
    images = getattr(problem.task, split, None)
    if isinstance(images, DatasetSplit):
        return images.subset(slice(count)).read()
    if not isinstance(images, TensorSplit):
        raise ValueError(f"task {problem.name!r} has no split {split!r}; choose calibration, reward, test or train")
    return images if count is None else images.subset(slice(count))


def audit_result(request: AuditRequest, runs: Sequence[AuditRun]) -> dict[str, Any]:
    """All audits as JSON-able values."""
    return {
        "task": request.task,
        "curvature": asdict(request.curvature),
        "runs": [
            {
                "weights": run.weights,
                "seed": run.seed,
                "split": run.split,
                "dense_accuracy": run.dense_accuracy,
                **run.report.to_dict(),
            }
            for run in runs
        ],
    }
