"""The training loop: what is minimised comes in as a function, how parameters move as a schedule."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeAlias

import torch
from torch import nn

from hessian.support.distributed import current_workers
from hessian.support.layout import sent
from hessian.support.modes import modes_restored
from hessian.support.progress import Progress
from prune_gym.data.augmentation import Augmentation
from prune_gym.data.splits import ImageSplit, TensorSplit, equal_parts
from prune_gym.support.device import module_device
from prune_gym.training.averaging import WeightAverage
from prune_gym.training.checkpoint import TrainingState
from prune_gym.training.one_cycle import one_cycle
from prune_gym.training.stepping import BatchLoss, Stepper
from prune_gym.training.strided_pointwise import strided_pointwise_avoided

Method: TypeAlias = Literal["sgd", "adam"]
METHODS = ("sgd", "adam")


@dataclass(frozen=True)
class EpochRecord:
    """One epoch of training.

    Attributes:
        epoch: Counted from 1.
        loss: Mean training loss over the epoch's images, as optimised (with distillation, if any).
        accuracy: Top-1 on the epoch's images as they were trained on, fraction in [0, 1].
        lr: Learning rate of the epoch's last step.
    """

    epoch: int
    loss: float
    accuracy: float
    lr: float


@dataclass(frozen=True)
class Schedule:
    """Rule by which parameters move: SGD with Nesterov momentum or Adam, linear warm-up, cosine decay.

    Attributes:
        epochs: Passes over the split.
        lr: Peak learning rate.
        batch_size: At most this many images a step.
        weight_decay: L2 penalty on weights of two or more dimensions (Adam: their decay a step, as in AdamW); biases
            and norms are spared.
        momentum: Nesterov momentum (Adam: memory of the mean gradient).
        warmup: Fraction of the steps spent going up, in [0, 1).
        method: ``"sgd"`` or ``"adam"``.
        average: Decay of a running average of the weights, which the network ends with; 0 takes the last weights.

    Raises:
        ValueError: If one is out of range.
    """

    epochs: int
    lr: float
    batch_size: int
    weight_decay: float
    momentum: float
    warmup: float
    method: Method = "sgd"
    average: float = 0.0

    def __post_init__(self) -> None:
        if self.epochs < 0 or self.batch_size < 1 or self.lr <= 0 or self.weight_decay < 0:
            raise ValueError(
                "epochs >= 0, batch_size >= 1, lr > 0 and weight_decay >= 0 are needed; got "
                f"epochs={self.epochs}, batch_size={self.batch_size}, lr={self.lr}, "
                f"weight_decay={self.weight_decay}"
            )
        if not 0 < self.momentum < 1:
            raise ValueError(f"Nesterov momentum is in (0, 1); got {self.momentum}")
        if self.method not in METHODS or not 0 <= self.average < 1:
            raise ValueError(
                f"the optimizer is one of {', '.join(map(repr, METHODS))} and average in [0, 1); got {self.method!r} "
                f"and {self.average}"
            )

    def optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        """The optimizer of a model's trainable parameters.

        Raises:
            ValueError: If there are none.
        """
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        if not trained:
            raise ValueError("no parameter requires a gradient; call model.requires_grad_(True) first")
        groups = [
            {"params": [p for p in trained if p.ndim >= 2], "weight_decay": self.weight_decay},
            {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
        ]
        if self.method == "adam":
            return torch.optim.AdamW(groups, lr=self.lr, betas=(self.momentum, 0.999))
        return torch.optim.SGD(groups, lr=self.lr, momentum=self.momentum, nesterov=True)


@dataclass(frozen=True)
class Loop:
    """Execution of the steps; none of it changes what is minimised.

    Attributes:
        mixed_precision: Whether forward passes compute in 16 bits where the device supports it (weights, loss and
            updates stay as they are).
        accumulation: A step's batch passes through in so many parts, whose gradients are added up: less memory.
        checkpoint: File that keeps the state of the training after every epoch; if it is there, training resumes from
            it, bit-equal on the same machine (and nearly so on another kind of device). None keeps nothing.

    Raises:
        ValueError: If ``accumulation`` is not a positive whole number.
    """

    mixed_precision: bool = False
    accumulation: int = 1
    checkpoint: str | os.PathLike[str] | None = None

    def __post_init__(self) -> None:
        if isinstance(self.accumulation, bool) or not isinstance(self.accumulation, int) or self.accumulation < 1:
            raise ValueError(f"accumulation is a whole number of parts, at least 1; got {self.accumulation!r}")


def fit(
    model: nn.Module,
    split: ImageSplit,
    loss_of: BatchLoss,
    schedule: Schedule,
    *,
    augment: Augmentation | None,
    seed: int,
    progress: Progress | None,
    description: str,
    loop: Loop | None = None,
    identity: Mapping[str, Any] | None = None,
) -> list[EpochRecord]:
    """Train in place; see :func:`prune_gym.training.train_dense` for what is promised.

    Under ``torchrun`` (or any initialised ``torch.distributed``) every process calls this with the whole split and the
    same arguments: each takes its share of every batch, gradients are added up, and all end with the weights of the
    first. Batch norms take their statistics from a process's own share.

    Args:
        model: Left in the mode it was in.
        split: What to train on.
        loss_of: What is minimised.
        schedule: How parameters move.
        augment: Random changes of every batch, or None.
        seed: Decides order, augmentation and dropout.
        progress: Called after every step.
        description: What to call this training in progress and errors.
        loop: How the steps are carried out.
        identity: What tells this training's loss from another's, JSON-able: a checkpoint of another is refused.

    Returns:
        One record an epoch.

    Raises:
        ValueError: If there is nothing to train or to train on, or the checkpoint is damaged or of another training.
        FloatingPointError: If the loss becomes NaN or infinite.
    """
    if len(split) == 0:
        raise ValueError("cannot train on an empty split")
    loop = loop or Loop()
    device = module_device(model)
    if isinstance(split, TensorSplit):
        split = split.to(device)
    workers = current_workers(device)
    optimizer = schedule.optimizer(model)
    steps = math.ceil(len(split) / schedule.batch_size)
    total = schedule.epochs * steps
    generator = torch.Generator().manual_seed(seed)
    stepper = Stepper(model, optimizer, loss_of, workers, loop.accumulation, loop.mixed_precision)
    labels_known = split.labels if isinstance(split, TensorSplit) else None
    seeded = _seeded(seed + workers.rank, device)
    with modes_restored(model), strided_pointwise_avoided(model), seeded, torch.enable_grad():
        model.train()
        about: dict[str, Any] = {
            "training": description,
            "seed": seed,
            "images": len(split),
            "labels": labels_known,
            "augment": repr(augment),
            "processes": workers.size,
            "mixed_precision": loop.mixed_precision,
            "accumulation": loop.accumulation,
        }
        about |= {**asdict(schedule), **(identity or {})}
        state = TrainingState(model, optimizer, stepper.scaler, generator, workers, about)
        history = [] if loop.checkpoint is None else [EpochRecord(**row) for row in state.resume(loop.checkpoint)]
        stepper.share_start()
        average = WeightAverage(model, schedule.average) if schedule.average else None
        if average is not None and history:
            average.restore(state.extra)
        for epoch in range(len(history) + 1, schedule.epochs + 1):
            sums = torch.zeros(2, device=device)
            batches = _shuffled_batches(split, schedule.batch_size, augment, generator)
            for step, (images, labels) in enumerate(batches, start=1):
                lr = schedule.lr * one_cycle((epoch - 1) * steps + step - 1, total, schedule.warmup)
                sums += stepper.step(sent(images, device), sent(labels, device), lr)
                if average is not None:
                    average.update()
                if progress is not None:
                    progress(description, (epoch - 1) * steps + step, total)
            loss, accuracy = (workers.sum(sums).cpu().double() / len(split)).tolist()
            if not math.isfinite(loss):
                raise FloatingPointError(
                    f"{description}: the loss became {loss} in epoch {epoch}; lower the learning rate "
                    f"({schedule.lr}) or check the data and the starting weights"
                )
            stepper.share_buffers()
            history.append(EpochRecord(epoch, loss, accuracy, lr))
            if loop.checkpoint is not None:
                extra = None if average is None else average.tensors()
                state.save(loop.checkpoint, [asdict(record) for record in history], extra)
        if average is not None:
            average.install()
    return history


def _shuffled_batches(
    split: ImageSplit, batch_size: int, augment: Augmentation | None, generator: torch.Generator
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    order = torch.randperm(len(split), generator=generator)
    for images, labels in split.batches_at(equal_parts(order, batch_size)):
        yield augment(images, generator) if augment else images, labels


@contextmanager
def _seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Dropout draws from the global generators: seed them inside, and give them back as they were."""
    devices = [device.index] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        yield
