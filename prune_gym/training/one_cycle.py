"""Learning rates that go up and come down again."""

from __future__ import annotations

import math


def one_cycle(step: int, total: int, warmup: float) -> float:
    """Share of the peak learning rate at a step: linear up over the warm-up, then half a cosine down.

    Args:
        step: Counted from 0.
        total: Steps in all; the share is positive before that and 0 from there on.
        warmup: Fraction of the steps spent going up, in [0, 1).

    Returns:
        A number in [0, 1].
    """
    if step >= total:
        return 0.0
    rising = warmup * total
    if step < rising:
        return (step + 1) / (rising + 1)
    return 0.5 * (1 + math.cos(math.pi * (step - rising) / (total - rising)))
