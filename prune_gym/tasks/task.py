"""One pruning problem: a trained network, its data splits and what it is scored by."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, Dataset, TensorDataset

from hessian.support.door import plain_model
from prune_gym.data.loader_split import DatasetSplit, split_of_loader, spread
from prune_gym.data.splits import ImageSplit, TensorSplit
from prune_gym.support.device import module_device
from prune_gym.support.files import sha256_of
from prune_gym.tasks.outputs import count_outputs, knows_own_targets, own_targets

SplitLike: TypeAlias = TensorSplit | DatasetSplit | tuple[torch.Tensor, torch.Tensor] | Dataset[Any] | DataLoader[Any]
"""Splits a task accepts: tensors ``(images, labels)``, a map-style dataset, or a loader of one."""

Metric: TypeAlias = Callable[[nn.Module, TensorSplit], float]
"""Measure of how good a network is on a split: one number, higher is better."""

AGREEMENT: Literal["agreement"] = "agreement"
"""The metric that needs no labels: how far outputs agree with the dense network's
(:mod:`prune_gym.measuring.grading`)."""

CALIBRATION_SIZE = 1024
"""Images of dense-train that :func:`task_from_loaders` calibrates on."""

DIGEST_BATCH = 256
"""Images hashed at once; digests of splits depend on it."""

IN_MEMORY = ("calibration", "reward")
"""Splits that are always held as tensors: they are read for every plan."""


@dataclass(frozen=True, eq=False)
class PruningTask:
    """A trained network with the data that prices, scores and reports its pruning.

    A classifier is scored by its accuracy. Any other network (segmentation, detection, regression) brings a ``metric``,
    or is scored by its agreement with the dense network; splits may then be bare images ``[N, ...]``.

    The splits are accepted as ``(images, labels)`` tensors, map-style datasets or loaders of one. Calibration and
    reward are read into memory once and are :class:`TensorSplit` afterwards; test and train stay in their dataset
    (:class:`~prune_gym.data.loader_split.DatasetSplit`) and are read batch by batch, in order: a loader's shuffling and
    batch size do not matter. Everything is validated here, so that nothing below has to.

    Attributes:
        name: Names the task in caches, tables and result files.
        model: The dense, trained network; maps images ``[N, ...]`` to logits ``[N, num_classes]``, with a ``metric`` to
            any tensors ``[N, ...]``. Wrappers (DataParallel, a compiled module) are taken off.
        example_input: One small input batch ``[N, ...]`` of the images' shape, to trace the network with.
        calibration: Images for curvature, refits and batch-norm statistics; a part of ``train``.
        reward: Images that rewards are measured on; the network must not have been trained on them.
        test: Images for the final report only, or None.
        criterion: Mean loss of (logits, labels), a scalar in nats for the default cross-entropy.
        ignored_layers: Qualified names of modules whose channels stay.
        default_target: FLOPs reduction asked for when nobody says, in (0, 1).
        train: Images that trained the dense network, for fine-tuning, or None.
        model_factory: Name under which :mod:`prune_gym.tasks.models` rebuilds the untrained network, or None.
        model_kwargs: Arguments of that factory.
        metric: ``metric(model, split) -> float``, higher is better, in place of accuracy; ``"agreement"`` for agreement
            with the dense network's outputs, which needs no labels; None for top-1 accuracy. With a metric, labels are
            whatever it reads, ``[N, ...]``.
        num_classes: Outputs of the network (of a dense prediction, its channels); found, not given.

    Raises:
        TypeError: If a field has the wrong type.
        ValueError: If a split is empty, holds NaN, or does not fit the network; see the message.
    """

    name: str
    model: nn.Module
    example_input: torch.Tensor
    calibration: TensorSplit
    reward: TensorSplit
    test: ImageSplit | None
    criterion: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] = cross_entropy
    ignored_layers: Sequence[str] = ()
    default_target: float = 0.5
    train: ImageSplit | None = None
    model_factory: str | None = None
    model_kwargs: Mapping[str, Any] = field(default_factory=dict)
    metric: Metric | Literal["agreement"] | None = None
    num_classes: int = field(init=False)

    def __post_init__(self) -> None:
        _check_fields(self)
        num_classes = count_outputs(self.model, self.example_input, classes_only=self.metric is None)
        for split in ("calibration", "reward", "test", "train"):
            value = getattr(self, split)
            if value is None and split in ("test", "train"):
                continue
            if self.metric is not None:
                value = _with_targets(self, split, value)
            checked = _checked_split(split, value, self.example_input, num_classes if self.metric is None else None)
            object.__setattr__(self, split, checked)
        object.__setattr__(self, "ignored_layers", tuple(self.ignored_layers))
        object.__setattr__(self, "model_kwargs", dict(self.model_kwargs))
        object.__setattr__(self, "num_classes", num_classes)

    def to(self, device: torch.device) -> PruningTask:
        """The task with a copy of its network and its example on a device; itself where they are there already."""
        if module_device(self.model) == device and self.example_input.device == device:
            return self
        model = copy.deepcopy(self.model).to(device)
        return dataclasses.replace(self, model=model, example_input=self.example_input.to(device))


def _check_fields(task: PruningTask) -> None:
    if not isinstance(task.name, str) or not task.name:
        raise TypeError(f"a task's name is a non-empty text; got {task.name!r}")
    object.__setattr__(task, "model", plain_model(task.model))
    if not isinstance(task.example_input, torch.Tensor) or not task.example_input.is_floating_point():
        raise TypeError("example_input is a float tensor [N, ...], for example images[:1]")
    if not callable(task.criterion):
        raise TypeError(f"criterion is a function (logits, labels) -> loss; got {task.criterion!r}")
    if not (task.metric is None or task.metric == AGREEMENT or callable(task.metric)):
        raise TypeError(f"metric is a function (model, split) -> float, 'agreement' or None; got {task.metric!r}")
    if isinstance(task.ignored_layers, str):
        raise TypeError(f"ignored_layers is a sequence of names; write ({task.ignored_layers!r},)")
    modules = dict(task.model.named_modules())
    unknown = [name for name in task.ignored_layers if name not in modules]
    if unknown:
        raise ValueError(f"ignored_layers names modules the model lacks: {', '.join(map(repr, unknown))}")
    check_target(task.default_target)


def network_digest(task: PruningTask) -> str:
    """Digest of the network and the images that plans are repaired, scored and tested on; the code does not count.

    Equal for tasks whose measurements may stand in one table. The test split is read once where it is on disk.
    """
    return sha256_of(
        dict(task.model.state_dict()), *(_split_digest(split) for split in (task.calibration, task.reward, task.test))
    )


def _split_digest(split: ImageSplit | None) -> str | None:
    if split is None:
        return None
    return sha256_of(*(sha256_of(images, labels) for images, labels in split.batches(DIGEST_BATCH)))


def check_target(target: float) -> None:
    """Refuse a default target that is not a fraction of the FLOPs.

    Raises:
        ValueError: If ``target`` is not in (0, 1).
    """
    if not 0.0 < target < 1.0:
        raise ValueError(f"default_target is a FLOPs reduction in (0, 1), for example 0.76; got {target}")


def task_from_loaders(
    name: str,
    model: nn.Module,
    *,
    train: SplitLike,
    reward: SplitLike,
    test: SplitLike | None = None,
    calibration_size: int = CALIBRATION_SIZE,
    **fields: Any,
) -> PruningTask:
    """A task of a trained network and the loaders it was trained with.

    Args:
        name: Names the task.
        model: The dense, trained network.
        train: What it was trained on, for calibration and fine-tuning; without random augmentation, if calibration is
            to be the same every time.
        reward: What rewards are measured on; images it was not trained on.
        test: What the final report is measured on.
        calibration_size: Images of ``train`` to calibrate on, evenly spread.
        **fields: Further fields of :class:`PruningTask`.

    Raises:
        TypeError: If something has the wrong type.
        ValueError: If a split is empty or does not fit the network.
    """
    if calibration_size < 1:
        raise ValueError(f"calibration_size is at least 1; got {calibration_size}")
    images = _as_split("train", train)
    chosen = images.subset(spread(len(images), calibration_size))
    calibration = chosen if isinstance(chosen, TensorSplit) else chosen.read()
    splits: dict[str, Any] = {"calibration": calibration, "reward": reward, "test": test, "train": images}
    return PruningTask(name=name, model=model, example_input=calibration.images[:1], **splits, **fields)


def _as_split(name: str, value: Any) -> TensorSplit | DatasetSplit:
    split = _recognised(name, value)
    if len(split) == 0:
        raise ValueError(f"{name}: the split is empty")
    return split


def _recognised(name: str, value: Any) -> TensorSplit | DatasetSplit:
    if isinstance(value, (TensorSplit, DatasetSplit)):
        return value
    if isinstance(value, DataLoader):
        return _recognised(name, split_of_loader(value))
    if isinstance(value, TensorDataset) and len(value.tensors) == 2:
        return TensorSplit(*value.tensors)
    if isinstance(value, (tuple, list)):
        if len(value) != 2 or not all(isinstance(part, torch.Tensor) for part in value):
            raise TypeError(f"{name}: a tuple must be the tensors (images, labels)")
        return TensorSplit(*value)
    if hasattr(value, "__getitem__") and hasattr(value, "__len__"):
        return DatasetSplit(value)
    raise TypeError(
        f"{name}: expected (images, labels) tensors, a map-style dataset or a loader; got {type(value).__name__}"
    )


def _with_targets(task: PruningTask, name: str, value: Any) -> Any:
    """Images without labels get the dense network's own outputs as such; so do those that curvature is measured on.

    Curvature takes no notice of the labels of cross-entropy and of squared errors; a criterion of the user's may.
    """
    own = knows_own_targets(task.criterion)
    if isinstance(value, torch.Tensor):
        return TensorSplit(value, own_targets(task.model, value, task.criterion))
    if name != "calibration" or not own:
        return value
    split = _as_split(name, value)
    images = split.read().images if isinstance(split, DatasetSplit) else split.images
    return TensorSplit(images, own_targets(task.model, images, task.criterion))


def _checked_split(name: str, value: Any, example_input: torch.Tensor, num_classes: int | None) -> ImageSplit:
    """A split that fits the network; its labels are class indices where the number of classes is given."""
    split = _as_split(name, value)
    try:
        if isinstance(split, DatasetSplit) and name in IN_MEMORY:
            split = split.read()
        # Of a split on disk the first image only: the others are checked when they are read.
        sample = split.subset(slice(1)).read() if isinstance(split, DatasetSplit) else split
    except (TypeError, ValueError) as error:
        raise type(error)(f"{name}: {error}") from error
    _check_images(name, sample.images, example_input)
    if num_classes is not None:
        _check_labels(name, sample.labels, num_classes)
    return split


def _check_images(name: str, images: torch.Tensor, example_input: torch.Tensor) -> None:
    if not images.is_floating_point():
        raise ValueError(f"{name}: images are floats, normalised for the model; got {images.dtype}")
    if images.shape[1:] != example_input.shape[1:]:
        raise ValueError(
            f"{name}: images have shape {list(images.shape[1:])}, example_input {list(example_input.shape[1:])}"
        )
    if not torch.isfinite(images).all():
        raise ValueError(f"{name}: images hold NaN or infinite values; clean or normalise them first")


def _check_labels(name: str, labels: torch.Tensor, num_classes: int) -> None:
    if labels.dtype != torch.long or labels.ndim != 1:
        raise ValueError(
            f"{name}: labels are class indices [N] of dtype torch.int64; got {labels.dtype} {list(labels.shape)} "
            "(others need a metric)"
        )
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= num_classes:
        raise ValueError(
            f"{name}: labels run from {low} to {high}, but the model's {num_classes} outputs "
            f"stand for 0 to {num_classes - 1}"
        )


@dataclass(frozen=True)
class TaskSize:
    """Size of a task's dense network.

    Attributes:
        layers: Prunable layers.
        channels: Their channels.
        flops: FLOPs of the convolutions and linear layers for one input.
        parameters: All of its parameters.
    """

    layers: int
    channels: int
    flops: int
    parameters: int


@dataclass(frozen=True)
class TaskStatus:
    """Availability of a task on this machine: whether it can be built.

    Attributes:
        dense_accuracy: Top-1 of the dense network on the test split, a fraction in [0, 1]; None if not known here.
        weights: ``"shipped"``, ``"cached"``, ``"missing"``, ...
        data: ``"shipped"``, ``"found"``, ``"missing"``, ...
        to_do: How to get what is missing, one line each.
    """

    dense_accuracy: float | None = None
    weights: str = "the factory's"
    data: str = "the factory's"
    to_do: tuple[str, ...] = ()
