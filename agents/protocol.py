"""What an agent may ask of a pruning environment beyond the Gymnasium interface.

An environment that can say where an action leads, without measuring it, can be *imagined*: R-SPAR then trains on moves scored by its
reward model. Everything is asked of ``env.unwrapped``; whether it can answer is decided by
``isinstance(env.unwrapped, PlannableEnv)``, so any environment with these attributes qualifies.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np


class Costs(Protocol):
    """What plans cost."""

    def reduction(self, kept: np.ndarray) -> np.ndarray:
        """FLOPs reductions [...] (fractions) of the plans `kept` [..., L]."""
        ...


class Problem(Protocol):
    """What is known of a pruning task without measuring a plan."""

    @property
    def log_curves(self) -> Sequence[np.ndarray]:
        """Per layer, [num_units]: entry k is the log predicted loss increase of removing k units. Finite."""
        ...

    @property
    def cost(self) -> Costs:
        """The task's costs."""
        ...


@runtime_checkable
class PlannableEnv(Protocol):
    """A pruning environment whose moves can be imagined."""

    @property
    def problem(self) -> Problem:
        """The task being pruned."""
        ...

    def decode(self, actions: np.ndarray, kept: np.ndarray) -> np.ndarray:
        """Plans [..., L] that `actions` [..., L] would lead to from the plan `kept` [L]. Measures nothing."""
        ...

    def score_of(self, evaluations: np.ndarray, reductions: np.ndarray) -> np.ndarray:
        """Scores [...] of plans with these soft accuracies and FLOPs reductions, under the current penalty."""
        ...

