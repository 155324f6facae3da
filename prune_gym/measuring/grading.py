"""Grades of a network on a split: by its labels, by a task's own metric, or by its agreement with the dense network.

Agreement needs no labels. Where outputs are classes it is the share of images (of a dense prediction: of positions)
that get the dense network's class; where they are numbers it is the coefficient of determination, R squared, of the
dense outputs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

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


@runtime_checkable
class GraderOfParts(Protocol):
    """A grader that needs no more of a network than its outputs, so that several networks can be graded together.

    Attributes:
        parts: the images, a forward pass each.
    """

    parts: Sequence[Tensor]

    def noted(self, index: int, outputs: Any) -> Tensor:
        """Part of a network's outputs for a part of the images that is kept."""
        ...

    def scores(self, notes: Sequence[Tensor]) -> Tensor:
        """Accuracy, soft accuracy and loss, float64 [3], from what was kept of every part."""
        ...


class _OfParts:
    """Grades a network part by part."""

    parts: Sequence[Tensor]
    noted: Callable[[int, Any], Tensor]
    scores: Callable[[Sequence[Tensor]], Tensor]

    @torch.no_grad()
    def __call__(self, model: nn.Module) -> Evaluation:
        """Score a network."""
        notes = [self.noted(index, model(part)) for index, part in enumerate(self.parts)]
        return Evaluation(*self.scores(notes).tolist())


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


class LabelGrader(_OfParts):
    """Top-1 accuracy of logits [N, classes].

    Args:
        split: images and class indices.
        batch_size: images a forward pass.
    """

    def __init__(self, split: TensorSplit, batch_size: int) -> None:
        self.parts, self._labels = equal_parts(split.images, batch_size), split.labels

    def noted(self, index: int, outputs: Tensor) -> Tensor:
        """The logits."""
        return outputs

    def scores(self, notes: Sequence[Tensor]) -> Tensor:
        """Scores of all logits."""
        return scores_of(torch.cat(list(notes)), self._labels)


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


class ClassAgreement(_OfParts):
    """Agreement of logits [N, classes, *positions] with the dense network's.

    Args:
        images: [N, ...].
        dense: the dense network's logits.
        batch_size: images a forward pass.
    """

    def __init__(self, images: Tensor, dense: Tensor, batch_size: int) -> None:
        self.parts = equal_parts(images, batch_size)
        self._dense = torch.tensor_split(dense, len(self.parts))
        self._positions = dense.numel() // dense.shape[1]

    def noted(self, index: int, outputs: Any) -> Tensor:
        """Sums over the part: positions of the same class, shared probabilities, divergences."""
        dense, (logits,) = self._dense[index], tensors_of(outputs)
        expected, found = (F.log_softmax(in_float64(each), dim=1) for each in (dense, logits))
        same = in_float64(logits.argmax(dim=1) == dense.argmax(dim=1)).sum()
        shared = torch.minimum(expected.exp(), found.exp()).sum()
        # Written out, as vmap does not know kl_div.
        return torch.stack([same, shared, (expected.exp() * (expected - found)).sum()])

    def scores(self, notes: Sequence[Tensor]) -> Tensor:
        """Means over all positions."""
        return torch.stack(list(notes)).sum(dim=0) / self._positions


class Closeness(_OfParts):
    """R squared of the dense network's outputs, averaged over its output tensors.

    Args:
        images: [N, ...].
        dense: the dense network's outputs, one tensor [N, ...] an output.
        batch_size: images a forward pass.
    """

    def __init__(self, images: Tensor, dense: list[Tensor], batch_size: int) -> None:
        self.parts = equal_parts(images, batch_size)
        self._dense = [torch.tensor_split(output, len(self.parts)) for output in dense]
        variances = torch.stack([in_float64(output - output.mean(dim=0)).square().sum() for output in dense])
        self._variances = variances.clamp_min(torch.finfo(torch.float64).tiny)

    def noted(self, index: int, outputs: Any) -> Tensor:
        """Squared errors of every output, summed over the part."""
        pairs = zip(tensors_of(outputs), self._dense, strict=True)
        return torch.stack([in_float64(output - dense[index]).square().sum() for output, dense in pairs])

    def scores(self, notes: Sequence[Tensor]) -> Tensor:
        """R squared twice, and what is missing to 1."""
        share = (torch.stack(list(notes)).sum(dim=0) / self._variances).mean()
        return torch.stack([1.0 - share, 1.0 - share, share])


def evaluation_of(outputs: Tensor, labels: Tensor) -> Evaluation:
    """Scores of logits [N, classes] against class indices [N]."""
    return Evaluation(*scores_of(outputs, labels).tolist())


def scores_of(outputs: Tensor, labels: Tensor) -> Tensor:
    """Accuracy, soft accuracy and loss of logits [N, classes] against class indices [N], float64 [3]."""
    truth = F.log_softmax(in_float64(outputs), dim=1)
    truth = truth.gather(1, labels[:, None].to(truth.device))[:, 0]
    hits = in_float64(outputs.argmax(dim=1) == labels).mean()
    return torch.stack([hits, truth.exp().mean(), -truth.mean()])
