"""A random sample of a layer's output positions, over all images of several batches.

The positions of all images are cut into as many stretches of equal length as positions are wanted, and one is drawn
from each: every position is equally likely, and every image has its share.

A convolution at single positions is a convolution of their windows of the input, without padding.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from hessian.subsampling import padded, position_extents


class PositionSample:
    """Positions of a layer's outputs, batch by batch.

    Args:
        module: a convolution (not a transposed one) or linear layer.
        outputs: what it gave, [N, out, *positions] or [N, *positions, out] a batch.
        count: positions to draw, at most as many as there are.
        seed: of the drawing, which does not depend on how images are split into batches.
    """

    def __init__(self, module: nn.Module, outputs: Sequence[Tensor], count: int, seed: int = 0) -> None:
        extents = position_extents(module, outputs[0])
        each = math.prod(extents)
        total = each * sum(len(output) for output in outputs)
        drawn = torch.rand(count, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        index = ((torch.arange(count) + drawn) * (total / count)).long().clamp_max(total - 1)
        self._linear = isinstance(module, nn.Linear)
        self._places: list[tuple[Tensor, ...]] = []
        start = 0
        for output in outputs:
            stop = start + each * len(output)
            own = index[(index >= start) & (index < stop)] - start
            self._places.append(torch.unravel_index(own.to(output.device), (len(output), *extents)))
            start = stop

    def inputs(self, module: Any, inputs: Sequence[Tensor]) -> tuple[Any, list[Tensor]]:
        """A layer and inputs whose outputs are those at the sample's positions.

        Args:
            module: the layer.
            inputs: what it is called with, batch by batch.

        Returns:
            The layer and [S, in, *kernel] (or [S, in]) a batch.
        """
        if self._linear:
            return module, [given[places] for given, places in zip(inputs, self._places, strict=True)]
        axes = len(module.kernel_size)
        single = copy.copy(module)
        single.stride = single.dilation = (1,) * axes
        single.padding, single.padding_mode = (0,) * axes, "zeros"
        single._reversed_padding_repeated_twice = [0] * (2 * axes)
        return single, [
            _windows(module, given, image, place) for given, (image, *place) in zip(inputs, self._places, strict=True)
        ]

    def outputs(self, outputs: Sequence[Tensor]) -> list[Tensor]:
        """Outputs of the layer, or what else has their shape, at the positions: [S, out, 1, ...] (or [S, out])."""
        if self._linear:
            return [given[places] for given, places in zip(outputs, self._places, strict=True)]
        ones = [1] * (outputs[0].ndim - 2)
        picked = [_rows(given, image, place) for given, (image, *place) in zip(outputs, self._places, strict=True)]
        return [rows.view(*rows.shape, *ones) for rows in picked]


def _windows(module: Any, inputs: Tensor, image: Tensor, place: Sequence[Tensor]) -> Tensor:
    """What the layer reads at some positions: [S, in, *kernel]."""
    kernel = tuple(module.kernel_size)
    taps = torch.unravel_index(torch.arange(math.prod(kernel), device=image.device), kernel)
    corners = [
        first[:, None] * step + tap * dilation
        for first, step, tap, dilation in zip(place, module.stride, taps, module.dilation, strict=True)
    ]
    rows = _rows(padded(module, inputs), image[:, None].expand_as(corners[0]), corners)
    rows = rows.view(len(image), len(taps[0]), inputs.shape[1])
    return rows.transpose(1, 2).reshape(len(image), inputs.shape[1], *kernel)


def _rows(maps: Tensor, image: Tensor, place: Sequence[Tensor]) -> Tensor:
    """Channels of maps [N, C, *extents] at places, [S, C]: rows of memory where channels lie last."""
    index = image
    for extent, axis in zip(maps.shape[2:], place, strict=True):
        index = index * extent + axis
    return maps.movedim(1, -1).reshape(-1, maps.shape[1]).index_select(0, index.flatten())
