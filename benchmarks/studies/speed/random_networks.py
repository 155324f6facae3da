"""Networks with random weights to time: torchvision's, and ones of any number of layers and any width."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def random_network(name: str, seed: int = 0) -> nn.Module:
    """A torchvision network with random weights, in evaluation mode."""
    import torchvision

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        options = {"init_weights": False} if name == "googlenet" else {}
        return enliven(torchvision.models.get_model(name, weights=None, **options), seed)


def enliven(model: nn.Module, seed: int = 0) -> nn.Module:
    """Random BatchNorm parameters and statistics, so that none is the identity; in evaluation mode.

    Args:
        model: changed in place.
        seed: of the random numbers.
    """
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5, generator=generator)
            nn.init.normal_(module.bias, 0.0, 0.1, generator=generator)
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.normal_(0.0, 0.1, generator=generator)
            module.running_var.uniform_(0.5, 1.5, generator=generator)
    return model.eval()


def random_images(count: int, size: int, classes: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Noise and labels: images [count, 3, size, size] and labels [count]."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(count, 3, size, size, generator=generator)
    return images, torch.randint(0, classes, (count,), generator=generator)


class PlainNetwork(nn.Sequential):
    """Convolutions one behind the other, near the identity so that signals and gradients survive hundreds of them."""

    def __init__(self, layers: int, width: int) -> None:
        before, modules = 3, list[nn.Module]()
        for index in range(layers):
            convolution = nn.Conv2d(before, width, 3, stride=2 if index == layers // 2 else 1, padding=1, bias=False)
            modules += [_near_identity(convolution), nn.BatchNorm2d(width), nn.ReLU()]
            before = width
        super().__init__(*modules, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 10))


class ResidualNetwork(nn.Module):
    """Residual blocks of two convolutions: one layer a block, and one that all of them share."""

    def __init__(self, layers: int, width: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU())
        self.blocks = nn.ModuleList(_Block(width) for _ in range(layers - 1))
        self.head = nn.Linear(width, 10)

    def forward(self, images: Tensor) -> Tensor:
        """Images [N, 3, H, W] to logits [N, 10]."""
        x = self.stem(images)
        for block in self.blocks:
            x = block(x)
        return self.head(x.mean(dim=(2, 3)))


class _Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU())
        self.second = nn.Sequential(nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width))

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x + 0.1 * self.second(self.first(x)))


KINDS = {"plain": PlainNetwork, "residual": ResidualNetwork}
"""Kinds of networks by their blocks; both have as many prunable layers as asked for."""


def deep_network(kind: str, layers: int, width: int, images: Tensor) -> nn.Module:
    """A network in evaluation mode, its batch norms set to what they see on some images.

    Args:
        kind: a name in :data:`KINDS`.
        layers: prunable layers.
        width: channels of each.
        images: [N, 3, H, W].
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = KINDS[kind](layers, width)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # the average of what is seen, and that is one batch
    with torch.no_grad():
        model.train()(images)
    return model.eval()


def _near_identity(convolution: nn.Conv2d) -> nn.Conv2d:
    noise = torch.randn_like(convolution.weight) * (0.3 / (9 * convolution.in_channels) ** 0.5)
    nn.init.dirac_(convolution.weight)
    with torch.no_grad():
        convolution.weight += noise
    return convolution
