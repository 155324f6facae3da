"""Images without labels, and what the dense network makes of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.utils import _pytree

from hessian.support.layout import Layout, sent
from prune_gym.data.loader_split import DatasetSplit
from prune_gym.data.splits import ImageSplit, TensorSplit, equal_parts
from prune_gym.reconstruction.outputs import call, float_outputs
from prune_gym.support.device import module_device

ImagesLike: TypeAlias = "Tensor | tuple[Tensor, ...] | ImageSplit | Iterable[Any]"
"""Images: a tensor [N, ...], a tuple of them (a network's arguments), a split, or batches of any of these."""

FEWEST = 20
"""Images a reconstruction needs: fewer leave nothing to hold out that would tell better from worse."""

TEACHER_BATCH = 256
TEACHER_BYTES = 1 << 30
"""Dense outputs kept; past this they are computed anew for every batch."""


class UnlabelledImages:
    """Images by index; labels, where there are any, are dropped.

    Args:
        images: see :data:`ImagesLike`. A split on disk is read batch by batch, batches of a loader are read into memory
            at once.
        fewest: how many there are at least.

    Raises:
        TypeError: images of another kind.
        ValueError: there are fewer, they differ in shape, or some are not finite (splits on disk
            are checked as they are read).
    """

    def __init__(self, images: ImagesLike, fewest: int = FEWEST) -> None:
        self._split = images if isinstance(images, DatasetSplit) else None
        self._tensors: Any = None if self._split is not None else _in_memory(images)
        if len(self) < fewest:
            raise ValueError(f"a reconstruction needs at least {fewest} images; got {len(self)}")
        if self._split is None:
            _check_finite(self._tensors)

    def __len__(self) -> int:
        if self._split is not None:
            return len(self._split)
        return len(_pytree.tree_leaves(self._tensors)[0])

    def batches(self, parts: Sequence[Tensor]) -> Iterator[Any]:
        """One batch for each long tensor of indices, as a network is called with it."""
        if self._split is None:
            for part in parts:
                yield _pytree.tree_map(lambda tensor, at=part: tensor[sent(at, tensor.device)], self._tensors)
            return
        for images, _ in self._split.batches_at(parts):
            _check_finite(images)
            yield images


def _in_memory(images: Any) -> Any:
    if isinstance(images, TensorSplit):
        return images.images
    if isinstance(images, Tensor) or (isinstance(images, tuple) and all(isinstance(part, Tensor) for part in images)):
        return images
    if not isinstance(images, Iterable):
        raise TypeError(f"images are a tensor, a tuple of tensors, a split or batches; got {type(images).__name__}")
    batches = [_without_labels(batch) for batch in images]
    if not batches:
        raise ValueError("there are no images: the loader yields no batch")
    shapes = sorted({tuple(batch.shape[1:]) for batch in batches})
    if len(shapes) > 1:
        raise ValueError(f"images differ in shape: {' and '.join(str(list(shape)) for shape in shapes)}")
    return torch.cat(batches)


def _without_labels(batch: Any) -> Tensor:
    images = batch[0] if isinstance(batch, (tuple, list)) and len(batch) else batch
    if not isinstance(images, Tensor):
        raise TypeError(f"a batch is a tensor of images or (images, labels); got {type(batch).__name__}")
    return images


def _check_finite(images: Any) -> None:
    for tensor in _pytree.tree_leaves(images):
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            broken = int((~tensor.isfinite()).flatten(1).any(dim=1).sum())
            raise ValueError(f"{broken} of {len(tensor)} images hold NaN or infinite values; leave them out")


class Teacher:
    """The dense network's outputs, computed once and kept, or again for every batch where they need too much memory.

    Args:
        dense: the dense network; not modified.
        images: what it is shown.
        layout: how inputs lie in memory.

    Raises:
        ValueError: the network does not run on the images, gives no floating-point output, or one that is not finite.
    """

    def __init__(self, dense: nn.Module, images: UnlabelledImages, layout: Layout) -> None:
        self._dense, self._images, self._layout = dense, images, layout
        self._device = module_device(dense)
        self._kept: list[Tensor] | None = None
        first = torch.arange(min(TEACHER_BATCH, len(images)))
        self.sample = self._run(next(images.batches([first])))
        if not self.sample:
            raise ValueError(
                f"{type(dense).__name__} gives no floating-point output, so there is nothing to match; wrap it so that "
                "it returns its logits"
            )
        if any(not bool(output.isfinite().all()) for output in self.sample):
            raise ValueError(f"the dense {type(dense).__name__} gives NaN or infinite outputs on these images")

    def keep(self) -> None:
        """Compute all outputs now, if they fit into :data:`TEACHER_BYTES`."""
        size = sum(output.numel() * output.element_size() for output in self.sample)
        if size / len(self.sample[0]) * len(self._images) > TEACHER_BYTES:
            return
        batches = self._images.batches(equal_parts(torch.arange(len(self._images)), TEACHER_BATCH))
        parts = [self._run(batch) for batch in batches]
        self._kept = [torch.cat(outputs) for outputs in zip(*parts, strict=True)]

    def batches(self, parts: Sequence[Tensor]) -> Iterator[tuple[Any, list[Tensor]]]:
        """(images, dense floating-point outputs) for each long tensor of indices, on the network's device."""
        for part, batch in zip(parts, self._images.batches(parts), strict=True):
            inputs = placed(batch, self._device, self._layout)
            if self._kept is None:
                yield inputs, self._run(inputs)
            else:
                yield inputs, [output[sent(part, output.device)] for output in self._kept]

    @torch.no_grad()
    def _run(self, batch: Any) -> list[Tensor]:
        inputs = placed(batch, self._device, self._layout)
        size = len(_pytree.tree_leaves(inputs)[0])
        outputs = float_outputs(call(self._dense, inputs))
        for output in outputs:
            if output.ndim == 0 or len(output) != size:
                raise ValueError(
                    f"an output {list(output.shape)} of {type(self._dense).__name__} is not one entry an image "
                    f"({size} images); return outputs [N, ...]"
                )
        return [output.float() for output in outputs]


def placed(inputs: Any, device: torch.device, layout: Layout) -> Any:
    """Inputs on a device, laid out as it likes them."""
    return _pytree.tree_map_only(Tensor, lambda tensor: layout(sent(tensor, device)), inputs)


def check_same_outputs(dense: Sequence[Tensor], pruned: Sequence[Tensor]) -> None:
    """Refuse two networks whose floating-point outputs differ in shape.

    Raises:
        ValueError: they do.
    """
    shapes = [[list(output.shape[1:]) for output in outputs] for outputs in (dense, pruned)]
    if shapes[0] != shapes[1]:
        raise ValueError(f"the dense network's outputs are {shapes[0]}, the pruned one's {shapes[1]}; they must agree")
