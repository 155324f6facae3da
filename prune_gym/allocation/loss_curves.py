"""Predicted losses of plans: the curves of their layers, looked up and summed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from prune_gym.cost.limits import FloatArray, IntArray

if TYPE_CHECKING:
    from hessian import HOBSSensitivityAnalyzer


class LossCurves:
    """Predicted losses of plans, nats.

    Args:
        curves: a float64 array [num_units] a layer: predicted loss increase after removing the first k units.

    Attributes:
        curves: the same, non-decreasing.
        log_curves: their logarithms, finite: losses below a thousandth of the median layer's at 50 % count alike.
    """

    def __init__(self, curves: Sequence[FloatArray]) -> None:
        self.curves = [np.maximum.accumulate(curve) for curve in curves]
        middle = np.median([curve[len(curve) // 2] for curve in self.curves])
        self._floor = max(1e-3 * float(middle), 1e-12)
        self.log_curves = [np.log(curve + self._floor) for curve in self.curves]
        # One table for all layers: the entry at offset + kept is the loss of a layer that keeps so many units.
        self._table = np.concatenate([np.append(np.nan, curve[::-1]) for curve in self.curves])
        self._offsets = np.cumsum([0, *(len(curve) + 1 for curve in self.curves[:-1])])

    @classmethod
    def of_analysis(cls, hobs: HOBSSensitivityAnalyzer) -> LossCurves:
        """The curves of a finished analysis, layers in its order."""
        return cls([hobs.curves[group.name].double().cpu().numpy() for group in hobs.groups])

    def of_layers(self, kept: IntArray) -> FloatArray:
        """Predicted loss increase of every layer, nats: kept int [..., L] -> float64 [..., L]."""
        return self._table[self._offsets + kept]

    def of_plans(self, kept: IntArray) -> FloatArray:
        """Predicted loss increase of plans, nats, summed over layers: kept int [..., L] -> float64 [...]."""
        return self.of_layers(kept).sum(axis=-1)

    def log_of_plans(self, kept: IntArray) -> FloatArray:
        """Finite logarithm of :meth:`of_plans`, float64 [...]."""
        return np.log(self.of_plans(kept) + self._floor)
