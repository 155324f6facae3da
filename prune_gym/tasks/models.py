"""The networks of the named tasks, and the registry that rebuilds a network from its name.

CIFAR-style residual networks (He et al., 2016, section 4.2): a 3x3 stem, three stages of basic blocks, global
average pooling, one linear head. Where the width changes, the shortcut is a 1x1 convolution with batch
normalisation, so that every stage's stream of channels is one prunable layer of its own.

VGG-11 (Simonyan and Zisserman, 2015, configuration A) for small images: batch normalisation after every convolution,
and global average pooling with one linear head instead of three large linear layers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from hessian.support.names import unknown


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut: ``relu(bn2(conv2(relu(bn1(conv1(x))))) + shortcut(x))``.

    Args:
        in_channels: Channels of the input.
        channels: Channels of both convolutions.
        stride: Stride of the first convolution and of the shortcut.
    """

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU()
        self.downsample: nn.Module = nn.Identity()
        if stride != 1 or in_channels != channels:
            self.downsample = nn.Sequential(
                nn.Conv2d(in_channels, channels, 1, stride=stride, bias=False), nn.BatchNorm2d(channels)
            )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map ``[N, in_channels, H, W]`` to ``[N, channels, H / stride, W / stride]``."""
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        return self.relu(out + self.downsample(x))


class CifarResNet(nn.Module):
    """Residual network for small images: ``6 * blocks_per_stage + 2`` weighted layers.

    Args:
        blocks_per_stage: Basic blocks in each of the three stages.
        num_classes: Outputs of the head.
        in_channels: Channels of the images.
        widths: Channels of the three stages; the second and third stage halve the resolution.
    """

    def __init__(
        self,
        blocks_per_stage: int,
        num_classes: int = 10,
        in_channels: int = 1,
        widths: Sequence[int] = (16, 32, 64),
    ) -> None:
        super().__init__()
        if len(widths) != 3:
            raise ValueError(f"widths names the channels of three stages; got {tuple(widths)}")
        self.conv1 = nn.Conv2d(in_channels, widths[0], 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        self.relu = nn.ReLU()
        self.layer1 = _stage(widths[0], widths[0], blocks_per_stage, stride=1)
        self.layer2 = _stage(widths[0], widths[1], blocks_per_stage, stride=2)
        self.layer3 = _stage(widths[1], widths[2], blocks_per_stage, stride=2)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(widths[2], num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map images ``[N, in_channels, H, W]`` to logits ``[N, num_classes]``."""
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.fc(torch.flatten(self.avgpool(x), 1))


def _stage(in_channels: int, channels: int, blocks: int, stride: int) -> nn.Sequential:
    first = BasicBlock(in_channels, channels, stride)
    return nn.Sequential(first, *(BasicBlock(channels, channels, 1) for _ in range(blocks - 1)))


def resnet20(num_classes: int = 10, in_channels: int = 1, widths: Sequence[int] = (16, 32, 64)) -> CifarResNet:
    """ResNet-20 for small images; 12 prunable layers (9 block interiors, 3 streams)."""
    return CifarResNet(3, num_classes, in_channels, widths)


def resnet56(num_classes: int = 10, in_channels: int = 1, widths: Sequence[int] = (16, 32, 64)) -> CifarResNet:
    """ResNet-56 for small images; 30 prunable layers (27 block interiors, 3 streams)."""
    return CifarResNet(9, num_classes, in_channels, widths)


VGG11_WIDTHS = (64, 128, 256, 256, 512, 512, 512, 512)
"""Channels of the eight convolutions of configuration A."""

VGG11_POOLED = (0, 1, 3, 5)
"""Convolutions that a pooling follows; the fifth pooling is the global one."""


class SmallVGG11(nn.Module):
    """VGG-11 with batch normalisation for images of 16 to 64 pixels: eight 3x3 convolutions, one linear head.

    Poolings round up, so that no border is lost where the size is odd.

    Args:
        num_classes: Outputs of the head.
        in_channels: Channels of the images.
        widths: Channels of the eight convolutions.
    """

    def __init__(self, num_classes: int = 10, in_channels: int = 1, widths: Sequence[int] = VGG11_WIDTHS) -> None:
        super().__init__()
        if len(widths) != len(VGG11_WIDTHS):
            raise ValueError(f"widths names the channels of eight convolutions; got {tuple(widths)}")
        layers: list[nn.Module] = []
        for index, (before, after) in enumerate(zip((in_channels, *widths[:-1]), widths, strict=True)):
            layers += [nn.Conv2d(before, after, 3, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
            if index in VGG11_POOLED:
                layers.append(nn.MaxPool2d(2, ceil_mode=True))
        self.features = nn.Sequential(*layers)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(widths[-1], num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map images ``[N, in_channels, H, W]`` to logits ``[N, num_classes]``."""
        return self.classifier(torch.flatten(self.avgpool(self.features(x)), 1))


def vgg11(num_classes: int = 10, in_channels: int = 1, widths: Sequence[int] = VGG11_WIDTHS) -> SmallVGG11:
    """VGG-11 with batch normalisation for small images; 8 prunable layers."""
    return SmallVGG11(num_classes, in_channels, widths)


MODEL_FACTORIES: dict[str, Callable[..., nn.Module]] = {"resnet20": resnet20, "resnet56": resnet56, "vgg11": vgg11}
"""Networks that can be rebuilt from a name, as checkpoints do. Extended by :func:`register_model`."""


def register_model(name: str, factory: Callable[..., nn.Module], *, overwrite: bool = False) -> None:
    """Make ``build_model(name, ...)`` call ``factory``.

    Raises:
        ValueError: If the name is taken and ``overwrite`` is not set.
    """
    if name in MODEL_FACTORIES and not overwrite:
        raise ValueError(f"model {name!r} is already registered; choose another name or pass overwrite=True")
    MODEL_FACTORIES[name] = factory


def build_model(name: str, **kwargs: Any) -> nn.Module:
    """Build a registered network with fresh weights.

    Args:
        name: A key of :data:`MODEL_FACTORIES`.
        **kwargs: Passed on to the factory.

    Raises:
        KeyError: If no such network is registered; the message names the nearest.
    """
    if name not in MODEL_FACTORIES:
        raise KeyError(unknown("model", name, sorted(MODEL_FACTORIES), "registered"))
    return MODEL_FACTORIES[name](**kwargs)
