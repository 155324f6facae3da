"""Parts of the blocks of random networks: choices, convolutions with a norm and an activation, gates."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Literal, Protocol, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

T = TypeVar("T")
WIDTHS = (4, 8, 12, 16)
"""Channels of a block: small, and divisible by the groups that occur."""


class Draw(Protocol):
    """Source of the choices of a random network: a seed, or a property test that shrinks them."""

    def choose(self, options: Sequence[T]) -> T:
        """One of some options."""


class SeededDraw:
    """Choices from a seed.

    Args:
        seed: of the choices.
    """

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def choose(self, options: Sequence[T]) -> T:
        """One of some options, each as likely as the others."""
        return self._random.choice(options)


Block = tuple[nn.Module, int]
"""A module [N, C, H, W] -> [N, C', H, W], and C'."""
Maker = Callable[[Draw, int], Block]
"""A block kind: where choices come from and C -> a block."""


class LayerNorm2d(nn.LayerNorm):
    """LayerNorm over the channels of an image [N, C, H, W]."""

    def forward(self, input: Tensor) -> Tensor:
        """Normalise every position's channels."""
        last = input.permute(0, 2, 3, 1)
        return F.layer_norm(last, self.normalized_shape, self.weight, self.bias, self.eps).permute(0, 3, 1, 2)


_NORMS: dict[str, Callable[[int], nn.Module]] = {
    "batch": nn.BatchNorm2d,
    "group": lambda width: nn.GroupNorm(2, width),
    "layer": LayerNorm2d,
    "one group": lambda width: nn.GroupNorm(1, width),
    "instance": lambda width: nn.InstanceNorm2d(width, affine=True),
    "none": lambda width: nn.Identity(),
}
_ACTIVATIONS: dict[str, Callable[[int], nn.Module]] = {
    "relu": lambda width: nn.ReLU(),
    "relu in place": lambda width: nn.ReLU(inplace=True),
    "silu": lambda width: nn.SiLU(),
    "gelu": lambda width: nn.GELU(),
    "hardswish": lambda width: nn.Hardswish(),
    "leaky": lambda width: nn.LeakyReLU(0.1),
    "prelu": lambda width: nn.PReLU(),
    "prelu of channels": nn.PReLU,
    "none": lambda width: nn.Identity(),
}


def norm(draw: Draw, width: int) -> nn.Module:
    """A norm over [N, width, H, W]; half of them BatchNorm."""
    return _NORMS[draw.choose(("batch",) * 5 + tuple(_NORMS)[1:])](width)


def activation(draw: Draw, width: int) -> nn.Module:
    """An activation over [N, width, H, W]."""
    return _ACTIVATIONS[draw.choose(tuple(_ACTIVATIONS))](width)


def conv(draw: Draw, inputs: int, outputs: int, kernel: int = 3, *, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    """A convolution that keeps the image's size (halves it with stride 2), with or without bias, however padded."""
    modes: tuple[Literal["zeros", "reflect", "circular"], ...] = ("zeros", "zeros", "zeros", "reflect", "circular")
    mode = draw.choose(modes if kernel > 1 else modes[:1])
    return nn.Conv2d(
        inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=draw.choose((False, True)), padding_mode=mode
    )


def unit(draw: Draw, inputs: int, outputs: int, kernel: int = 3, *, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """A convolution, a norm and an activation."""
    layer = conv(draw, inputs, outputs, kernel, stride=stride, groups=groups)
    return nn.Sequential(layer, norm(draw, outputs), activation(draw, outputs))


class SqueezeExcitation(nn.Module):
    """A gate of every channel, from the mean of all.

    Args:
        width: channels.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.squeeze, self.excite = nn.Conv2d(width, 4, 1), nn.Conv2d(4, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Gate x [N, width, H, W]."""
        mean = F.adaptive_avg_pool2d(x, 1)
        return x * torch.sigmoid(self.excite(torch.relu(self.squeeze(mean))))


class Apply(nn.Module):
    """A function as a module.

    Args:
        function: of one tensor.
    """

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        """Apply it."""
        return self.function(x)
