"""Training, scoring and repairing networks: plain PyTorch loops that are deterministic given their seed."""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial, reduce
from typing import Any, Literal, TypeAlias

import torch
from torch import nn
from torch.nn.functional import cross_entropy, kl_div, log_softmax

from hessian.support.layout import in_float64, sent
from hessian.support.modes import modes_restored
from hessian.support.progress import Progress
from prune_gym.data.augmentation import Augmentation
from prune_gym.data.splits import ImageSplit
from prune_gym.support.device import module_device
from prune_gym.support.files import sha256_of
from prune_gym.training.batchnorm import recalibrate_bn
from prune_gym.training.block_outputs import BlockOutputs, Blocks
from prune_gym.training.fitting import EpochRecord, Loop, Method, Schedule, fit
from prune_gym.training.stepping import BatchLoss

__all__ = [
    "EpochRecord",
    "EvaluationResult",
    "Loop",
    "Progress",
    "distillation_loss",
    "evaluate_model",
    "fine_tune",
    "recalibrate_bn",
    "train_dense",
]

WARMUP = {"one_cycle": 0.1, "cosine": 0.0}
"""Learning-rate schedule of fine-tuning -> fraction of the steps spent going up, before half a cosine down."""

Criterion: TypeAlias = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class EvaluationResult:
    """Quality of a network as a classifier of a split.

    Attributes:
        accuracy: Top-1, fraction in [0, 1].
        soft_accuracy: Mean probability of the true class, in [0, 1].
        loss: Mean of the criterion; nats for cross-entropy.
    """

    accuracy: float
    soft_accuracy: float
    loss: float


@torch.no_grad()
def evaluate_model(
    model: nn.Module, split: ImageSplit, batch_size: int = 500, *, criterion: Criterion = cross_entropy
) -> EvaluationResult:
    """Score a network in evaluation mode, on its own device.

    Args:
        model: Maps images to logits ``[N, num_classes]``; left in the mode it was in.
        split: What to score it on.
        batch_size: Images a forward pass.
        criterion: Mean loss of (logits, labels).

    Raises:
        ValueError: If the split is empty.
    """
    if len(split) == 0:
        raise ValueError("cannot evaluate on an empty split")
    device = module_device(model)
    totals = []
    with modes_restored(model):
        model.eval()
        for images, labels in split.batches(batch_size):
            labels = sent(labels, device)
            logits = model(sent(images, device))
            correct = (logits.argmax(dim=1) == labels).sum()
            confidence = logits.softmax(dim=1).gather(1, labels[:, None]).sum()
            totals.append(in_float64(torch.stack([correct, confidence, criterion(logits, labels) * len(labels)])))
    accuracy, soft_accuracy, loss = (reduce(torch.add, totals) / len(split)).tolist()
    return EvaluationResult(accuracy, soft_accuracy, loss)


