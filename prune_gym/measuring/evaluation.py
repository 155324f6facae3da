"""Scores of a plan, as plain numbers; nothing heavy is imported for them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Metric = Literal["soft_accuracy", "accuracy"]
"""Number read off a measured plan: the mean probability of the true class, or top-1 accuracy."""

METRICS = ("accuracy", "soft_accuracy", "loss")
"""Fields of an :class:`Evaluation`, in order: the columns of arrays of scores."""


@dataclass(frozen=True)
class Evaluation:
    """Scores of a plan on the reward split.

    Attributes:
        accuracy: top-1, fraction in [0, 1]; of tasks with a metric, its value (agreement included).
        soft_accuracy: mean probability of the true class, in [0, 1]; of agreement, how much of the dense network's
            probabilities is shared; of other metrics, their value.
        loss: mean cross-entropy (nats); of agreement, the divergence from the dense network's probabilities (nats) or
            the share of its outputs' variance that is missed; of other metrics, 1 - value.
    """

    accuracy: float
    soft_accuracy: float
    loss: float
