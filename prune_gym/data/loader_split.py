"""Splits that stay in their dataset: images are read when a batch asks for them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.data import (
    DataLoader,
    Dataset,
    RandomSampler,
    SequentialSampler,
    Subset,
    SubsetRandomSampler,
    default_collate,
)

from hessian.support.batches import as_batch
from prune_gym.data.splits import TensorSplit, different_shapes, stack_pairs


@dataclass(frozen=True, eq=False)
class DatasetSplit:
    """Labelled images of a map-style dataset, read batch by batch; what training and testing on large data use.

    Attributes:
        dataset: Items are ``(image, label)``: a tensor and a class index; further entries are left alone. Dicts with
            the usual names of the two will do.
        workers: Processes that read ahead; 0 reads in this one.
    """

    dataset: Dataset[Any]
    workers: int = 0

    def __len__(self) -> int:
        return len(self.dataset)  # type: ignore[arg-type]

    def batches(self, batch_size: int) -> DataLoader[Any]:
        """The split in order, in batches of ``batch_size`` (the last may be smaller); re-iterable.

        Raises:
            ValueError: If ``batch_size`` is below 1.
        """
        if batch_size < 1:
            raise ValueError(f"batch_size is at least 1; got {batch_size}")
        return self._loader(batch_size=batch_size)

    def batches_at(self, parts: Sequence[torch.Tensor]) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """One batch for each long tensor of indices ``[B]``."""
        yield from self._loader(batch_sampler=[part.tolist() for part in parts])

    def subset(self, indices: torch.Tensor | slice) -> DatasetSplit:
        """The samples at ``indices`` (a long tensor or a slice), in that order; nothing is read."""
        chosen = range(len(self))[indices] if isinstance(indices, slice) else indices.tolist()
        return DatasetSplit(Subset(self.dataset, chosen), self.workers)

    def _loader(self, **batching: Any) -> DataLoader[Any]:
        # A generator of its own: a loader draws its workers' seed, and would disturb the caller's random stream.
        return DataLoader(
            self.dataset,
            num_workers=self.workers,
            collate_fn=stack_pairs,
            generator=torch.Generator().manual_seed(0),
            **batching,
        )

    def read(self) -> TensorSplit:
        """All images in memory.

        Raises:
            TypeError: If an item is not a pair of a tensor and a class index.
            ValueError: If the images differ in shape.
        """
        batches = list(self.batches(256))
        images, labels = ([batch[part] for batch in batches] for part in (0, 1))
        _check_same_shape(images)
        return TensorSplit(torch.cat(images), torch.cat(labels))


def _check_same_shape(batches: list[torch.Tensor]) -> None:
    """Check that batches agree on the shape of images; within a batch stacking has seen to it.

    Raises:
        ValueError: they differ.
    """
    shapes = sorted({tuple(images.shape[1:]) for images in batches})
    if len(shapes) > 1:
        raise ValueError(different_shapes(shapes[0], shapes[1]))


def spread(count: int, size: int) -> torch.Tensor:
    """``size`` indices ``[size]`` spread evenly over ``count``, all of them if there are no more.

    Folders of images come class by class: a beginning would be one class, evenly spread indices hold all in proportion.
    """
    size = min(size, count)
    return torch.arange(size) * count // size


def split_of_loader(loader: DataLoader[Any]) -> DatasetSplit | TensorSplit:
    """Dataset of a loader in order, whatever the shuffling; read at once where that cannot be told.

    Args:
        loader: Of pairs (images, labels), or dicts of both. One that picks or batches in a way of its own (a weighted
            or a batch sampler, an iterable dataset, a ``collate_fn``) is run through once, and its batches kept.

    Raises:
        TypeError: If its batches are not pairs of tensors.
        ValueError: If it is empty.
    """
    sampler, dataset = loader.sampler, loader.dataset
    if loader.collate_fn is not default_collate:
        return _run_through(loader)
    if isinstance(sampler, SubsetRandomSampler):
        return DatasetSplit(Subset(dataset, list(sampler.indices)), loader.num_workers)
    whole = isinstance(sampler, SequentialSampler) or (isinstance(sampler, RandomSampler) and not sampler.replacement)
    if whole and loader.batch_size is not None and len(sampler) == len(dataset):  # type: ignore[arg-type]
        return DatasetSplit(dataset, loader.num_workers)
    return _run_through(loader)


def _run_through(loader: DataLoader[Any]) -> TensorSplit:
    images, labels = [], []
    for batch in loader:
        try:
            given = as_batch(batch)
        except ValueError as error:
            raise TypeError(f"a loader's batches are pairs (images, labels), or dicts of both: {error}") from error
        if given.images is None or given.labels is None:
            raise TypeError(
                f"a loader's batches are pairs (images, labels), or dicts of both; got {type(batch).__name__} without "
                "labels"
            )
        images.append(given.images)
        labels.append(torch.as_tensor(given.labels).long())
    if not images:
        raise ValueError("the loader is empty")
    return TensorSplit(torch.cat(images), torch.cat(labels))
