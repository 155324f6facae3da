"""The training loop: what is minimised comes in as a function, how parameters move as a schedule."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import TypeAlias

import torch
from torch import nn

from hessian.modes import modes_restored
from prune_gym.augmentation import Augmentation
from prune_gym.datasets import ImageSplit, TensorSplit, equal_parts
from prune_gym.device import module_device
from prune_gym.training_state import TrainingCheckpoint, TrainingState

Progress: TypeAlias = Callable[[str, int, int], None]
"""Called as ``progress(description, done, total)``."""

BatchLoss: TypeAlias = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
"""Mean loss of a batch: ``loss(logits [N, num_classes], labels [N], images [N, ...])``."""


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
    """How parameters move: SGD with Nesterov momentum, linear warm-up, cosine decay.

    Attributes:
        epochs: Passes over the split.
        lr: Peak learning rate.
        batch_size: At most this many images a step.
        weight_decay: L2 penalty on weights of two or more dimensions; biases and norms are spared.
        momentum: Nesterov momentum.
        warmup: Fraction of the steps spent going up, in [0, 1).

    Raises:
        ValueError: If one is out of range.
    """

    epochs: int
    lr: float
    batch_size: int
    weight_decay: float
    momentum: float
    warmup: float

    def __post_init__(self) -> None:
        if self.epochs < 0 or self.batch_size < 1 or self.lr <= 0 or self.weight_decay < 0:
            raise ValueError(
                "epochs >= 0, batch_size >= 1, lr > 0 and weight_decay >= 0 are needed; got "
                f"epochs={self.epochs}, batch_size={self.batch_size}, lr={self.lr}, "
                f"weight_decay={self.weight_decay}"
            )
        if not 0 < self.momentum < 1:
            raise ValueError(f"Nesterov momentum is in (0, 1); got {self.momentum}")

    def optimizer(self, model: nn.Module) -> torch.optim.SGD:
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
        return torch.optim.SGD(groups, lr=self.lr, momentum=self.momentum, nesterov=True)


def one_cycle(step: int, total: int, warmup: float) -> float:
    """Share of the peak learning rate at a step: linear up over the warm-up, then half a cosine down.

    Args:
        step: Counted from 0.
        total: Steps in all; the share is positive before that and 0 from there on.
        warmup: Fraction of the steps spent going up, in [0, 1).

    Returns:
        A number in [0, 1].
    """
    if step >= total:
        return 0.0
    rising = warmup * total
    if step < rising:
        return (step + 1) / (rising + 1)
    return 0.5 * (1 + math.cos(math.pi * (step - rising) / (total - rising)))


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
    checkpoint: TrainingCheckpoint | None = None,
) -> list[EpochRecord]:
    """Train in place; see :func:`prune_gym.training.train_dense` for what is promised.

    Args:
        model: Left in the mode it was in.
        split: What to train on.
        loss_of: What is minimised.
        schedule: How parameters move.
        augment: Random changes of every batch, or None.
        seed: Decides order, augmentation and dropout.
        progress: Called after every step.
        description: What to call this training in progress and errors.
        checkpoint: Keeps the state after every epoch, and goes on from the one that is there; None keeps nothing.

    Returns:
        One record an epoch.

    Raises:
        ValueError: If there is nothing to train or to train on.
        FloatingPointError: If the loss becomes NaN or infinite.
    """
    if len(split) == 0:
        raise ValueError("cannot train on an empty split")
    device = module_device(model)
    if isinstance(split, TensorSplit):
        split = split.to(device)
    optimizer = schedule.optimizer(model)
    steps = math.ceil(len(split) / schedule.batch_size)
    total = schedule.epochs * steps
    generator = torch.Generator().manual_seed(seed)
    history: list[EpochRecord] = []
    with modes_restored(model), _seeded(seed, device), torch.enable_grad():
        model.train()
        state = TrainingState(model, optimizer, generator, device)
        if checkpoint is not None:
            history = [EpochRecord(**record) for record in checkpoint.restore(state)]
        for epoch in range(len(history) + 1, schedule.epochs + 1):
            sums = torch.zeros(2, device=device)
            batches = _shuffled_batches(split, schedule.batch_size, augment, generator)
            for step, (images, labels) in enumerate(batches, start=(epoch - 1) * steps):
                lr = _set_lr(optimizer, schedule.lr * one_cycle(step, total, schedule.warmup))
                sums += _step(model, images.to(device), labels.to(device), loss_of, optimizer)
                if progress is not None:
                    progress(description, step + 1, total)
            loss, accuracy = (sums.cpu().double() / len(split)).tolist()
            if not math.isfinite(loss):
                raise FloatingPointError(
                    f"{description}: the loss became {loss} in epoch {epoch}; lower the learning rate "
                    f"({schedule.lr}) or check the data and the starting weights"
                )
            history.append(EpochRecord(epoch, loss, accuracy, lr))
            if checkpoint is not None:
                checkpoint.save(state, [asdict(record) for record in history])
    return history


def _set_lr(optimizer: torch.optim.Optimizer, lr: float) -> float:
    for group in optimizer.param_groups:
        group["lr"] = lr
    return lr


def _shuffled_batches(
    split: ImageSplit, batch_size: int, augment: Augmentation | None, generator: torch.Generator
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    order = torch.randperm(len(split), generator=generator)
    for images, labels in split.batches_at(equal_parts(order, batch_size)):
        yield augment(images, generator) if augment else images, labels


def _step(
    model: nn.Module,
    images: torch.Tensor,
    labels: torch.Tensor,
    loss_of: BatchLoss,
    optimizer: torch.optim.Optimizer,
) -> torch.Tensor:
    """One update; returns the batch's summed loss and number of correct images, ``[2]``, without waiting for them."""
    logits = model(images)
    loss = loss_of(logits, labels, images)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    correct = (logits.detach().argmax(dim=1) == labels).sum()
    return torch.stack([loss.detach() * len(labels), correct])


@contextmanager
def _seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Dropout draws from the global generators: seed them inside, and give them back as they were."""
    devices = [device.index] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        yield
