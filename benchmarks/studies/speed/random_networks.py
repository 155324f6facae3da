"""Networks with random weights, for what does not depend on training: structure, equality, speed."""

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
