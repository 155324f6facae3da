"""Random networks: a stem, a few blocks of any kinds and a head, small enough to judge thousands of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.studies.any_network import blocks, branches
from benchmarks.studies.any_network.parts import Apply, Draw, Maker, SeededDraw, activation, conv, norm

KINDS: dict[str, Maker] = {**blocks.KINDS, **branches.KINDS}
"""Name of a block kind -> what makes one."""
SIZE = 8
"""Pixels a side of the images."""
CLASSES = 5
AUXILIARY = "auxiliary in training"
"""The head that has other modules in training mode."""


@dataclass(frozen=True)
class Composition:
    """A random network.

    Attributes:
        model: the network; its blocks are ``model.blocks``.
        example: one input: a tensor, a tuple of arguments or a dictionary of keyword arguments, batches of 2.
        kinds: of its blocks, in order.
        head: kind of its head.
        entry: kind of its input.
    """

    model: nn.Module
    example: Any
    kinds: tuple[str, ...]
    head: str
    entry: str


class Composed(nn.Module):
    """A stem, blocks and a head; a second image goes through the same stem and is joined to the first."""

    def __init__(self, stem: nn.Module, body: list[nn.Module], head: nn.Module, entry: str) -> None:
        super().__init__()
        self.stem, self.blocks, self.head, self.entry = stem, nn.ModuleList(body), head, entry

    def forward(self, image: Tensor, other: Tensor | None = None) -> Any:
        """Run on images [N, 3, SIZE, SIZE]."""
        x = self.stem(image)
        if other is not None:
            x = torch.cat([x, self.stem(other)], dim=1)
        for block in self.blocks:
            x = block(x)
        return self.head(x)


def compose(draw: Draw, kinds: tuple[str, ...] = tuple(KINDS), most: int = 3) -> Composition:
    """Make a random network.

    Args:
        draw: where choices come from; weights come from PyTorch's generator.
        kinds: block kinds to choose from.
        most: blocks of a network, at most.
    """
    width = draw.choose((8, 12, 16))
    entry = draw.choose(("tensor", "tensor", "tensor", "tuple", "keywords"))
    stem = nn.Sequential(conv(draw, 3, width), norm(draw, width), activation(draw, width))
    if entry != "tensor":
        width *= 2
    chosen, body = [], []
    for _ in range(draw.choose(range(1, most + 1))):
        kind = draw.choose(kinds)
        block, width = KINDS[kind](draw, width)
        chosen.append(kind)
        body.append(block)
    head = draw.choose(tuple(HEADS))
    model = Composed(stem, body, HEADS[head](width), entry)
    return Composition(model, _example(entry), tuple(chosen), head, entry)


def seeded(seed: int, kinds: tuple[str, ...] = tuple(KINDS)) -> Composition:
    """The random network of a seed, weights and all."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return compose(SeededDraw(seed), kinds)


def _example(entry: str) -> Any:
    images = [torch.randn(2, 3, SIZE, SIZE) for _ in range(2)]
    return {"tensor": images[0], "tuple": tuple(images), "keywords": {"image": images[0], "other": images[1]}}[entry]


class _Tuple(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.classes, self.boxes = nn.Linear(width, CLASSES), nn.Conv2d(width, 4, 3, padding=1)

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        return self.classes(x.mean((2, 3))), [self.boxes(x), self.boxes(F.max_pool2d(x, 2))]


class _Dictionary(nn.Module):
    def __init__(self, width: int, exposed: bool) -> None:
        super().__init__()
        self.last, self.out, self.exposed = nn.Conv2d(width, 8, 3, padding=1), nn.Conv2d(8, CLASSES, 1), exposed

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        y = torch.relu(self.last(x))
        found = {
            "out": F.interpolate(self.out(y), scale_factor=2, mode="bilinear"),
            "score": self.out(y).mean((1, 2, 3)),
        }
        return {**found, "features": x} if self.exposed else found


class _Auxiliary(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.body, self.out, self.side = nn.Conv2d(width, 8, 3), nn.Linear(8, CLASSES), nn.Linear(width, CLASSES)

    def forward(self, x: Tensor) -> Any:
        out = self.out(torch.relu(self.body(x)).mean((2, 3)))
        return (out, self.side(x.mean((2, 3)))) if self.training else out


class _FixedView(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.size = width * SIZE * SIZE
        self.hidden, self.out = nn.Linear(self.size, 8), nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.relu(self.hidden(x.contiguous().view(-1, self.size))))


def _pooled(width: int) -> nn.Module:
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.3), nn.Linear(width, CLASSES))


def _flattened(width: int) -> nn.Module:
    layers = nn.Linear(width * SIZE * SIZE, 8), nn.ReLU(), nn.Dropout(), nn.Linear(8, CLASSES)
    return nn.Sequential(nn.Flatten(), *layers)


def _permuted(width: int) -> nn.Module:
    return nn.Sequential(Apply(lambda x: x.permute(0, 2, 3, 1).flatten(1)), nn.Linear(width * SIZE * SIZE, CLASSES))


def _convolutional(width: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(width, CLASSES, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())


def _statistics(width: int) -> nn.Module:
    pools = Apply(lambda x: torch.cat([x.mean((2, 3)), x.amax((2, 3))], dim=1))
    return nn.Sequential(pools, nn.BatchNorm1d(2 * width), nn.Linear(2 * width, CLASSES))


def _embedding(width: int) -> nn.Module:
    layers = nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4 * width, 8), nn.LayerNorm(8), nn.Linear(8, CLASSES)
    return nn.Sequential(*layers, Apply(lambda x: F.normalize(x, dim=1)))


HEADS: dict[str, Callable[[int], nn.Module]] = {
    "pooled": _pooled,
    "flattened": _flattened,
    "flattened after permute": _permuted,
    "fixed view": _FixedView,
    "convolutional": _convolutional,
    "tuple": _Tuple,
    "dictionary": lambda width: _Dictionary(width, exposed=False),
    "features exposed": lambda width: _Dictionary(width, exposed=True),
    AUXILIARY: _Auxiliary,
    "mean and maximum": _statistics,
    "embedding": _embedding,
}
