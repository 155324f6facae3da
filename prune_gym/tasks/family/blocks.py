"""Blocks that the networks of the family are put together from."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "relu6": nn.ReLU6,
    "leaky": nn.LeakyReLU,
    "silu": nn.SiLU,
    "hardswish": nn.Hardswish,
    "gelu": nn.GELU,
}
"""Activations by name, with PyTorch's defaults."""


def conv_unit(
    before: int, after: int, kernel: int, activation: str | None, stride: int = 1, groups: int = 1
) -> nn.Sequential:
    """Convolution of odd kernel, padded to keep the extent, batch norm, activation (None: none).

    Args:
        before: channels of the input.
        after: channels of the output.
        kernel: extent of the kernel, odd.
        activation: key of :data:`ACTIVATIONS`, or None.
        stride: of the convolution.
        groups: of the convolution.
    """
    layers: list[nn.Module] = [
        nn.Conv2d(before, after, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(after),
    ]
    return nn.Sequential(*layers, *([] if activation is None else [ACTIVATIONS[activation]()]))


def separable(before: int, after: int, kernel: int, activation: str, stride: int) -> nn.Sequential:
    """Depthwise and pointwise convolution, each with batch norm and activation (Howard et al., 2017, figure 3)."""
    return nn.Sequential(
        conv_unit(before, before, kernel, activation, stride, groups=before), conv_unit(before, after, 1, activation)
    )


class Residual(nn.Module):
    """``activation(body(x) + shortcut(x))``; the shortcut is a 1x1 convolution where the shape changes.

    Args:
        body: maps [N, before, H, W] to [N, after, H / stride, W / stride].
        before: channels of the input.
        after: channels of the output.
        stride: of the body.
        activation: key of :data:`ACTIVATIONS`.
    """

    def __init__(self, body: nn.Module, before: int, after: int, stride: int, activation: str) -> None:
        super().__init__()
        self.body = body
        same = stride == 1 and before == after
        self.shortcut = nn.Identity() if same else conv_unit(before, after, 1, None, stride)
        self.activation = ACTIVATIONS[activation]()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map [N, before, H, W] to [N, after, H / stride, W / stride]."""
        return self.activation(self.body(x) + self.shortcut(x))


class Inverted(nn.Module):
    """Inverted bottleneck: expansion, depthwise convolution, linear projection (Sandler et al., 2018, table 1).

    Args:
        before: channels of the input.
        after: channels of the output; added to the input where both have one shape.
        hidden: channels in between.
        kernel: of the depthwise convolution.
        activation: key of :data:`ACTIVATIONS`.
        stride: of the depthwise convolution.
    """

    def __init__(self, before: int, after: int, hidden: int, kernel: int, activation: str, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            conv_unit(before, hidden, 1, activation),
            conv_unit(hidden, hidden, kernel, activation, stride, groups=hidden),
            conv_unit(hidden, after, 1, None),
        )
        self.adds = stride == 1 and before == after

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map [N, before, H, W] to [N, after, H / stride, W / stride]."""
        return x + self.body(x) if self.adds else self.body(x)


class Excitation(nn.Module):
    """Squeeze-and-excitation: every channel times a factor read off all channels' means (Hu et al., 2018, figure 2).

    Args:
        channels: of the input.
        hidden: units in between.
        activation: key of :data:`ACTIVATIONS`.
    """

    def __init__(self, channels: int, hidden: int, activation: str) -> None:
        super().__init__()
        self.gate = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(channels, hidden, 1),
            ACTIVATIONS[activation](),
            nn.Conv2d(hidden, channels, 1),
            nn.Sigmoid(),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map [N, channels, H, W] to the same shape."""
        return x * self.gate(x)


class DenseLayer(nn.Module):
    """``cat([x, conv(activation(norm(x)))])`` (Huang et al., 2017, section 3).

    Args:
        before: channels of the input.
        growth: channels added.
        kernel: of the convolution.
        activation: key of :data:`ACTIVATIONS`.
    """

    def __init__(self, before: int, growth: int, kernel: int, activation: str) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(before)
        self.activation = ACTIVATIONS[activation]()
        self.conv = nn.Conv2d(before, growth, kernel, padding=kernel // 2, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map [N, before, H, W] to [N, before + growth, H, W]."""
        return torch.cat([x, self.conv(self.activation(self.norm(x)))], dim=1)


class Branches(nn.Module):
    """Outputs of several branches, concatenated.

    Args:
        branches: each maps [N, C, H, W] to the same extents.
    """

    def __init__(self, branches: Sequence[nn.Module]) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map [N, C, H, W] to [N, channels of all branches, H, W]."""
        return torch.cat([branch(x) for branch in self.branches], dim=1)
