"""Damages of a layer: its predicted loss seen in several ways, each rising with what is removed.

Summed predicted losses rank plans badly once cuts are deep: true damage levels off where a prediction goes on growing,
and how early differs from layer to layer. A layer's share of the lost log-odds is therefore taken for a sum of these
functions with weights of its own, all at least 0. What is said of a plan is then additive over layers, so the best plan
by it is found by a knapsack (:mod:`prune_gym.allocation.knapsack`).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

DAMAGES = ("early", "middle", "late", "root", "loss", "ratio", "narrowing")
"""Functions of the units removed, 0 where none is: ``log(1 + x / s)`` of the predicted loss x in units of the median
layer's at half its units, for s of 0.1, 1 and 10; its root; itself, up to 50; the pruning ratio; and minus the
logarithm of the share that stays."""

_LARGEST = 50.0


def damage_tables(log_curves: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Damages of every layer by units removed.

    Args:
        log_curves: log predicted losses [units] a layer, by units removed.

    Returns:
        float64 [units, len(DAMAGES)] a layer, non-decreasing along the first axis.
    """
    unit = np.median([curve[len(curve) // 2] for curve in log_curves])
    return [_table(np.exp(curve - unit), len(curve)) for curve in log_curves]


def _table(losses: np.ndarray, units: int) -> np.ndarray:
    x = np.maximum.accumulate(losses - losses[0])
    ratio = np.arange(units) / units
    columns = (
        np.log1p(x / 0.1),
        np.log1p(x),
        3.0 * np.log1p(x / 10.0),
        np.sqrt(x),
        np.minimum(x, _LARGEST) / 5.0,
        ratio,
        -np.log1p(-ratio) / 2.0,
    )
    return np.stack(columns, axis=-1)
