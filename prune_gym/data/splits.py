"""Images as tensors: splits, stratified partitions, and scikit-learn's handwritten digits."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch

from hessian.support.batches import INPUT_KEYS, LABEL_KEYS
from hessian.support.layout import sent


class ImageSplit(Protocol):
    """Interface that training and evaluation ask of a split, whether it is in memory or on disk."""

    def __len__(self) -> int:
        """Number of images."""

    def batches(self, batch_size: int) -> Iterable[tuple[torch.Tensor, torch.Tensor]]:
        """All images in order, in re-iterable batches ``(images [B, ...], labels [B])``."""

    def batches_at(self, parts: Sequence[torch.Tensor]) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """One batch for each long tensor of indices ``[B]``."""

    def subset(self, indices: torch.Tensor | slice) -> ImageSplit:
        """The samples at ``indices`` (a long tensor or a slice), in that order."""


@dataclass(frozen=True, eq=False)
class TensorSplit:
    """Labelled images held in memory.

    Attributes:
        images: Float tensor ``[N, C, H, W]`` (or ``[N, ...]`` for other inputs).
        labels: Long tensor ``[N]`` of class indices; ``[N, ...]`` of whatever a task's metric reads.

    Raises:
        ValueError: If the two differ in length.
    """

    images: torch.Tensor
    labels: torch.Tensor

    def __post_init__(self) -> None:
        if self.labels.ndim < 1 or len(self.images) != len(self.labels):
            raise ValueError(
                f"a split is images [N, ...] and labels [N]; got images {list(self.images.shape)} "
                f"and labels {list(self.labels.shape)}"
            )

    def __len__(self) -> int:
        return len(self.labels)

    def to(self, device: torch.device | str) -> TensorSplit:
        """The same split on another device (itself when already there)."""
        images, labels = self.images.to(device), self.labels.to(device)
        return self if images is self.images and labels is self.labels else TensorSplit(images, labels)

    def subset(self, indices: torch.Tensor | slice) -> TensorSplit:
        """The samples at ``indices`` (a long tensor or a slice), in that order."""
        return TensorSplit(self.images[indices], self.labels[indices])

    def batches(self, batch_size: int) -> TensorBatches:
        """The split in order, in batches of ``batch_size`` (the last may be smaller); re-iterable.

        Raises:
            ValueError: If ``batch_size`` is below 1.
        """
        return TensorBatches(self, batch_size)

    def batches_at(self, parts: Sequence[torch.Tensor]) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """One batch for each long tensor of indices ``[B]``."""
        for part in parts:
            batch = self.subset(sent(part, self.labels.device))
            yield batch.images, batch.labels


@dataclass(frozen=True, eq=False)
class TensorBatches:
    """Re-iterable ``(images, labels)`` batches of a split, in order."""

    split: TensorSplit
    batch_size: int

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ValueError(f"batch_size is at least 1; got {self.batch_size}")

    def __len__(self) -> int:
        return math.ceil(len(self.split) / self.batch_size)

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        images, labels = self.split.images, self.split.labels
        return zip(images.split(self.batch_size), labels.split(self.batch_size), strict=True)


@dataclass(frozen=True, eq=False)
class DatasetSplits:
    """The four splits of a task; ``calibration`` is a part of ``train``, the others are disjoint.

    Attributes:
        train: Trains the dense network.
        calibration: Curvature, refits, batch-norm statistics.
        reward: What rewards are measured on; never trained on.
        test: Only for the final report.
    """

    train: TensorSplit
    calibration: TensorSplit
    reward: TensorSplit
    test: TensorSplit


def equal_parts(items: torch.Tensor, batch_size: int) -> tuple[torch.Tensor, ...]:
    """As few pieces of at most ``batch_size`` as possible, sizes differing by one at most.

    A leftover batch of one image would weigh as much as a full one, and batch norms cannot train on it.

    Args:
        items: Indices, or the images themselves, ``[N, ...]``.
        batch_size: Largest piece.

    Raises:
        ValueError: If ``batch_size`` is below 1.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size is at least 1; got {batch_size}")
    return torch.tensor_split(items, math.ceil(len(items) / batch_size))


def stack_pairs(pairs: Sequence[Any]) -> tuple[torch.Tensor, torch.Tensor]:
    """Make one batch of (image, label) pairs: images ``[N, ...]``, labels long ``[N]``.

    Items may hold more than the two, which is left alone, or be dicts with the usual names of images and labels.

    Raises:
        TypeError: If an item is not a pair of a tensor and a class index.
        ValueError: If there are no pairs, or the images differ in shape.
    """
    if not pairs:
        raise ValueError("the dataset is empty")
    images, labels = zip(*map(_checked_pair, pairs), strict=True)
    shapes = sorted({tuple(image.shape) for image in images})
    if len(shapes) > 1:
        raise ValueError(different_shapes(shapes[0], shapes[1]))
    return torch.stack(images), torch.tensor(labels, dtype=torch.long)


def different_shapes(first: Sequence[int], second: Sequence[int]) -> str:
    """Message for images of a dataset that cannot be stacked."""
    return (
        f"images differ in shape, for example {list(first)} and {list(second)}; resize or crop them to one size in the "
        "dataset's transform"
    )


def _checked_pair(item: Any) -> tuple[torch.Tensor, int]:
    image, label = _image_and_label(item)
    if isinstance(image, np.ndarray):
        image = torch.from_numpy(image)
    if not isinstance(image, torch.Tensor):
        raise TypeError(
            f"a dataset's images are tensors; got {type(image).__name__} (give the dataset a transform, for example "
            "torchvision.transforms.ToTensor())"
        )
    try:
        index = int(label)
    except (TypeError, ValueError) as error:
        raise TypeError(f"a dataset's labels are class indices; got {label!r}") from error
    if index != label:
        raise TypeError(f"a dataset's labels are class indices, whole numbers; got {label!r}")
    return image, index


