"""Reconstruction: a pruned network learns to give the dense network's outputs, from images without labels."""

from __future__ import annotations

import copy
import logging
import os
import time
from dataclasses import asdict
from typing import Any

import torch
from torch import nn

from hessian.support.layout import Layout, layout_for, unchanged
from hessian.support.modes import modes_restored
from hessian.support.progress import Progress
from prune_gym.reconstruction.images import (
    ImagesLike,
    Teacher,
    UnlabelledImages,
    check_same_outputs,
    placed,
)
from prune_gym.reconstruction.outputs import Matching, call, float_outputs
from prune_gym.reconstruction.race import Race
from prune_gym.reconstruction.settings import Reconstructed, Reconstruction
from prune_gym.reconstruction.trials import Course, adam
from prune_gym.support.device import module_device
from prune_gym.support.files import sha256_of

logger = logging.getLogger(__name__)


def reconstruct(
    model: nn.Module,
    dense: nn.Module,
    images: ImagesLike | UnlabelledImages,
    settings: Reconstruction | None = None,
    *,
    seed: int = 0,
    progress: Progress | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
) -> Reconstructed:
    """Bring a pruned network closer to the dense one on images without labels, in place; never further away.

    Every tenth image is held out. A few settings are raced by successive halving, the best one trains on, and of all
    networks on the way, the given one among them, the one with the lowest held-out loss is kept.

    Args:
        model: the pruned network, on any device. Modes and memory format stay.
        dense: what it was cut from, on the same device, run in evaluation mode and left as it is.
        images: a tensor [N, ...] (or a tuple, a network's arguments), a split, or batches; labels are not looked at.
            More of them help more than more steps; images of the training set will do.
        settings: see :class:`prune_gym.reconstruction.settings.Reconstruction`.
        seed: which images are held out, and the order of the rest.
        progress: called with (description, steps done, steps in all).
        checkpoint: file that keeps the state every few hundred steps; if it is there, the reconstruction goes on from
            it, bit-equal on the same machine. Delete it for another reconstruction.

    Returns:
        What was tried and what it gave.

    Raises:
        TypeError: images of a kind that is not known.
        ValueError: too few images, images that hold NaN or that a network does not run on, no floating-point output,
            two networks whose outputs differ in shape, nothing to train, or a checkpoint of another reconstruction.
    """
    started = time.perf_counter()
    settings = settings or Reconstruction()
    _check_networks(model, dense)
    images = images if isinstance(images, UnlabelledImages) else UnlabelledImages(images)
    with modes_restored(model), torch.inference_mode(False):
        course, student = prepare(model.eval(), dense, images, settings, seed)
        race = Race(student, course, _about(model, dense, images, settings, seed), checkpoint, progress)
        if settings.steps > 0:
            course.teacher.keep()
            race.run(None if settings.seconds is None else started + settings.seconds)
        else:
            race.before = course.held_out_loss(student)
    if race.best is not None:
        model.load_state_dict(race.best)
    after = race.before if race.best_trial is None else race.best_trial.loss
    return Reconstructed(race.before, after, race.best_trial, tuple(race.trials), time.perf_counter() - started)


def prepare(
    model: nn.Module, dense: nn.Module, images: UnlabelledImages, settings: Reconstruction, seed: int
) -> tuple[Course, nn.Module]:
    """Check everything that can be checked before work, and lay out what the trainings share.

    Returns:
        The course, and a copy of the pruned network to train, laid out as the device likes it.
    """
    adam(model)  # refuses a network without trainable parameters
    indices = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
    sample = placed(next(images.batches([torch.arange(2)])), module_device(dense), unchanged)
    _check_runs({"dense": dense, "pruned": model}, sample)
    layout = _layout(dense, sample)
    teacher = Teacher(_laid_out(dense, layout).eval().requires_grad_(False), images, layout)
    with torch.no_grad():
        check_same_outputs(teacher.sample, float_outputs(call(model, sample)))
    matching = Matching.of(teacher.sample, settings)
    held_out = max(1, round(settings.held_out * len(images)))
    course = Course(teacher, matching, settings, indices[held_out:], indices[:held_out], seed)
    return course, _laid_out(model, layout)


def _layout(dense: nn.Module, sample: Any) -> Layout:
    return layout_for(dense, sample) if isinstance(sample, torch.Tensor) else unchanged


def _laid_out(model: nn.Module, layout: Layout) -> nn.Module:
    duplicate = copy.deepcopy(model)
    for parameter in duplicate.parameters():
        parameter.data = layout(parameter.data)
    return duplicate


def _check_networks(model: nn.Module, dense: nn.Module) -> None:
    if dense is model:
        raise ValueError("the dense network is the pruned one itself; pass the network it was cut from")
    if module_device(dense) != module_device(model):
        raise ValueError(
            f"the dense network is on {module_device(dense)}, the pruned one on {module_device(model)}; move one"
        )


@torch.no_grad()
def _check_runs(networks: dict[str, nn.Module], sample: Any) -> None:
    for name, network in networks.items():
        try:
            with modes_restored(network):
                call(network.eval(), sample)
        except (RuntimeError, ValueError, TypeError) as error:
            parts = sample if isinstance(sample, (tuple, list)) else [sample]
            shapes = [list(part.shape[1:]) for part in parts]
            raise ValueError(
                f"the {name} {type(network).__name__} does not run on images of shape {shapes}: {error}; "
                "give images as the network was trained on"
            ) from error


def _about(
    model: nn.Module, dense: nn.Module, images: UnlabelledImages, settings: Reconstruction, seed: int
) -> dict[str, Any]:
    """Facts that tell one reconstruction from another."""
    first = next(images.batches([torch.arange(min(64, len(images)))]))
    return {
        "reconstruction": asdict(settings),
        "seed": seed,
        "model": sha256_of(dict(model.state_dict())),
        "dense": sha256_of(dict(dense.state_dict())),
        "images": len(images),
        "first_images": list(first) if isinstance(first, (tuple, list)) else first,
    }
