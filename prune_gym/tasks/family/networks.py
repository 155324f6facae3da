"""The family's networks, untrained: the first design drawn whose cost is small, but not too small."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import nn

from prune_gym.tasks.family.draws import Design, draw
from prune_gym.tasks.family.kinds import build

FLOPS = (200_000, 600_000)
"""Fewest and most FLOPs (2 x MACs) of a network for one image."""


@cache
def design_of(name: str) -> Design:
    """Design of a network.

    Raises:
        ValueError: no network of the family has this name.
    """
    attempt = 0
    while not FLOPS[0] <= _flops(design := draw(name, attempt)) <= FLOPS[1]:
        attempt += 1
    return design


def family_network(name: str, seed: int = 0) -> nn.Sequential:
    """An untrained network of the family, in evaluation mode; images [N, 1, size, size] to logits [N, 10].

    Args:
        name: of :func:`prune_gym.tasks.family.draws.family_names`.
        seed: of the initial weights.

    Raises:
        ValueError: no network of the family has this name.
    """
    design = design_of(name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build(design).eval()


def _flops(design: Design) -> int:
    """FLOPs (2 x MACs) of convolutions and linear maps for one image, counted in one pass."""
    total = 0

    def count(module: Any, inputs: Any, output: torch.Tensor) -> None:
        nonlocal total
        total += 2 * output.numel() * module.weight[0].numel()

    with torch.random.fork_rng(devices=[]), torch.no_grad():
        model = build(design).eval()
        for module in model.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                module.register_forward_hook(count)
        model(torch.zeros(1, 1, design.size, design.size))
    return total
