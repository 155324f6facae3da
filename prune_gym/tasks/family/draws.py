"""Designs of the family's networks, each drawn from its name alone, and the splits they belong to.

A network's name is its kind and its number, such as ``plain-07``, and seeds everything that is drawn of it. Numbers
decide the split; :data:`HELD_OUT` kinds are in the test split only. Networks from number 50 on are *fresh*: no table
has them, so that what was chosen with test networks in view can be tested on others.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from hessian.support.names import unknown

T = TypeVar("T")

SPLITS = ("train", "validation", "test")
"""Splits of the family, by structure."""

KNOWN = ("plain", "residual", "bottleneck", "depthwise", "inverted", "excited")
"""Kinds with networks in every split."""

HELD_OUT = ("dense", "branches")
"""Kinds with networks in the test split only."""

TRAIN, VALIDATION, TEST = 10, 2, 2
"""Networks of a known kind in every split, in the order of their numbers."""

HELD_OUT_NETWORKS = 9
"""Networks of a held-out kind."""

FRESH, FRESH_NUMBERS = "fresh", range(50, 90)
"""The split beside those of the bench, and the numbers of its networks, of every kind."""


@dataclass(frozen=True)
class Design:
    """Everything that was drawn of a network.

    Attributes:
        name: of the network.
        kind: key of :data:`prune_gym.tasks.family.kinds.KINDS`.
        dataset: ``"digits"`` or ``"fashion"``.
        size: height and width of its images.
        activation: key of :data:`prune_gym.tasks.family.blocks.ACTIVATIONS`.
        widths: channels a stage; all but the first halve the extent.
        depths: blocks a stage.
        kernels: extent of the kernels a stage.
        factor: reduction of a bottleneck or gate, expansion of an inverted bottleneck, growth of a dense block.
        pools: whether plain stages begin with a max pooling instead of a stride.
        hidden: units of a hidden linear layer before the head; 0: none.
    """

    name: str
    kind: str
    dataset: str
    size: int
    activation: str
    widths: tuple[int, ...]
    depths: tuple[int, ...]
    kernels: tuple[int, ...]
    factor: int
    pools: bool
    hidden: int

    @property
    def stem_stride(self) -> int:
        """Stride of the first convolution: images of 14 pixels and more are halved at once."""
        return 2 if self.size >= 14 else 1


class Draw:
    """Random choices that stay the same over versions and platforms: the raw stream of a bit generator (NEP 19).

    Args:
        text: seeds the stream.
    """

    def __init__(self, text: str) -> None:
        self._bits = np.random.PCG64(int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big"))

    def one_of(self, options: Sequence[T]) -> T:
        """One of the options, all equally likely."""
        return options[int(self._bits.random_raw()) % len(options)]

    def between(self, low: int, high: int) -> int:
        """A whole number in [low, high]."""
        return self.one_of(range(low, high + 1))


SIZES = (8, 8, 10, 10, 12, 14, 16)
"""Extents of Fashion-MNIST images, as often as they are drawn."""

DEPTHS: dict[str, tuple[int, int]] = {
    "plain": (3, 8),
    "residual": (2, 9),
    "bottleneck": (2, 6),
    "depthwise": (4, 9),
    "inverted": (3, 7),
    "excited": (3, 7),
    "dense": (5, 11),
    "branches": (2, 3),
}
"""Fewest and most blocks of a network."""

WIDTHS: dict[str, tuple[int, int]] = {
    "plain": (8, 16),
    "residual": (8, 14),
    "bottleneck": (12, 28),
    "depthwise": (12, 28),
    "inverted": (8, 12),
    "excited": (8, 16),
    "dense": (8, 16),
    "branches": (18, 32),
}
"""Narrowest and widest first stage."""

FACTORS: dict[str, tuple[int, ...]] = {
    "bottleneck": (2, 3, 4),
    "inverted": (2, 3, 4),
    "excited": (2, 3, 4),
    "dense": (6, 8, 10),
}
"""Values of :attr:`Design.factor`; other kinds have none (1)."""


def draw(name: str, attempt: int = 0) -> Design:
    """Design of a network; what decides its cost is drawn anew in every attempt.

    Raises:
        ValueError: no network of the family has this name.
    """
    kind = kind_of(name)
    fixed, drawn = Draw(f"prune-gym family {name}"), Draw(f"prune-gym family {name} {attempt}")
    dataset = fixed.one_of(("digits", *["fashion"] * 5))
    stages = 2 if kind == "branches" else drawn.between(2, 3)
    blocks = max(drawn.between(*DEPTHS[kind]), stages)
    depths = [1] * stages
    for _ in range(blocks - stages):
        depths[drawn.between(0, stages - 1)] += 1
    widths = [drawn.between(*WIDTHS[kind])]
    for _ in range(stages - 1):
        widths.append(widths[-1] * drawn.one_of((4, 5, 6, 7, 8)) // 4)
    return Design(
        name=name,
        kind=kind,
        dataset=dataset,
        size=8 if dataset == "digits" else fixed.one_of(SIZES),
        activation=fixed.one_of(("relu", "relu", "relu6", "leaky", "silu", "hardswish", "gelu")),
        widths=tuple(widths),
        depths=tuple(depths),
        kernels=tuple(drawn.one_of((3, 3, 3, 5)) for _ in range(stages)),
        factor=drawn.one_of(FACTORS.get(kind, (1,))),
        pools=drawn.one_of((True, False)),
        hidden=drawn.one_of((0, 0, 0, 16, 32)),
    )


def family_names(split: str | None = None) -> tuple[str, ...]:
    """Names of the family's networks, or of those in a split, kinds in turn; the fresh ones when asked for only.

    Raises:
        ValueError: no such split.
    """
    if split == FRESH:
        return _FRESH
    if split is not None and split not in SPLITS:
        raise ValueError(unknown("split", split, SPLITS))
    return tuple(name for name in _NAMES if split in (None, split_of(name)))


def kind_of(name: str) -> str:
    """Kind of a network.

    Raises:
        ValueError: no network of the family has this name.
    """
    if name not in _NAMES and name not in _FRESH:
        raise ValueError(unknown("network of the family", name, _NAMES))
    return name.rpartition("-")[0]


def split_of(name: str) -> str:
    """Split of a network.

    Raises:
        ValueError: no network of the family has this name.
    """
    kind, number = kind_of(name), int(name.rpartition("-")[2])
    if number in FRESH_NUMBERS:
        return FRESH
    if kind in HELD_OUT:
        return "test"
    return SPLITS[(number >= TRAIN) + (number >= TRAIN + VALIDATION)]


_NAMES = tuple(
    sorted(
        (
            f"{kind}-{number:02}"
            for kinds, count in ((KNOWN, TRAIN + VALIDATION + TEST), (HELD_OUT, HELD_OUT_NETWORKS))
            for kind in kinds
            for number in range(count)
        ),
        key=lambda name: name.rpartition("-")[2],
    )
)
_FRESH = tuple(f"{kind}-{number}" for number in FRESH_NUMBERS for kind in (*KNOWN, *HELD_OUT))
