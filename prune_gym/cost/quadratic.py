"""Costs that are quadratic in the kept counts: evaluated for many plans at once, and varied layer by layer."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from prune_gym.cost.limits import FloatArray, IntArray


@dataclass(frozen=True, eq=False)
class QuadraticCost:
    """A cost ``c + b.k + k.Q.k`` of kept counts ``k``.

    Attributes:
        constant: cost of what no layer touches.
        linear: float64 [L].
        pairwise: float64 [L, L], symmetric.
    """

    constant: float
    linear: FloatArray
    pairwise: FloatArray

    def __call__(self, kept: IntArray | FloatArray) -> FloatArray:
        """Cost of plans: kept [..., L] -> float64 [...], whole numbers."""
        kept = np.asarray(kept, dtype=np.float64)
        slope = kept @ self.pairwise + self.linear
        if kept.ndim == 1:
            return slope.dot(kept) + self.constant
        return (slope * kept).sum(axis=-1) + self.constant

    def change(self, kept: IntArray, other: IntArray) -> FloatArray:
        """Difference in cost from changing one layer at a time.

        Args:
            kept: int [..., L], the plans.
            other: int [..., L], the counts every layer would change to, alone.

        Returns:
            float64 [..., L], cost after minus before, layer by layer.
        """
        before = np.asarray(kept, dtype=np.float64)
        step = other - before
        # A step s of one layer l changes the cost by s (b + 2 Q k)_l + s^2 Q_ll, exact in whole numbers.
        return step * (self.linear + 2.0 * (before @ self.pairwise) + step * self.pairwise.diagonal())

    def along(self, kept: IntArray, layer: int, counts: IntArray) -> FloatArray:
        """Cost of one plan with one layer's count varied: kept [L], counts [C] -> float64 [C]."""
        others = np.array(kept, dtype=np.float64)
        others[layer] = 0.0
        slope = self.linear[layer] + 2.0 * (others @ self.pairwise[layer])
        return self(others) + counts * (slope + counts * self.pairwise[layer, layer])


class FormBuilder:
    """Adds up products of kept extents into one :class:`QuadraticCost`."""

    def __init__(self, units: IntArray) -> None:
        self._units = units.astype(np.float64)
        self._constant = 0.0
        self._linear = np.zeros(len(units))
        self._pairwise = np.zeros((len(units), len(units)))

    def add(
        self,
        factor: float,
        out_extent: float,
        out_widths: FloatArray,
        in_extent: float = 1.0,
        in_widths: FloatArray | None = None,
    ) -> None:
        """Add ``factor * kept outputs * kept inputs``, each an extent of which every unit owns ``widths``."""
        in_widths = np.zeros_like(out_widths) if in_widths is None else in_widths
        # What is left of an extent, extent - w.(units - k), written as a constant plus w.k.
        out_fixed = out_extent - out_widths @ self._units
        in_fixed = in_extent - in_widths @ self._units
        self._constant += float(factor * out_fixed * in_fixed)
        self._linear += factor * (out_fixed * in_widths + in_fixed * out_widths)
        # Only the symmetric half of Q counts in k.Q.k, and derivatives written 2 Q k need it to be symmetric.
        product = np.outer(out_widths, in_widths)
        self._pairwise += factor * (product + product.T) / 2.0

    def form(self) -> QuadraticCost:
        """The sum so far."""
        return QuadraticCost(self._constant, self._linear, self._pairwise)
