"""The images a user brings, as the splits of a task: with labels or without, in memory or in a loader."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss
from torch.utils.data import DataLoader

from prune_gym.data.loader_split import DatasetSplit, spread
from prune_gym.data.splits import TensorSplit, stratified_partition
from prune_gym.support.device import module_device
from prune_gym.tasks.outputs import outputs_of
from prune_gym.tasks.task import AGREEMENT, CALIBRATION_SIZE, Metric, PruningTask

MAX_IMAGES = 10_000
"""Images read into memory at most."""

MAX_BYTES = 2 << 30
"""Bytes they may take there."""

HELD_OUT_SHARE = 5
"""Without a held-out set, one image in so many scores the pruned network."""

HELD_OUT_MOST = 2000
"""But no more than this."""

FEWEST = 20
"""Images needed at least."""


@dataclass(frozen=True, eq=False)
class Pictures:
    """Images in memory.

    Attributes:
        images: float [N, ...].
        labels: [N, ...], or None where there are none.
    """

    images: Tensor
    labels: Tensor | None

    def part(self, indices: Tensor) -> Pictures:
        """Those at indices, in that order."""
        return Pictures(self.images[indices], None if self.labels is None else self.labels[indices])

    def as_split(self) -> TensorSplit | Tensor:
        """Images as a task takes them: labelled, or bare."""
        return self.images if self.labels is None else TensorSplit(self.images, self.labels)


def read_pictures(name: str, given: Any, labels: Any = None, *, limit: int = MAX_IMAGES) -> Pictures:
    """Read what a user brings into memory: all of it, or as many as fit, evenly spread where it can be indexed.

    Args:
        name: what it is called, for messages.
        given: a tensor [N, ...]; (images, labels); a split, map-style dataset or loader of images or of pairs; any
            iterable of batches.
        labels: [N, ...], to go with bare images.
        limit: images at most.

    Raises:
        TypeError: something else.
        ValueError: no images, or images that differ in shape.
    """
    if isinstance(given, Pictures):
        return given
    if isinstance(given, TensorSplit):
        given = (given.images, given.labels)
    if isinstance(given, Tensor):
        given = (given, labels)
    elif labels is not None:
        raise TypeError(f"{name}: labels go with a tensor of images; a dataset or loader brings its own")
    if isinstance(given, (tuple, list)) and len(given) == 2 and isinstance(given[0], Tensor) and given[0].ndim > 3:
        return _of_tensors(name, given[0], given[1], limit)
    if isinstance(given, DatasetSplit):
        given = given.dataset
    if isinstance(given, DataLoader):
        return _of_batches(name, given, limit)
    if hasattr(given, "__getitem__") and hasattr(given, "__len__"):
        return _of_dataset(name, given, limit)
    if isinstance(given, Iterable):
        return _of_batches(name, given, limit)
    raise TypeError(
        f"{name}: expected a tensor [N, C, H, W], (images, labels), a dataset or a loader; got {type(given).__name__}"
    )


def _of_tensors(name: str, images: Tensor, labels: Any, limit: int) -> Pictures:
    if len(images) == 0:
        raise ValueError(f"{name}: there are no images")
    truth = None if labels is None else torch.as_tensor(labels)
    if truth is not None and len(truth) != len(images):
        raise ValueError(f"{name}: {len(images)} images but {len(truth)} labels")
    chosen = spread(len(images), _fitting(images[0], limit))
    return Pictures(images, truth) if len(chosen) == len(images) else Pictures(images, truth).part(chosen)


def _of_dataset(name: str, dataset: Any, limit: int) -> Pictures:
    if len(dataset) == 0:
        raise ValueError(f"{name}: the dataset is empty")
    first, _ = _pair(name, dataset[0])
    items = [_pair(name, dataset[index]) for index in spread(len(dataset), _fitting(first, limit)).tolist()]
    shapes = sorted({tuple(image.shape) for image, _ in items})
    if len(shapes) > 1:
        raise ValueError(
            f"{name}: images differ in shape, for example {list(shapes[0])} and {list(shapes[1])}; resize them"
        )
    images = torch.stack([image for image, _ in items])
    labels = None if items[0][1] is None else torch.stack([torch.as_tensor(label) for _, label in items])
    return Pictures(images, labels)


def _pair(name: str, item: Any) -> tuple[Tensor, Any]:
    image, label = item if isinstance(item, (tuple, list)) and len(item) == 2 else (item, None)
    if not isinstance(image, Tensor):
        raise TypeError(f"{name}: images are tensors, alone or as pairs (image, label); got {type(image).__name__}")
    return image, label


def _of_batches(name: str, batches: Iterable[Any], limit: int) -> Pictures:
    images: list[Tensor] = []
    labels: list[Tensor] = []
    seen, most = 0, limit
    for batch in batches:
        part, truth = _pair(name, batch)
        most = _fitting(part[0], limit) if not images else most
        images.append(part)
        if truth is not None:
            labels.append(torch.as_tensor(truth))
        seen += len(part)
        if seen >= most:
            break
    if not images:
        raise ValueError(f"{name}: there are no images")
    return Pictures(torch.cat(images)[:most], torch.cat(labels)[:most] if len(labels) == len(images) else None)


def _fitting(image: Tensor, limit: int) -> int:
    """Number of images like this that may be held in memory."""
    return max(1, min(limit, MAX_BYTES // max(1, image.numel() * image.element_size())))


Outputs = Literal["auto", "classes", "numbers"]


def make_pruning_task(
    name: str,
    model: nn.Module,
    pictures: Pictures,
    *,
    val: Pictures | None,
    test: Pictures | None,
    metric: Metric | None,
    criterion: Callable[[Tensor, Tensor], Tensor] | None,
    outputs: Outputs,
    ignored_layers: tuple[str, ...],
    seed: int,
) -> PruningTask:
    """The task that a user's network and images make.

    Args:
        name: of the task.
        model: the dense, trained network.
        pictures: what repair and curvature read.
        val: what scores the pruned network; None holds a fifth of ``pictures`` out.
        test: for the report.
        metric: in place of accuracy.
        criterion: the loss the network was trained with; None means cross-entropy for classes, squared error else.
        outputs: what the network's outputs are, for networks without labels and criterion.
        ignored_layers: layers to leave alone.
        seed: which images are held out.

    Raises:
        ValueError: too few images, or labels and network do not fit.
    """
    if len(pictures.images) < FEWEST:
        raise ValueError(f"images: {len(pictures.images)} are too few to repair a network with; give {FEWEST} or more")
    if criterion is None:
        criterion = cross_entropy if _are_classes(model, pictures, outputs) else mse_loss
    if val is None:
        val, pictures = _held_out(pictures, seed)
    classified = _is_classifier(val, criterion) and outputs != "numbers"
    if metric is None and not classified:
        # Labels that accuracy cannot be told from are no use: agreement with the dense network needs none.
        pictures, val = Pictures(pictures.images, None), Pictures(val.images, None)
        test = None if test is None else Pictures(test.images, None)
    labelled = metric is None and classified
    if labelled and test is not None and test.labels is None:
        raise ValueError("test: the images have no labels, but the held-out ones do; label them, or leave them out")
    if labelled and pictures.labels is None:
        pictures = Pictures(pictures.images, outputs_of(model, pictures.images)[0].argmax(dim=1).cpu())
    splits: dict[str, Any] = {
        "calibration": pictures.part(spread(len(pictures.images), CALIBRATION_SIZE)).as_split(),
        "reward": val.as_split(),
        "test": None if test is None else test.as_split(),
        "train": pictures.as_split(),
    }
    return PruningTask(
        name=name,
        model=model,
        example_input=pictures.images[:1].clone(),
        **splits,
        criterion=criterion,
        ignored_layers=ignored_layers,
        metric=metric if metric is not None else None if labelled else AGREEMENT,
    )


def _are_classes(model: nn.Module, pictures: Pictures, outputs: Outputs) -> bool:
    """Return whether the outputs count classes: as said, as the labels tell, else true of any single tensor."""
    if outputs != "auto":
        return outputs == "classes"
    found = outputs_of(model, pictures.images[:1].to(module_device(model)))
    if len(found) != 1 or found[0].ndim < 2 or found[0].shape[1] < 2:
        return False
    labels = pictures.labels
    return labels is None or not labels.is_floating_point()


def _is_classifier(val: Pictures, criterion: Any) -> bool:
    labels = val.labels
    classes = criterion is cross_entropy or isinstance(criterion, nn.CrossEntropyLoss)
    return classes and labels is not None and labels.dtype == torch.long and labels.ndim == 1


def _held_out(pictures: Pictures, seed: int) -> tuple[Pictures, Pictures]:
    """A fifth of the images, and the others; every class has its share in both."""
    count = len(pictures.images)
    held = min(count // HELD_OUT_SHARE, HELD_OUT_MOST)
    labels = pictures.labels
    if labels is None or labels.ndim != 1 or labels.is_floating_point():
        labels = torch.zeros(count, dtype=torch.long)
    out, rest = stratified_partition(labels, (held, count - held), seed)
    return pictures.part(out), pictures.part(rest)
