"""Costs and quality of a network: the numbers of the report."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from prune_gym.data.splits import ImageSplit, TensorSplit
from prune_gym.measuring.evaluation import Evaluation
from prune_gym.measuring.grading import make_grader
from prune_gym.support.device import module_device
from prune_gym.support.timing import Timing, compare_models, inference
from prune_gym.tasks.task import AGREEMENT, PruningTask

BATCH_SIZE = 128
"""Images a forward pass when scoring."""

TIMED_PASSES = 30


@dataclass(frozen=True)
class Score:
    """A score and how sure it is.

    Attributes:
        value: accuracy, agreement (fractions) or what the task's metric gives.
        images: it was measured on.
        error: standard error of a share of images; None for other metrics.
    """

    value: float
    images: int
    error: float | None

    def __str__(self) -> str:
        if self.error is None:
            return f"{self.value:.4f}"
        return f"{100 * self.value:.2f} %"


@dataclass(frozen=True)
class NetworkNumbers:
    """One network in numbers.

    Attributes:
        score: on the test images, or on the held-out ones where there are no test images.
        held_out: score on the held-out images.
        flops: of one input.
        params: number of parameters.
        bytes: of its weights.
        latency_ms: time of a batch, ms.
        image_ms: time of one image, ms.
    """

    score: Score
    held_out: Score
    flops: int
    params: int
    bytes: int
    latency_ms: float
    image_ms: float


def score_name(task: PruningTask) -> str:
    """Name of the score of a task's networks, in words."""
    if task.metric is None:
        return "accuracy"
    if task.metric == AGREEMENT:
        return "agreement with the dense network"
    return getattr(task.metric, "__name__", "metric").replace("_", " ").lstrip("<").rstrip(">")


def score_of(model: nn.Module, task: PruningTask, split: TensorSplit) -> Score:
    """Score a network on a split, on the device it is on."""
    return as_score(evaluation_on(model, task, split).accuracy, task, len(split))


def evaluation_on(model: nn.Module, task: PruningTask, split: TensorSplit) -> Evaluation:
    """Everything that is measured of a network on a split."""
    device = module_device(model)
    was_training = model.training
    try:
        return make_grader(task, BATCH_SIZE, split.to(device))(model.eval())
    finally:
        model.train(was_training)


def as_score(value: float, task: PruningTask, images: int) -> Score:
    """A value that a task's networks are scored by, with how sure it is after so many images."""
    shares = (task.metric is None or task.metric == AGREEMENT) and 0.0 <= value <= 1.0
    return Score(value, images, math.sqrt(max(value * (1.0 - value), 0.0) / images) if shares else None)


def in_memory(split: ImageSplit) -> TensorSplit:
    """A split as tensors."""
    if isinstance(split, TensorSplit):
        return split
    images, labels = zip(*split.batches(BATCH_SIZE), strict=True)
    return TensorSplit(torch.cat(images), torch.cat(labels))


def compare(networks: Mapping[str, nn.Module], task: PruningTask, batch_size: int) -> dict[str, NetworkNumbers]:
    """Count, time and score networks; timed in turns, so that the machine's moods meet all of them alike.

    Args:
        networks: by name, on one device.
        task: what scores them.
        batch_size: of the timed batch.
    """
    image = task.example_input[:1].to(module_device(task.model))
    batch = image.expand(batch_size, *image.shape[1:]).contiguous()
    single = compare_models(networks, image, num_iterations=TIMED_PASSES, num_warmup=5)
    several = compare_models(networks, batch, num_iterations=TIMED_PASSES, num_warmup=3)
    numbers = {}
    for name, network in networks.items():
        held_out = score_of(network, task, in_memory(task.reward))
        score = held_out if task.test is None else score_of(network, task, in_memory(task.test))
        numbers[name] = NetworkNumbers(
            score=score,
            held_out=held_out,
            flops=_flops(network, image),
            params=sum(parameter.numel() for parameter in network.parameters()),
            bytes=sum(tensor.numel() * tensor.element_size() for tensor in network.state_dict().values()),
            latency_ms=undisturbed_ms(several[name]),
            image_ms=undisturbed_ms(single[name]),
        )
    return numbers


def undisturbed_ms(timing: Timing) -> float:
    """Time of a pass while little else runs, ms: the lower quartile; on a busy machine the median is the others'."""
    return timing.percentile(25)


def _flops(network: nn.Module, image: torch.Tensor) -> int:
    """FLOPs of convolutions and linear maps for one input, counted on the network itself."""
    counter = FlopCounterMode(display=False)
    with inference(network), counter:
        network(image)
    return int(counter.get_total_flops())
