"""What is known of a task without building it: its size, and whether its data and weights are at hand."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class TaskSize:
    """How large a task's dense network is.

    Attributes:
        layers: Prunable layers.
        channels: Their channels.
        flops: FLOPs of the convolutions and linear layers for one input.
        parameters: All of its parameters.
    """

    layers: int
    channels: int
    flops: int
    parameters: int


@dataclass(frozen=True)
class TaskStatus:
    """Whether a task can be built on this machine.

    Attributes:
        dense_accuracy: Top-1 of the dense network on the test split, a fraction in [0, 1]; None if not known here.
        weights: ``"shipped"``, ``"cached"``, ``"missing"``, ...
        data: ``"shipped"``, ``"found"``, ``"missing"``, ...
        to_do: How to get what is missing, one line each.
    """

    dense_accuracy: float | None = None
    weights: str = "the factory's"
    data: str = "the factory's"
    to_do: tuple[str, ...] = ()