def _image_and_label(item: Any) -> tuple[Any, Any]:
    """Image and label of an item: its first two entries, or those with the usual keys of a dict.

    Raises:
        TypeError: no pair, or a dict without the usual keys.
    """
    if isinstance(item, Mapping):
        images = [item[key] for key in INPUT_KEYS if key in item]
        labels = [item[key] for key in LABEL_KEYS if key in item]
        if images and labels:
            return images[0], labels[0]
        raise TypeError(
            f"a dataset's dicts hold one of {INPUT_KEYS} and one of {LABEL_KEYS}; got keys {sorted(map(str, item))}"
        )
    if not isinstance(item, (tuple, list)) or len(item) < 2:
        raise TypeError(
            f"a dataset's items are dicts of image and label, or pairs (image, label); got {type(item).__name__}"
        )
    return item[0], item[1]


def stratified_partition(labels: torch.Tensor, sizes: Sequence[int], seed: int) -> list[torch.Tensor]:
    """Disjoint random index sets in which every class has its share.

    Every class is shuffled and spread evenly over one line; the line is then cut into consecutive pieces.
    A piece, and any prefix of one, holds each class in proportion to within about one sample.

    Args:
        labels: Class indices ``[N]``.
        sizes: Samples in each piece; together at most N.
        seed: Decides who goes where.

    Returns:
        One long tensor of indices a piece, ``[size]``.

    Raises:
        ValueError: If a size is below 1 or there are not enough samples.
    """
    if min(sizes) < 1 or sum(sizes) > len(labels):
        raise ValueError(f"cannot cut pieces of {list(sizes)} samples from {len(labels)}")
    # Shuffled by the raw stream of a bit generator: the one source of randomness that is promised to stay the same
    # over versions and platforms (NEP 19). Shipped weights rely on the splits they were trained with.
    keys = np.random.PCG64(seed).random_raw(len(labels))
    shuffled = torch.from_numpy(np.argsort(keys, kind="stable"))
    position = torch.empty(len(labels), dtype=torch.float64)
    for label in labels.unique():
        members = (labels[shuffled] == label).nonzero().squeeze(1)
        position[members] = (torch.arange(len(members), dtype=torch.float64) + 0.5) / len(members)
    line = shuffled[position.argsort(stable=True)]
    return list(line[: sum(sizes)].split(list(sizes)))


def carve_splits(
    train: TensorSplit,
    test: TensorSplit,
    *,
    held_out: int,
    reward_size: int,
    calibration_size: int,
    seed: int,
) -> DatasetSplits:
    """Cut a training set in memory into dense-train and reward; normalise all by dense-train's channel statistics.

    Which images train the dense network depends on ``held_out`` and ``seed`` only, so that trained weights serve every
    choice of sizes.

    Args:
        train: Official training images ``[N, C, H, W]``.
        test: Official test images.
        held_out: Training images never trained on; the reward split is their beginning.
        reward_size: Images of the reward split, in [1, held_out].
        calibration_size: Images of the calibration split, the beginning of dense-train.
        seed: Decides which training image goes where.

    Raises:
        ValueError: If a size is out of range.
    """
    num_train = len(train) - held_out
    if num_train < 1:
        raise ValueError(f"{len(train)} training images are too few to hold out {held_out}")
    check_size("reward_size", reward_size, held_out)
    check_size("calibration_size", calibration_size, num_train)
    rest, trained = stratified_partition(train.labels, (held_out, num_train), seed)
    dense_train = train.subset(trained)
    mean = dense_train.images.mean(dim=(0, 2, 3), keepdim=True)
    std = dense_train.images.std(dim=(0, 2, 3), keepdim=True)

    def normalised(split: TensorSplit) -> TensorSplit:
        return TensorSplit((split.images - mean) / std, split.labels)

    dense_train = normalised(dense_train)
    return DatasetSplits(
        train=dense_train,
        calibration=dense_train.subset(slice(calibration_size)),
        reward=normalised(train.subset(rest[:reward_size])),
        test=normalised(test),
    )


def check_size(name: str, size: int, available: int) -> None:
    """Refuse a split's size that there are no images for.

    Raises:
        ValueError: If ``size`` is not in [1, available].
    """
    if not 1 <= size <= available:
        raise ValueError(f"{name} is in [1, {available}]; got {size}")


def load_digits_splits(seed: int = 0) -> DatasetSplits:
    """Scikit-learn's 1,797 handwritten digits at 16x16, cut into four class-stratified splits.

    Dense-train 1,000 (of which calibration 500), reward 300, test 497. Images are float32 ``[N, 1, 16, 16]``,
    bilinearly upsampled from 8x8, normalised by the mean and standard deviation of dense-train.

    Args:
        seed: Decides which image goes into which split. The shipped weights belong to seed 0.
    """
    from sklearn.datasets import load_digits  # here, because importing scikit-learn takes a second

    digits = load_digits()
    images = torch.tensor(digits.images, dtype=torch.float32).unsqueeze(1)
    images = torch.nn.functional.interpolate(images, size=(16, 16), mode="bilinear", align_corners=False)
    labels = torch.tensor(digits.target, dtype=torch.long)
    pieces = stratified_partition(labels, (1000, 300, 497), seed)
    train_images = images[pieces[0]]
    images = (images - train_images.mean()) / train_images.std()
    train, reward, test = (TensorSplit(images[piece], labels[piece]) for piece in pieces)
    return DatasetSplits(train, calibration=train.subset(slice(500)), reward=reward, test=test)
