"""The H-OBS analysis of a task, computed once and kept on disk."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch.nn.functional import cross_entropy

import hessian
from hessian import HOBSSensitivityAnalyzer
from hessian.channels.group import ChannelGroup
from hessian.support.progress import Progress
from prune_gym.support.cache import Metadata, Tensors, cache_path, code_digest, remember
from prune_gym.support.device import module_device
from prune_gym.support.files import sha256_of
from prune_gym.support.fingerprint import fingerprint_of, network_fingerprint
from prune_gym.tasks.task import PruningTask


@dataclass(frozen=True)
class CurvatureSettings:
    """Settings of the measurement of a task's curvature.

    Attributes:
        damping: relative damping of the input factors.
        use_kfac: Kronecker factors, or exact quadratics (small networks only).
        approximation: ``"expand"`` or ``"reduce"`` (:mod:`hessian.kfac`).
        fisher: curvature estimator (:mod:`hessian.kfac.loss_curvature`).
        trace_calibration: give every layer the trace of its exact curvature (:mod:`hessian.kfac.calibration`).
        position_stride: measure at every n-th position of a feature map (:mod:`hessian.patches.subsampling`).
        batch_size: images a backward pass.
        num_batches: batches of the calibration split to read; None reads all.
        seed: seed of the curvature sketch.
    """

    damping: float = 1e-3
    use_kfac: bool = True
    approximation: str = "expand"
    fisher: str = "sketch"
    trace_calibration: bool = False
    position_stride: int = 1
    batch_size: int = 100
    num_batches: int | None = None
    seed: int = 0


def analysis_key(task: PruningTask, settings: CurvatureSettings) -> str:
    """Digest of everything the analysis depends on: the network, its data, settings, code and PyTorch's version.

    The network counts with its weights and with what its forward pass does
    (:func:`prune_gym.support.fingerprint.network_fingerprint`).
    """
    return sha256_of(
        dict(task.model.state_dict()),
        task.calibration.images,
        task.calibration.labels,
        fingerprint_of(task.criterion),
        list(task.ignored_layers),
        network_fingerprint(task.model),
        asdict(settings),
        code_digest(hessian),
        torch.__version__,
        module_device(task.model).type,
    )


def analyse(
    task: PruningTask,
    settings: CurvatureSettings,
    folder: Path,
    progress: Progress | None = None,
    groups: Sequence[ChannelGroup] | None = None,
) -> HOBSSensitivityAnalyzer:
    """Analysis of a task's network, from the cache where it is there and sound.

    Args:
        task: network and calibration data.
        settings: how curvature is measured.
        folder: the cache.
        progress: called with (description, done, total) while computing.
        groups: the network's prunable layers where they are known; else they are found.
    """
    hobs = HOBSSensitivityAnalyzer(
        task.model,
        settings.damping,
        settings.use_kfac,
        example_input=task.example_input[:1],
        ignored_layers=task.ignored_layers,
        groups=groups,
        approximation=settings.approximation,
        fisher=settings.fisher,
        trace_calibration=settings.trace_calibration,
        position_stride=settings.position_stride,
        seed=settings.seed,
    )

    def compute() -> tuple[Tensors, Metadata]:
        batches = task.calibration.batches(settings.batch_size)
        criterion = None if task.criterion is cross_entropy else task.criterion
        hobs.compute_sensitivity(batches, criterion, settings.num_batches, progress=progress)
        return hobs.tensors()

    def restore(tensors: Tensors, metadata: Metadata) -> HOBSSensitivityAnalyzer:
        hobs.restore(tensors, metadata)
        return hobs

    return remember(cache_path(folder, task.name, "curvature", analysis_key(task, settings)), compute, restore)
