r"""Sums of outer products over images and positions: the arithmetic of second moments.

A sum of products of two feature maps, one of them shifted, is what a convolution's weight gradient is made of: with
``left`` in the place of the output gradient and ``right`` in that of the input,

    ``(dL/dW)[i, j, lag] = sum_n sum_q left[n, i, q] right[n, j, q + lag]``

Convolution kernels compute it at full speed on maps as they lie in memory, for all lags at once; matrix products need
reordered copies and, on some processors, run at half the speed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.grad import conv1d_weight, conv2d_weight, conv3d_weight

WEIGHT_GRADIENTS = {1: conv1d_weight, 2: conv2d_weight, 3: conv3d_weight}

BUFFER_ELEMENTS = 1 << 21
"""Elements handed to one convolution kernel: what it reorders internally then stays in the cache."""

CONVOLUTION_WIDTH = 32
"""Vectors this long are multiplied by convolution kernels, shorter ones by matrix products."""

CONVOLUTION_POSITIONS = 4
"""The same for the number of positions."""

SYMMETRIC_WIDTH = 1024
"""From this length on, only the upper part of a symmetric sum is formed, in so many ..."""

SYMMETRIC_PARTS = 4
"""... rows of blocks: narrower ones lose more by reordering than they save."""


def outer_sum(columns: Tensor, other: Tensor | None = None) -> Tensor:
    """Sum over images and positions of ``c o^T``: [N, groups, d, S] (and [N, groups, e, S]) -> [groups, d, e].

    Args:
        columns: c.
        other: o; c itself by default.
    """
    images, groups, width, positions = columns.shape
    if other is None and width >= SYMMETRIC_WIDTH and _suits_convolution(columns):
        return _symmetric_sum(columns.view(images, width, 1, positions))[None]
    other = columns if other is None else other
    if _suits_convolution(columns) and _suits_convolution(other):
        left, right = (part.view(images, -1, 1, positions) for part in (columns, other))
        return shifted_products(left, right, [range(1), range(1)])[:, :, :, 0, 0]
    if positions > max(width, other.shape[2]):
        # Products of single images are smaller than a reordered copy of the columns.
        return (columns @ other.transpose(2, 3)).sum(dim=0)
    left, right = (
        part.permute(1, 2, 0, 3).reshape(groups, part.shape[2], images * positions) for part in (columns, other)
    )
    return left @ right.transpose(1, 2)


def _symmetric_sum(maps: Tensor) -> Tensor:
    """Sum over images and positions of ``c c^T``, [N, d, 1, S] -> [d, d]; the lower part is the upper one's mirror."""
    width = maps.shape[1]
    total = maps.new_empty(width, width)
    step = -(-width // SYMMETRIC_PARTS)
    for start in range(0, width, step):
        stop = min(width, start + step)
        rows = shifted_products(maps[:, start:stop], maps[:, start:], [range(1), range(1)])[0, :, :, 0, 0]
        total[start:stop, start:] = rows
        total[stop:, start:stop] = rows[:, stop - start :].T
    return total


def _suits_convolution(columns: Tensor) -> bool:
    _, groups, width, positions = columns.shape
    return (
        columns.device.type == "cpu"
        and columns.dtype == torch.float32
        and groups == 1
        and width >= CONVOLUTION_WIDTH
        and positions >= CONVOLUTION_POSITIONS
        and (columns.is_contiguous() or columns.transpose(2, 3).is_contiguous())
        and torch.backends.mkldnn.is_available()
    )


def shifted_products(left: Tensor, right: Tensor, lags: Sequence[range], groups: int = 1) -> Tensor:
    """``sum_n sum_q left[n, i, q] right[n, j, q + lag]`` over the positions q of ``left``, zero outside ``right``.

    Args:
        left: [N, groups * c, *extents], one to three axes.
        right: [N, groups * e, *other extents].
        lags: the shifts along every axis, ascending; the maps have to overlap under each of them.
        groups: only channels of the same group are multiplied.

    Returns:
        [groups, c, e, *lags].
    """
    channels = left.shape[1] // groups, right.shape[1] // groups
    lengths = tuple(map(len, lags))
    # A window starts `before` its map's first position and ends `after` its last one.
    before = [-lag[0] for lag in lags]
    after = [size + lag[-1] - other for size, lag, other in zip(left.shape[2:], lags, right.shape[2:], strict=True)]
    # Padding that both sides share costs no copy inside the kernel; only the rest is padded (or cropped) by hand.
    padding = [max(0, min(amounts)) for amounts in zip(before, after, strict=True)]
    rest: list[int] = []
    for axis in reversed(range(len(lags))):
        rest += [before[axis] - padding[axis], after[axis] - padding[axis]]
    right = F.pad(right, rest) if any(rest) else right
    weight_gradient = WEIGHT_GRADIENTS[len(lags)]
    total: Tensor | None = None
    with _full_precision(left):
        for a, b in _cached_parts(left, right):
            part = weight_gradient(
                b,
                (groups * channels[0], channels[1], *lengths),
                a,
                padding=tuple(padding),
                # Entries of a weight gradient are as far apart as the taps of the convolution: the step between lags.
                dilation=tuple(lag.step for lag in lags),
                groups=groups,
            )
            total = part if total is None else total.add_(part)
    assert total is not None
    return total.view(groups, *channels, *lengths)


def _cached_parts(left: Tensor, right: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of images of at most ``BUFFER_ELEMENTS``."""
    largest = max(left[0].numel(), right[0].numel(), 1)
    size = max(1, BUFFER_ELEMENTS // largest)
    yield from zip(left.split(size), right.split(size), strict=True)


def _full_precision(tensor: Tensor) -> AbstractContextManager[None]:
    """On a GPU, convolutions in float32 proper instead of TF32."""
    if not tensor.is_cuda:
        return nullcontext()
    backend = torch.backends.cudnn
    return backend.flags(
        enabled=backend.enabled,
        benchmark=backend.benchmark,
        deterministic=backend.deterministic,
        allow_tf32=False,
    )