def train_dense(
    model: nn.Module,
    train_split: ImageSplit,
    *,
    epochs: int,
    lr: float = 0.1,
    batch_size: int = 128,
    weight_decay: float = 5e-4,
    momentum: float = 0.9,
    label_smoothing: float = 0.0,
    augment: Augmentation | None = None,
    seed: int = 0,
    progress: Progress | None = None,
    loop: Loop | None = None,
) -> list[EpochRecord]:
    """Train a network in place: SGD with Nesterov momentum, one-cycle learning rate, cross-entropy.

    Args:
        model: On any device; every parameter that requires a gradient is trained. Left in the mode it was in.
        train_split: What to train on.
        epochs: Passes over the split.
        lr: Peak learning rate.
        batch_size: At most this many images a step.
        weight_decay: L2 penalty on weights of two or more dimensions; biases and norms are spared.
        momentum: Nesterov momentum.
        label_smoothing: Share of the target spread evenly over the classes, in [0, 1).
        augment: Random changes of every batch, or None.
        seed: Decides order, augmentation and dropout; the initial weights are the model's.
        progress: Called after every step.
        loop: Mixed precision, gradient accumulation, checkpoints; see :class:`prune_gym.training.fitting.Loop`. Under
            ``torchrun`` the processes share every batch, see :func:`prune_gym.training.fitting.fit`.

    Returns:
        One record an epoch.

    Raises:
        ValueError: If there is nothing to train or to train on, an argument is out of range, or a checkpoint is damaged
            or of another training.
        FloatingPointError: If the loss becomes NaN or infinite.
    """

    def loss_of(logits: torch.Tensor, labels: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
        return cross_entropy(logits, labels, label_smoothing=label_smoothing)

    return fit(
        model,
        train_split,
        loss_of,
        Schedule(epochs, lr, batch_size, weight_decay, momentum, warmup=0.25),
        augment=augment,
        seed=seed,
        progress=progress,
        description="training",
        loop=loop,
        identity={"label_smoothing": label_smoothing},
    )


def fine_tune(
    model: nn.Module,
    teacher: nn.Module | None,
    train_split: ImageSplit,
    *,
    epochs: int,
    lr: float = 0.02,
    temperature: float = 4.0,
    distillation_weight: float = 0.9,
    batch_size: int = 128,
    weight_decay: float = 5e-4,
    momentum: float = 0.9,
    augment: Augmentation | None = None,
    seed: int = 0,
    progress: Progress | None = None,
    schedule: Literal["one_cycle", "cosine"] = "one_cycle",
    label_smoothing: float = 0.0,
    loop: Loop | None = None,
    optimizer: Method = "sgd",
    average: float = 0.0,
    blocks: Blocks | None = None,
    block_weight: float = 1.0,
) -> list[EpochRecord]:
    """Fine-tune a pruned network in place with knowledge distillation (Hinton et al., 2015).

    The loss is ``w T^2 KL(teacher_T || model_T) + (1 - w) cross_entropy``, with both softened by the temperature T; the
    teacher sees the same augmented images.

    Args:
        model: The student, on any device. Left in the mode it was in.
        teacher: The dense network on the same device, run in evaluation mode and left untouched; None trains on the
            labels alone.
        train_split: What to train on.
        epochs: Passes over the split; 0 does nothing.
        lr: Peak learning rate.
        temperature: T above, positive.
        distillation_weight: w above, in [0, 1]; without a teacher it does not matter.
        batch_size: At most this many images a step.
        weight_decay: L2 penalty on weights of two or more dimensions; biases and norms are spared.
        momentum: Nesterov momentum.
        augment: Random changes of every batch, or None.
        seed: Decides order, augmentation and dropout.
        progress: Called after every step.
        schedule: ``"one_cycle"`` goes up for a tenth of the steps, then half a cosine down; ``"cosine"`` starts at the
            peak.
        label_smoothing: Share of the labels' target spread evenly over the classes, in [0, 1).
        loop: Mixed precision, gradient accumulation, checkpoints; see :class:`prune_gym.training.fitting.Loop`. Under
            ``torchrun`` the processes share every batch, see :func:`prune_gym.training.fitting.fit`.
        optimizer: ``"sgd"`` with Nesterov momentum, or ``"adam"`` (AdamW), which wants a smaller ``lr``.
        average: Decay of a running average of the weights, such as 0.999, which the network ends with; 0 takes the last
            weights.
        blocks: Modules whose outputs are matched to the teacher's too, and which channels of the teacher's they still
            have (None: all); None matches no modules.
        block_weight: Weight of their loss (:mod:`prune_gym.training.block_outputs`).

    Returns:
        One record an epoch.

    Raises:
        ValueError: If there is nothing to train or to train on, the teacher is the student or lives on another device,
            an argument is out of range, or a checkpoint is damaged or of another training.
        FloatingPointError: If the loss becomes NaN or infinite.
    """
    if temperature <= 0 or not 0 <= distillation_weight <= 1:
        raise ValueError(
            f"temperature is positive and distillation_weight in [0, 1]; got {temperature} and {distillation_weight}"
        )
    if schedule not in WARMUP or not 0 <= label_smoothing < 1:
        raise ValueError(
            f"schedule is one of {', '.join(map(repr, WARMUP))} and label_smoothing in [0, 1); got {schedule!r} and "
            f"{label_smoothing}"
        )
    of_labels = partial(_label_loss, label_smoothing=label_smoothing)
    identity: dict[str, Any] = {"label_smoothing": label_smoothing}
    loss: BatchLoss = of_labels
    inside: BlockOutputs | None = None
    if teacher is not None:
        _check_teacher(model, teacher)
        teacher = copy.deepcopy(teacher).eval()  # a copy, so that the caller's stays in its mode
        inside = BlockOutputs(model, teacher, blocks) if blocks else None
        loss = _teacher_loss(teacher, temperature, distillation_weight, of_labels, inside, block_weight)
        identity |= {
            "temperature": temperature,
            "weight": distillation_weight,
            "teacher": sha256_of(teacher.state_dict()),
            "blocks": [] if inside is None else [*sorted(blocks or ()), block_weight],
        }
    elif blocks:
        raise ValueError("blocks are matched to a teacher's; pass the dense network as teacher")
    moves = Schedule(epochs, lr, batch_size, weight_decay, momentum, WARMUP[schedule], optimizer, average)
    with inside.watched() if inside is not None else nullcontext():
        return fit(
            model,
            train_split,
            loss,
            moves,
            augment=augment,
            seed=seed,
            progress=progress,
            description="fine-tuning",
            loop=loop,
            identity=identity,
        )


def _label_loss(
    logits: torch.Tensor, labels: torch.Tensor, images: torch.Tensor, label_smoothing: float
) -> torch.Tensor:
    return cross_entropy(logits, labels, label_smoothing=label_smoothing)


def _teacher_loss(
    teacher: nn.Module,
    temperature: float,
    weight: float,
    of_labels: BatchLoss,
    inside: BlockOutputs | None,
    block_weight: float,
) -> BatchLoss:
    def loss_of(logits: torch.Tensor, labels: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            targets = teacher(images).to(logits.dtype)
        soft = distillation_loss(logits, targets, temperature)
        total = weight * soft + (1 - weight) * of_labels(logits, labels, images)
        return total if inside is None else total + block_weight * inside.loss()

    return loss_of


def _check_teacher(model: nn.Module, teacher: nn.Module) -> None:
    if teacher is model:
        raise ValueError("the teacher is the model itself; pass a copy of the dense network")
    if module_device(teacher) != module_device(model):
        raise ValueError(
            f"the teacher is on {module_device(teacher)}, the model on {module_device(model)}; move one of them"
        )


def distillation_loss(logits: torch.Tensor, teacher_logits: torch.Tensor, temperature: float) -> torch.Tensor:
    """``T^2 KL(teacher_T || student_T)``, mean over images (Hinton et al., 2015, section 2.1).

    Args:
        logits: Of the student, ``[N, num_classes]``.
        teacher_logits: Of the teacher, ``[N, num_classes]``.
        temperature: T; the factor T^2 keeps gradients comparable over temperatures.

    Returns:
        A scalar, in nats times T^2.
    """
    student = log_softmax(logits / temperature, dim=1)
    target = log_softmax(teacher_logits / temperature, dim=1)
    return temperature**2 * kl_div(student, target, reduction="batchmean", log_target=True)
