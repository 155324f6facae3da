"""One pruning problem: a trained network, its data splits and what it is scored by."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import Dataset

from hessian.modes import modes_restored
from prune_gym.datasets import TensorSplit, stack_dataset
from prune_gym.device import module_device

Split: TypeAlias = TensorSplit | tuple[torch.Tensor, torch.Tensor] | Dataset[Any]
"""What a task accepts as a split: tensors ``(images, labels)``, a :class:`TensorSplit`, or a map-style dataset."""


@dataclass(frozen=True, eq=False)
class PruningTask:
    """A trained classifier with the data that prices, scores and reports its pruning.

    The splits are accepted as ``(images, labels)`` tensors, :class:`TensorSplit` or map-style datasets (read into
    memory once) and are :class:`TensorSplit` afterwards. Everything is validated here, so that nothing below has to.

    Attributes:
        name: Names the task in caches, tables and result files.
        model: The dense, trained network; maps images ``[N, ...]`` to logits ``[N, num_classes]``.
        example_input: One small input batch ``[N, ...]`` of the images' shape, to trace the network with.
        calibration: Images for curvature, refits and batch-norm statistics; a part of ``train``.
        reward: Images that rewards are measured on; the network must not have been trained on them.
        test: Images for the final report only, or None.
        criterion: Mean loss of (logits, labels), a scalar in nats for the default cross-entropy.
        ignored_layers: Qualified names of modules whose channels stay.
        default_target: FLOPs reduction asked for when nobody says, in (0, 1).
        train: Images that trained the dense network, for fine-tuning, or None.
        model_factory: Name under which :mod:`prune_gym.models` rebuilds the untrained network, or None.
        model_kwargs: Arguments of that factory.

    Raises:
        TypeError: If a field has the wrong type.
        ValueError: If a split is empty, holds NaN, or does not fit the network; see the message.
    """

    name: str
    model: nn.Module
    example_input: torch.Tensor
    calibration: TensorSplit
    reward: TensorSplit
    test: TensorSplit | None
    criterion: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] = cross_entropy
    ignored_layers: Sequence[str] = ()
    default_target: float = 0.5
    train: TensorSplit | None = None
    model_factory: str | None = None
    model_kwargs: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _check_fields(self)
        num_classes = _count_classes(self.model, self.example_input)
        for split in ("calibration", "reward", "test", "train"):
            value = getattr(self, split)
            if value is None and split in ("test", "train"):
                continue
            normalised = _as_split(split, value)
            _check_split(split, normalised, self.example_input, num_classes)
            object.__setattr__(self, split, normalised)
        object.__setattr__(self, "ignored_layers", tuple(self.ignored_layers))
        object.__setattr__(self, "model_kwargs", dict(self.model_kwargs))


def _check_fields(task: PruningTask) -> None:
    if not isinstance(task.name, str) or not task.name:
        raise TypeError(f"a task's name is a non-empty text; got {task.name!r}")
    if not isinstance(task.model, nn.Module):
        raise TypeError(f"model is a torch.nn.Module; got {type(task.model).__name__}")
    if not isinstance(task.example_input, torch.Tensor) or not task.example_input.is_floating_point():
        raise TypeError("example_input is a float tensor [N, ...], for example images[:1]")
    if not callable(task.criterion):
        raise TypeError(f"criterion is a function (logits, labels) -> loss; got {task.criterion!r}")
    if isinstance(task.ignored_layers, str):
        raise TypeError(f"ignored_layers is a sequence of names; write ({task.ignored_layers!r},)")
    modules = dict(task.model.named_modules())
    unknown = [name for name in task.ignored_layers if name not in modules]
    if unknown:
        raise ValueError(f"ignored_layers names modules the model lacks: {', '.join(map(repr, unknown))}")
    check_target(task.default_target)


def check_target(target: float) -> None:
    """Refuse a default target that is not a fraction of the FLOPs.

    Raises:
        ValueError: If ``target`` is not in (0, 1).
    """
    if not 0.0 < target < 1.0:
        raise ValueError(f"default_target is a FLOPs reduction in (0, 1), for example 0.76; got {target}")


def _count_classes(model: nn.Module, example_input: torch.Tensor) -> int:
    """Width of the logits, found by running the example."""
    try:
        with modes_restored(model), torch.no_grad():
            model.eval()
            logits = model(example_input.to(module_device(model)))
    except (RuntimeError, ValueError) as error:
        raise ValueError(f"the model does not accept example_input {list(example_input.shape)}: {error}") from error
    if not isinstance(logits, torch.Tensor) or logits.ndim != 2 or len(logits) != len(example_input):
        given = list(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
        raise ValueError(f"the model must return logits [N, num_classes]; it returned {given}")
    return logits.shape[1]


def _as_split(name: str, value: Split) -> TensorSplit:
    if isinstance(value, TensorSplit):
        return value
    if isinstance(value, (tuple, list)):
        if len(value) != 2 or not all(isinstance(part, torch.Tensor) for part in value):
            raise TypeError(f"{name}: a tuple must be the tensors (images, labels)")
        return TensorSplit(*value)
    if hasattr(value, "__getitem__") and hasattr(value, "__len__"):
        return stack_dataset(value)
    raise TypeError(
        f"{name}: expected (images, labels) tensors, a TensorSplit or a map-style dataset; got {type(value).__name__}"
    )


def _check_split(name: str, split: TensorSplit, example_input: torch.Tensor, num_classes: int) -> None:
    images, labels = split.images, split.labels
    if len(split) == 0:
        raise ValueError(f"{name}: the split is empty")
    if not images.is_floating_point():
        raise ValueError(f"{name}: images are floats, normalised for the model; got {images.dtype}")
    if labels.dtype != torch.long:
        raise ValueError(f"{name}: labels are class indices of dtype torch.int64; got {labels.dtype}")
    if images.shape[1:] != example_input.shape[1:]:
        raise ValueError(
            f"{name}: images have shape {list(images.shape[1:])}, example_input {list(example_input.shape[1:])}"
        )
    if not torch.isfinite(images).all():
        raise ValueError(f"{name}: images hold NaN or infinite values; clean or normalise them first")
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= num_classes:
        raise ValueError(
            f"{name}: labels run from {low} to {high}, but the model's {num_classes} outputs "
            f"stand for 0 to {num_classes - 1}"
        )
