"""A random part of a layer's output positions, so that curvature of large feature maps costs less.

One position is drawn uniformly; kept are all positions that differ from it by multiples of the stride along every axis.
A lattice is therefore drawn with a probability proportional to its size, which makes the mean over the lattice's
positions an unbiased estimate of the mean over all.

A convolution seen at the positions of a lattice is again a convolution, with a larger stride on cropped inputs.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hessian.channels.layer_types import TRANSPOSED_TYPES
from hessian.support.layout import sent


@dataclass(frozen=True)
class Lattice:
    """Every ``stride``-th output position along every axis, from an offset on.

    Attributes:
        offsets: first position kept, an entry an axis.
        stride: distance between positions kept.
    """

    offsets: tuple[int, ...]
    stride: int

    def count(self, extents: Sequence[int]) -> int:
        """Positions kept of a map of the given extents."""
        return math.prod(
            len(range(offset, extent, self.stride)) for offset, extent in zip(self.offsets, extents, strict=True)
        )

    def inputs(self, module: Any, inputs: Tensor) -> tuple[Any, Tensor]:
        """A layer and inputs whose output positions are those of the lattice."""
        if isinstance(module, nn.Linear):
            whole = (slice(None),)
            return module, inputs[whole + tuple(self._window())]
        inputs = padded(module, inputs)
        start = (offset * step for offset, step in zip(self.offsets, module.stride, strict=True))
        coarse = copy.copy(module)
        coarse.stride = tuple(step * self.stride for step in module.stride)
        coarse.padding, coarse.padding_mode = (0,) * len(coarse.stride), "zeros"
        coarse._reversed_padding_repeated_twice = [0] * (2 * len(coarse.stride))
        window = (slice(None), slice(None), *(slice(first, None) for first in start))
        return coarse, inputs[window]

    def gradients(self, module: nn.Module, gradients: Tensor) -> Tensor:
        """Output gradients at the lattice's positions, scaled so that sums of squares stand for all positions."""
        leading = 1 if isinstance(module, nn.Linear) else 2
        kept = gradients[(slice(None),) * leading + self._window()]
        return kept * math.sqrt(gradients.numel() / kept.numel())

    def _window(self) -> tuple[slice, ...]:
        return tuple(slice(offset, None, self.stride) for offset in self.offsets)


def draw_lattice(module: nn.Module, output: Tensor, stride: int, generator: torch.Generator) -> Lattice | None:
    """A random lattice of a layer's output positions, or None where all are to be used.

    Args:
        module: a convolution or linear layer (a transposed convolution is never subsampled).
        output: what it gave, [N, out, *positions] or [N, *positions, out].
        stride: distance between positions along every axis.
        generator: on the CPU.
    """
    extents = position_extents(module, output)
    if stride == 1 or isinstance(module, TRANSPOSED_TYPES) or math.prod(extents) == 1:
        return None
    drawn = (int(torch.randint(extent, (), generator=generator)) for extent in extents)
    return Lattice(tuple(position % stride for position in drawn), stride)


def position_extents(module: nn.Module, output: Tensor) -> tuple[int, ...]:
    """Extents of the axes along which a layer's output has positions."""
    return tuple(output.shape[1:-1] if isinstance(module, nn.Linear) else output.shape[2:])


def padded(module: Any, inputs: Tensor) -> Tensor:
    """A convolution's inputs with its padding around them."""
    amounts = module._reversed_padding_repeated_twice
    mode = "constant" if module.padding_mode == "zeros" else module.padding_mode
    return F.pad(inputs, amounts, mode=mode) if any(amounts) else inputs


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
        # Stratified: one draw in each of `count` equal parts, so that images and places are covered evenly.
        index = ((torch.arange(count) + drawn) * (total / count)).long().clamp_max(total - 1)
        self._linear = isinstance(module, nn.Linear)
        self._places: list[tuple[Tensor, ...]] = []
        start = 0
        for output in outputs:
            stop = start + each * len(output)
            own = index[(index >= start) & (index < stop)] - start
            self._places.append(
                tuple(sent(axis, output.device) for axis in torch.unravel_index(own, (len(output), *extents)))
            )
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
        # A window is cut out with stride and dilation already, and the kernel covers it in a single position.
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
    """Windows that the layer reads at some positions: [S, in, *kernel]."""
    kernel = tuple(module.kernel_size)
    taps = [sent(tap, image.device) for tap in torch.unravel_index(torch.arange(math.prod(kernel)), kernel)]
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
