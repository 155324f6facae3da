"""The tasks that come with the package, each a dataset, a network, a way to train it and a place for its weights."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from prune_gym.augmentation import Augmentation
from prune_gym.datasets import DatasetSplits, TensorSplit, load_digits_splits
from prune_gym.fashion import load_fashion_splits
from prune_gym.files import cache_dir, load_safetensors, save_safetensors_atomic, sha256_of
from prune_gym.models import build_model
from prune_gym.pruning_task import PruningTask

ASSETS = Path(__file__).parent / "assets"
VIEW_SEED = 0


@dataclass(frozen=True)
class TrainingRecipe:
    """How a dense network is trained from scratch; the arguments of :func:`prune_gym.training.train_dense`.

    Attributes:
        epochs: Passes over dense-train.
        lr: Peak learning rate.
        batch_size: Images a step.
        weight_decay: L2 penalty of the weights.
        max_shift: Largest random shift, in pixels.
        max_rotation: Largest random rotation, in degrees.
        flip: Whether images are mirrored at random.
        label_smoothing: Share of the target spread evenly over the classes.
    """

    epochs: int
    lr: float
    batch_size: int = 128
    weight_decay: float = 5e-4
    max_shift: float = 0.0
    max_rotation: float = 0.0
    flip: bool = False
    label_smoothing: float = 0.0


@dataclass(frozen=True)
class NamedTask:
    """A task of the package: its parts, put together when asked for.

    Attributes:
        name: Name in the registry.
        description: One line for listings.
        load_splits: Reads the data; its keyword arguments are options of :meth:`build`.
        input_shape: Shape of one image, ``(C, H, W)``.
        model_factory: Name of the network in :mod:`prune_gym.models`.
        recipe: How its dense weights were made.
        default_target: FLOPs reduction asked for when nobody says.
        model_kwargs: Arguments of the network.
        reward_views: How often every image of the reward split is shown, once as it is and else augmented as in
            training. A search over hundreds of plans overfits a few hundred single views.
        weights_shipped: Whether the dense weights are part of the package; if not, they are trained once and cached.
    """

    name: str
    description: str
    load_splits: Callable[..., DatasetSplits]
    input_shape: tuple[int, int, int]
    model_factory: str
    recipe: TrainingRecipe
    default_target: float
    model_kwargs: Mapping[str, Any] = field(default_factory=dict)
    reward_views: int = 1
    weights_shipped: bool = False

    @property
    def cached_weights_path(self) -> Path:
        """Where dense weights that are not part of the package are kept."""
        return cache_dir() / "weights" / self._file_name

    @property
    def weights_path(self) -> Path:
        """Where the dense weights are looked for."""
        return ASSETS / self._file_name if self.weights_shipped else self.cached_weights_path

    @property
    def _file_name(self) -> str:
        return f"{self.name.replace('-', '_')}.safetensors"

    def structure(self, seed: int = 0) -> tuple[nn.Module, torch.Tensor]:
        """The untrained network and an input ``[1, C, H, W]`` to trace it with; reads no data.

        Args:
            seed: Of the initial weights.
        """
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = build_model(self.model_factory, **self.model_kwargs)
        return model.eval(), torch.zeros(1, *self.input_shape)

    def build(self, *, weights: str | os.PathLike[str] | None = None, **dataset_options: Any) -> PruningTask:
        """The task with its data and dense weights, on the CPU.

        Args:
            weights: File with dense weights, as written by :meth:`save_weights`; by default the shipped or cached.
            **dataset_options: Passed on to :attr:`load_splits`.

        Raises:
            FileNotFoundError: If the weights or the data are missing; the message says how to get them.
            ValueError: If the weights file is damaged, or belongs to another network or other training images.
        """
        splits = self.load_splits(**dataset_options)
        model, example_input = self.structure()
        self._load_weights(model, Path(weights) if weights is not None else self.weights_path, splits.train)
        return PruningTask(
            name=self.name,
            model=model,
            example_input=example_input,
            calibration=splits.calibration,
            reward=self._in_views(splits.reward),
            test=splits.test,
            default_target=self.default_target,
            train=splits.train,
            model_factory=self.model_factory,
            model_kwargs=self.model_kwargs,
        )

    def _in_views(self, split: TensorSplit) -> TensorSplit:
        """The images and, after them, ``reward_views - 1`` shifted, rotated or mirrored copies of each."""
        changes = Augmentation(self.recipe.max_shift, self.recipe.max_rotation, self.recipe.flip)
        generator = torch.Generator().manual_seed(VIEW_SEED)
        views = [split.images, *(changes(split.images, generator) for _ in range(self.reward_views - 1))]
        return TensorSplit(torch.cat(views), split.labels.repeat(self.reward_views))

    def save_weights(self, path: str | os.PathLike[str], model: nn.Module, train: TensorSplit, seed: int) -> Path:
        """Keep dense weights with what they depend on: the recipe, the seed and which images they were trained on.

        Returns:
            The path written.
        """
        metadata = {
            "task": self.name,
            "seed": str(seed),
            "recipe": json.dumps(dataclasses.asdict(self.recipe)),
            "train_labels": sha256_of(train.labels),
        }
        return save_safetensors_atomic(path, model.state_dict(), metadata)

    def _load_weights(self, model: nn.Module, path: Path, train: TensorSplit) -> None:
        if not path.is_file():
            raise FileNotFoundError(
                f"no dense weights for task {self.name!r} at {path}; train them once with "
                f"`python -m benchmarks.train_dense --task {self.name} --out {path}`"
            )
        state, metadata = load_safetensors(path)
        # The order of the labels gives away which images were trained on. Other images would mean that the reward
        # split may have been seen in training.
        if metadata.get("task") != self.name or metadata.get("train_labels") != sha256_of(train.labels):
            raise ValueError(
                f"{path} holds weights of task {metadata.get('task')!r} or of other training images than "
                f"{self.name!r} has; train them again with `python -m benchmarks.train_dense --task {self.name}`"
            )
        try:
            model.load_state_dict(state)
        except RuntimeError as error:
            raise ValueError(f"{path} does not fit the network of task {self.name!r}: {error}") from error


NAMED_TASKS: tuple[NamedTask, ...] = (
    NamedTask(
        name="digits-resnet20",
        description="ResNet-20 on scikit-learn's 1,797 handwritten digits at 16x16; everything is in the package",
        load_splits=load_digits_splits,
        input_shape=(1, 16, 16),
        model_factory="resnet20",
        model_kwargs={"num_classes": 10, "in_channels": 1},
        recipe=TrainingRecipe(epochs=30, lr=0.05, batch_size=32, weight_decay=1e-3, max_shift=1.0, max_rotation=10.0),
        default_target=0.9,
        reward_views=5,
        weights_shipped=True,
    ),
    NamedTask(
        name="fashion-resnet20",
        description="ResNet-20 on Fashion-MNIST at 28x28; needs the data on disk and one training run",
        load_splits=load_fashion_splits,
        input_shape=(1, 28, 28),
        model_factory="resnet20",
        model_kwargs={"num_classes": 10, "in_channels": 1},
        recipe=TrainingRecipe(epochs=6, lr=0.1, max_shift=1.0, flip=True),
        default_target=0.76,
    ),
)
"""All of them; further ones slot in here."""


def named_task(name: str) -> NamedTask:
    """The recipe behind a task of the package.

    Raises:
        KeyError: If there is none of that name.
    """
    tasks = {task.name: task for task in NAMED_TASKS}
    if name not in tasks:
        raise KeyError(f"no recipe for task {name!r} (there are recipes for: {', '.join(sorted(tasks))})")
    return tasks[name]
