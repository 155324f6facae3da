"""A layer of the pruning problem: the channels that leave together, and where they are stored."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor


class UnsupportedStructureError(ValueError):
    """A structure whose channels cannot be removed consistently; the message names it and says what to ignore."""


@dataclass(frozen=True, eq=False)
class Member:
    """One module dimension (or bare parameter) tied to the channels of a layer.

    Attributes:
        module: qualified name of the module (of the owner, for a bare parameter).
        indices: LongTensor [size, width], the positions of channel ``i`` along the module's output dimension
            (producers, carriers) or input dimension (consumers). ``width`` exceeds 1 behind a flatten.
        parameter: qualified name of a bare parameter or buffer (for example ConvNeXt's layer scale), else None.
        axis: the axis of a bare parameter or buffer along which channels run.
    """

    module: str
    indices: Tensor
    parameter: str | None = None
    axis: int | None = None

    @property
    def width(self) -> int:
        """Positions a channel owns along the dimension."""
        return self.indices.shape[1]


@dataclass(frozen=True, eq=False)
class SizeAttribute:
    """A whole number that a module of the network's own keeps and that counts channels of a layer.

    Attributes:
        module: qualified name of the module.
        attribute: its attribute.
        counts: LongTensor [size], how much of the number goes with each channel.
        index: place of the number where the attribute is a list or tuple of numbers.
    """

    module: str
    attribute: str
    counts: Tensor
    index: int | None = None


@dataclass(frozen=True)
class PinnedChannels:
    """Channels of one convolution or linear layer that stay.

    Attributes:
        name: qualified name of the layer that makes them.
        count: how many of them stay.
        size: how many it makes.
        where: qualified name of the module in which the reason lies; empty for the network itself.
        reason: why they stay, as the rest of a sentence that begins with the channels.
    """

    name: str
    count: int
    size: int
    where: str
    reason: str


@dataclass(frozen=True, eq=False)
class ChannelGroup:
    """A prunable layer: one set of coupled channels.

    Attributes:
        name: qualified name of the root, the first producer executed.
        size: number of channels.
        units: the smallest legal removals, as tuples of channel indices. One channel each, except where a grouped
            convolution or GroupNorm forces one channel of every group at once.
        producers: modules whose output channels belong to the layer.
        carriers: modules or parameters that hold one entry a channel.
        consumers: modules whose input channels belong to the layer.
        silent: consumers that run in training mode only (auxiliary heads): cut, but neither priced nor repaired.
        attributes: numbers kept by modules of the network's own that change with the layer.
    """

    name: str
    size: int
    units: tuple[tuple[int, ...], ...]
    producers: tuple[Member, ...]
    carriers: tuple[Member, ...]
    consumers: tuple[Member, ...]
    silent: tuple[Member, ...] = ()
    attributes: tuple[SizeAttribute, ...] = ()

    @property
    def root(self) -> str:
        """Qualified name of the root; the layer's name too, unless the root's channels make several layers."""
        return self.producers[0].module

    @property
    def num_units(self) -> int:
        """Number of smallest legal removals."""
        return len(self.units)

    def channels(self, unit_ids: Iterable[int]) -> list[int]:
        """Channel indices of some units, sorted."""
        return sorted(channel for unit in unit_ids for channel in self.units[int(unit)])

    def columns(self, consumer: Member) -> Tensor:
        """Positions of every unit in a consumer's input dimension, LongTensor [num_units, channels * width]."""
        return torch.stack([consumer.indices[list(unit)].reshape(-1) for unit in self.units])
