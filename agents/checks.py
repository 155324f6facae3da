"""Checks of arguments that several agents take."""

from __future__ import annotations

import numpy as np


def check_batch_size(batch_size: int) -> None:
    """Raise ValueError for a batch of less than one plan."""
    if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
        raise ValueError(f"batch_size must be a whole number of plans, at least 1; got {batch_size!r}")


def positive(name: str, value: float) -> float:
    """The value; ValueError unless it is a finite number above 0."""
    if not (np.isfinite(value) and value > 0):
        raise ValueError(f"{name} must be positive, got {value}")
    return float(value)
