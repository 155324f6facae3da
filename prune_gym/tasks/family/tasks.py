"""The family's networks as tasks: trained once by their recipe, then read from the cache."""

from __future__ import annotations

import os
from dataclasses import asdict
from functools import partial
from typing import Any

import torch
from torch import nn

from hessian.support.progress import Progress
from prune_gym.data.augmentation import Augmentation
from prune_gym.data.fashion import missing_fashion
from prune_gym.data.splits import TensorSplit
from prune_gym.support.cache import Metadata, Tensors, cache_path, remember
from prune_gym.support.files import cache_dir, sha256_of
from prune_gym.tasks.family.draws import Design
from prune_gym.tasks.family.images import family_images
from prune_gym.tasks.family.networks import design_of, family_network
from prune_gym.tasks.named import TrainingRecipe
from prune_gym.tasks.task import PruningTask, TaskStatus
from prune_gym.training.training import train_dense

DEFAULT_TARGET = 0.8
"""FLOPs reduction asked for when nobody says."""

RECIPES = {
    "digits": TrainingRecipe(epochs=40, lr=0.05, batch_size=32, weight_decay=1e-3, max_shift=0.5, max_rotation=10.0),
    "fashion": TrainingRecipe(epochs=5, lr=0.1, batch_size=64, flip=True),
}
"""Recipes of dense weights, by data set."""


def family_task(
    name: str,
    *,
    data_dir: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
) -> PruningTask:
    """A task ``family/NAME`` with data and dense weights, on the CPU; trains it (seconds) where it was not before.

    Args:
        name: of the network, without ``family/``.
        data_dir: folder of Fashion-MNIST; None: where it is usually.
        progress: called after every step of a training.

    Raises:
        FileNotFoundError: Fashion-MNIST is not there; the message says how to get it.
        ValueError: no network of the family has this name.
    """
    design = design_of(name)
    splits = family_images(design.dataset, design.size, data_dir)
    model = family_network(name)
    path = cache_path(cache_dir() / "weights", f"family-{name}", "dense", _key(design, splits.train, model))

    def compute() -> tuple[Tensors, Metadata]:
        _train(model, splits.train, RECIPES[design.dataset], progress)
        return model.state_dict(), {"network": name}

    def restore(tensors: Tensors, metadata: Metadata) -> nn.Module:
        model.load_state_dict(tensors)
        return model

    return PruningTask(
        name=f"family/{name}",
        model=remember(path, compute, restore),
        example_input=splits.calibration.images[:1],
        calibration=splits.calibration,
        reward=splits.reward,
        test=splits.test,
        default_target=DEFAULT_TARGET,
        train=splits.train,
    )


def task_entry(name: str) -> dict[str, Any]:
    """Entry of :mod:`prune_gym.tasks.registry` for ``family/NAME``.

    Raises:
        KeyError: no network of the family has this name; the nearest is suggested.
    """
    try:
        design = design_of(name)
    except ValueError as error:
        raise KeyError(str(error)) from None
    return {
        "factory": partial(family_task, name),
        "structure": partial(family_structure, name),
        "default_target": DEFAULT_TARGET,
        "description": f"a small {design.kind} network on {design.dataset} at {design.size}x{design.size}",
        "status": partial(_status, name),
    }


def _status(name: str) -> TaskStatus:
    lacking = missing_fashion() if design_of(name).dataset == "fashion" else ""
    found = "missing" if lacking else "found"
    return TaskStatus(weights="trained when asked for", data=found, to_do=(lacking,) if lacking else ())


def family_structure(name: str) -> tuple[nn.Module, torch.Tensor]:
    """The untrained network and an input [1, 1, size, size]; reads no data.

    Raises:
        ValueError: no network of the family has this name.
    """
    size = design_of(name).size
    return family_network(name), torch.zeros(1, 1, size, size)


def _train(model: nn.Module, train: TensorSplit, recipe: TrainingRecipe, progress: Progress | None) -> None:
    train_dense(
        model,
        train,
        epochs=recipe.epochs,
        lr=recipe.lr,
        batch_size=recipe.batch_size,
        weight_decay=recipe.weight_decay,
        augment=Augmentation(recipe.max_shift, recipe.max_rotation, recipe.flip),
        progress=progress,
    )


def _key(design: Design, train: TensorSplit, model: nn.Module) -> str:
    """Digest of all that decides the weights but code: design, first weights, images, recipe, PyTorch."""
    recipe = asdict(RECIPES[design.dataset])
    return sha256_of(asdict(design), dict(model.state_dict()), train.images, train.labels, recipe, torch.__version__)
