"""The tasks that come with the package, each a dataset, a network, a way to train it and a place for its weights."""

from __future__ import annotations

import dataclasses
import inspect
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import safetensors
import torch
from torch import nn

from prune_gym.data.augmentation import Augmentation
from prune_gym.data.cifar import CIFAR10, CIFAR100, CifarFormat, load_cifar_splits, missing_cifar
from prune_gym.data.fashion import load_fashion_splits, missing_fashion
from prune_gym.data.splits import DatasetSplits, TensorSplit, load_digits_splits
from prune_gym.support.files import cache_dir, load_safetensors, save_safetensors_atomic, sha256_of
from prune_gym.tasks.models import build_model
from prune_gym.tasks.task import PruningTask, TaskSize, TaskStatus

ASSETS = Path(__file__).parents[1] / "assets"
VIEW_SEED = 0


@dataclass(frozen=True)
class TrainingRecipe:
    """Recipe for training a dense network from scratch; the arguments of :func:`prune_gym.training.train_dense`.

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
        model_factory: Name of the network in :mod:`prune_gym.tasks.models`.
        recipe: How its dense weights were made.
        default_target: FLOPs reduction asked for when nobody says.
        size: Of the dense network.
        model_kwargs: Arguments of the network.
        reward_views: How often every image of the reward split is shown, once as it is and else augmented as in
            training. A search over hundreds of plans overfits a few hundred single views.
        weights_shipped: Whether the dense weights are part of the package; if not, they are trained once and cached.
        missing_data: Says how to get the data that is not there, or nothing if all is; None if it is in the package.
    """

    name: str
    description: str
    load_splits: Callable[..., DatasetSplits]
    input_shape: tuple[int, int, int]
    model_factory: str
    recipe: TrainingRecipe
    default_target: float
    size: TaskSize
    model_kwargs: Mapping[str, Any] = field(default_factory=dict)
    reward_views: int = 1
    weights_shipped: bool = False
    missing_data: Callable[[], str] | None = None

    @property
    def cached_weights_path(self) -> Path:
        """Path where dense weights that are not part of the package are kept."""
        return cache_dir() / "weights" / self._file_name

    @property
    def weights_path(self) -> Path:
        """Path where the dense weights are looked for."""
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
            TypeError: If the data set has no such option.
            ValueError: If the weights file is damaged, or belongs to another network or other training images.
        """
        try:
            inspect.signature(self.load_splits).bind(**dataset_options)
        except TypeError as error:
            raise TypeError(f"task {self.name!r}: {error}") from None
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

    def status(self) -> TaskStatus:
        """Status of data and weights: at hand, or how to get them; reads only the header of the weights."""
        there = self.weights_path.is_file()
        lacking = self.missing_data() if self.missing_data is not None else ""
        to_do = [lacking] if lacking else []
        if not there:
            to_do.append("train it once: python -m benchmarks.train_dense --task NAME")
        return TaskStatus(
            dense_accuracy=_recorded_accuracy(self.weights_path) if there else None,
            weights="shipped" if self.weights_shipped else "cached" if there else "missing",
            data="shipped" if self.missing_data is None else "missing" if lacking else "found",
            to_do=tuple(to_do),
        )

    def _in_views(self, split: TensorSplit) -> TensorSplit:
        """The images and, after them, ``reward_views - 1`` shifted, rotated or mirrored copies of each."""
        changes = Augmentation(self.recipe.max_shift, self.recipe.max_rotation, self.recipe.flip)
        generator = torch.Generator().manual_seed(VIEW_SEED)
        views = [split.images, *(changes(split.images, generator) for _ in range(self.reward_views - 1))]
        return TensorSplit(torch.cat(views), split.labels.repeat(self.reward_views))

    def save_weights(
        self,
        path: str | os.PathLike[str],
        model: nn.Module,
        train: TensorSplit,
        seed: int,
        test_accuracy: float | None = None,
    ) -> Path:
        """Keep dense weights with what they depend on: the recipe, the seed and which images they were trained on.

        Args:
            path: File to write.
            model: The trained network.
            train: What it was trained on.
            seed: What it was trained with.
            test_accuracy: Top-1 on the test split, a fraction in [0, 1], for listings.

        Returns:
            The path written.
        """
        metadata = {
            "task": self.name,
            "seed": str(seed),
            "recipe": json.dumps(dataclasses.asdict(self.recipe)),
            "train_labels": sha256_of(train.labels),
        }
        if test_accuracy is not None:
            metadata["test_accuracy"] = repr(test_accuracy)
        return save_safetensors_atomic(path, model.state_dict(), metadata)

    def _load_weights(self, model: nn.Module, path: Path, train: TensorSplit) -> None:
        if not path.is_file():
            raise FileNotFoundError(
                f"no dense weights for task {self.name!r} at {path}; train them once with `python -m "
                f"benchmarks.train_dense --task {self.name}{'' if path == self.weights_path else f' --out {path}'}`"
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


def _recorded_accuracy(path: Path) -> float | None:
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            return float((file.metadata() or {})["test_accuracy"])
    except (OSError, safetensors.SafetensorError, KeyError, ValueError):
        return None


def _cifar_task(cifar: CifarFormat, model_factory: str, recipe: TrainingRecipe, size: TaskSize) -> NamedTask:
    return NamedTask(
        name=f"{cifar.name.lower().replace('-', '')}-{model_factory}",
        description=f"ResNet-{model_factory.removeprefix('resnet')} on {cifar.name} at 32x32; needs the data on disk "
        "and one training run",
        load_splits=partial(load_cifar_splits, cifar),
        input_shape=(3, 32, 32),
        model_factory=model_factory,
        model_kwargs={"num_classes": cifar.num_classes, "in_channels": 3},
        recipe=recipe,
        default_target=0.76,
        size=size,
        missing_data=partial(missing_cifar, cifar),
    )


_CIFAR_RECIPE = TrainingRecipe(epochs=160, lr=0.1, max_shift=4.0, flip=True)
"""As long and augmented as in He et al. (2016), section 4.2; learning rate schedule and weight decay are ours."""

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
        size=TaskSize(12, 448, 20_260_096, 272_186),
        reward_views=5,
        weights_shipped=True,
    ),
    NamedTask(
        name="digits-resnet56",
        description="ResNet-56 on the same digits: what an agent that learned on ResNet-20 carries over; needs one "
        "training run",
        load_splits=load_digits_splits,
        input_shape=(1, 16, 16),
        model_factory="resnet56",
        model_kwargs={"num_classes": 10, "in_channels": 1},
        recipe=TrainingRecipe(epochs=30, lr=0.05, batch_size=32, weight_decay=1e-3, max_shift=1.0, max_rotation=10.0),
        default_target=0.9,
        size=TaskSize(30, 1120, 62_727_424, 855_482),
        reward_views=5,
    ),
    NamedTask(
        name="fashion-resnet20",
        description="ResNet-20 on Fashion-MNIST at 28x28; needs the data on disk",
        load_splits=load_fashion_splits,
        input_shape=(1, 28, 28),
        model_factory="resnet20",
        model_kwargs={"num_classes": 10, "in_channels": 1},
        recipe=TrainingRecipe(epochs=6, lr=0.1, max_shift=1.0, flip=True),
        default_target=0.76,
        size=TaskSize(12, 448, 62_043_904, 272_186),
        missing_data=missing_fashion,
        weights_shipped=True,
    ),
    NamedTask(
        name="fashion-vgg11",
        description="VGG-11 on Fashion-MNIST at 28x28; needs the data on disk",
        load_splits=load_fashion_splits,
        input_shape=(1, 28, 28),
        model_factory="vgg11",
        model_kwargs={"num_classes": 10, "in_channels": 1, "widths": (24, 48, 96, 96, 192, 192, 192, 192)},
        recipe=TrainingRecipe(epochs=12, lr=0.1, max_shift=1.0, flip=True),
        default_target=0.76,
        size=TaskSize(8, 1032, 37_833_216, 1_300_210),
        missing_data=missing_fashion,
        weights_shipped=True,
    ),
    _cifar_task(CIFAR10, "resnet20", _CIFAR_RECIPE, TaskSize(12, 448, 81_626_368, 272_474)),
    _cifar_task(CIFAR10, "resnet56", _CIFAR_RECIPE, TaskSize(30, 1120, 251_495_680, 855_770)),
    _cifar_task(CIFAR100, "resnet20", _CIFAR_RECIPE, TaskSize(12, 448, 81_637_888, 278_324)),
    _cifar_task(CIFAR100, "resnet56", _CIFAR_RECIPE, TaskSize(30, 1120, 251_507_200, 861_620)),
)
"""All of them; further ones slot in here."""


def named_task(name: str) -> NamedTask:
    """The recipe behind a task of the package.

    Raises:
        KeyError: If there is none of that name.
    """
    tasks = {task.name: task for task in NAMED_TASKS}
    if name not in tasks:
        hint = "; its weights are torchvision's, there is nothing to train" if name.startswith("imagenet-") else ""
        raise KeyError(f"no recipe for task {name!r}{hint} (there are recipes for: {', '.join(sorted(tasks))})")
    return tasks[name]
