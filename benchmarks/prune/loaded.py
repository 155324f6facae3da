"""A trained network as ``--model`` and ``--weights`` gave it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from torch import nn


@dataclass(frozen=True)
class Preprocessing:
    """Preprocessing of images into a network's inputs, as its library says.

    Attributes:
        size: height and width of the crop.
        resize: shorter side before the crop.
        mean: of every channel.
        std: of every channel.
    """

    size: int
    resize: int
    mean: tuple[float, ...]
    std: tuple[float, ...]


@dataclass(frozen=True, eq=False)
class LoadedModel:
    """A trained network.

    Attributes:
        model: in evaluation mode.
        name: short, for caches and reports.
        build: builds its untrained structure.
        import_line: Python that imports what builds it, for whoever loads the pruned network.
        factory: Python expression of what builds it.
        preprocessing: as its library says, or None.
        notes: what was done on loading, a sentence each.
    """

    model: nn.Module
    name: str
    build: Callable[[], nn.Module]
    import_line: str
    factory: str
    preprocessing: Preprocessing | None = None
    notes: tuple[str, ...] = field(default=())
