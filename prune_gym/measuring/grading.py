"""Grades of a network on a split: by its labels, by a task's own metric, or by its agreement with the dense network.

Agreement needs no labels. Where outputs are classes it is the share of images (of a dense prediction: of positions)
that get the dense network's class; where they are numbers it is the coefficient of determination, R squared, of the
dense outputs.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hessian.support.layout import in_float64
from prune_gym.data.splits import TensorSplit, equal_parts
from prune_gym.measuring.evaluation import Evaluation
from prune_gym.tasks.outputs import outputs_of, scores_classes, tensors_of
from prune_gym.tasks.task import AGREEMENT, Metric, PruningTask

Grader = Callable[[nn.Module], Evaluation]
"""Scores a network, given in evaluation mode on the images' device."""


def make_grader(task: PruningTask, batch_size: int, split: TensorSplit | None = None) -> Grader:
    """Make the grader that scores the pruned networks of a task.

    Args:
        task: its metric and dense network.
        batch_size: images a forward pass.
        split: images on the device that networks run on, with what the metric reads; None means the task's reward
            split.
    """
    split = task.reward if split is None else split
    if task.metric is None:
        return LabelGrader(split, batch_size)
    if task.metric == AGREEMENT:
        dense = outputs_of(task.model, split.images)
        classes = scores_classes(task.criterion)
        return (
            ClassAgreement(split.images, dense[0], batch_size)
            if classes
            else Closeness(split.images, dense, batch_size)
        )
    return MetricGrader(task.metric, split)


class LabelGrader:
    """Top-1 accuracy of logits [N, classes].

    Args:
        split: images and class indices.
        batch_size: images a forward pass.
    """

    def __init__(self, split: TensorSplit, batch_size: int) -> None:
        self._parts, self._labels = equal_parts(split.images, batch_size), split.labels

    @torch.no_grad()
    def __call__(self, model: nn.Module) -> Evaluation:
        """Score a network."""
        return evaluation_of(torch.cat([model(part) for part in self._parts]), self._labels)


class MetricGrader:
    """A task's own metric.

    Args:
        metric: (model, split) -> a number, higher is better.
        split: what it is given.
    """

    def __init__(self, metric: Metric, split: TensorSplit) -> None:
        self._metric, self._split = metric, split

    @torch.no_grad()
    def __call__(self, model: nn.Module) -> Evaluation:
        """Score a network.

        Raises:
            ValueError: the metric gives no finite number.
        """
        value = self._metric(model, self._split)
        try:
            number = float(value)
        except (TypeError, ValueError) as error:
            raise ValueError(f"a metric returns one number, higher is better; got {value!r}") from error
        if number != number or abs(number) == float("inf"):
            raise ValueError(f"a metric returns a finite number, higher is better; got {number}")
        return Evaluation(number, number, 1.0 - number)


class ClassAgreement:
    """Agreement of logits [N, classes, *positions] with the dense network's.

    Args:
        images: [N, ...].
        dense: the dense network's logits.
        batch_size: images a forward pass.
    """

    def __init__(self, images: Tensor, dense: Tensor, batch_size: int) -> None:
        self._parts = equal_parts(images, batch_size)
        self._dense = torch.tensor_split(dense, len(self._parts))

    @torch.no_grad()
    def __call__(self, model: nn.Module) -> Evaluation:
        """Score a network."""
        totals, positions = torch.zeros(3, dtype=torch.float64), 0
        for images, dense in zip(self._parts, self._dense, strict=True):
            (logits,) = tensors_of(model(images))
            expected, found = (F.log_softmax(in_float64(each), dim=1) for each in (dense, logits))
            same = in_float64(logits.argmax(dim=1) == dense.argmax(dim=1)).sum()
            shared = torch.minimum(expected.exp(), found.exp()).sum()
            totals += torch.stack([same, shared, F.kl_div(found, expected, reduction="sum", log_target=True)]).cpu()
            positions += dense.numel() // dense.shape[1]
        return Evaluation(*(totals / positions).tolist())


class Closeness:
    """R squared of the dense network's outputs, averaged over its output tensors.

    Args:
        images: [N, ...].
        dense: the dense network's outputs, one tensor [N, ...] an output.
        batch_size: images a forward pass.
    """

    def __init__(self, images: Tensor, dense: list[Tensor], batch_size: int) -> None:
        self._images, self._dense, self._batch_size = images, dense, batch_size
        self._variances = [in_float64(output - output.mean(dim=0)).square().sum() for output in dense]

    @torch.no_grad()
    def __call__(self, model: nn.Module) -> Evaluation:
        """Score a network."""
        found = outputs_of(model, self._images, self._batch_size)
        missed = [
            float(in_float64(output - dense).square().sum() / variance.clamp_min(torch.finfo(torch.float64).tiny))
            for output, dense, variance in zip(found, self._dense, self._variances, strict=True)
        ]
        share = sum(missed) / len(missed)
        return Evaluation(1.0 - share, 1.0 - share, share)


def evaluation_of(outputs: Tensor, labels: Tensor) -> Evaluation:
    """Scores of logits [N, classes] against class indices [N]."""
    truth = F.log_softmax(in_float64(outputs), dim=1)
    truth = truth.gather(1, labels[:, None].to(truth.device))[:, 0]
    hits = in_float64(outputs.argmax(dim=1) == labels).mean()
    return Evaluation(*torch.stack([hits, truth.exp().mean(), -truth.mean()]).tolist())
