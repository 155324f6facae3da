"""Costs that are quadratic in the kept counts: evaluated for many plans at once, and varied layer by layer.

A layer shares modules with its neighbours only, so of many layers nearly all pairs are apart: such a form is stored by
its entries, and a plan costs as much time as there are pairs of neighbours.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
from scipy import sparse

from prune_gym.cost.limits import FloatArray, IntArray

Pairwise: TypeAlias = "FloatArray | sparse.csr_array"

FEW_LAYERS = 64
"""Layers up to which all pairs are stored: a product of small matrices takes less time than a look at indices."""


@dataclass(frozen=True, eq=False)
class QuadraticCost:
    """A cost ``c + b.k + k.Q.k`` of kept counts ``k``.

    Attributes:
        constant: cost of what no layer touches.
        linear: float64 [L].
        pairwise: float64 [L, L], symmetric; sparse where there are more than :data:`FEW_LAYERS` layers.
    """

    constant: float
    linear: FloatArray
    pairwise: Pairwise

    def __call__(self, kept: IntArray | FloatArray) -> FloatArray:
        """Cost of plans: kept [..., L] -> float64 [...], whole numbers."""
        kept = np.asarray(kept, dtype=np.float64)
        slope = self.times(kept) + self.linear
        if kept.ndim == 1:
            return slope.dot(kept) + self.constant
        return (slope * kept).sum(axis=-1) + self.constant

    def times(self, kept: FloatArray) -> FloatArray:
        """The product ``Q k`` of plans: kept float64 [..., L] -> float64 [..., L]."""
        if isinstance(self.pairwise, np.ndarray):
            return kept @ self.pairwise
        return np.asarray((self.pairwise @ kept.reshape(-1, kept.shape[-1]).T).T.reshape(kept.shape))

    def shared(self, layer: int) -> tuple[IntArray, FloatArray]:
        """Layers that share a module with a layer, and their entries of Q: int64 [N], float64 [N]."""
        starts, columns, entries = self._compressed
        part = slice(starts[layer], starts[layer + 1])
        return columns[part], entries[part]

    def row(self, layer: int) -> FloatArray:
        """A layer's row of Q, float64 [L]."""
        row = np.zeros(len(self.linear))
        others, entries = self.shared(layer)
        row[others] = entries
        return row

    @cached_property
    def _compressed(self) -> tuple[list[int], IntArray, FloatArray]:
        """Rows without their zeros, one behind the other: where each starts, columns and entries."""
        rows = sparse.csr_array(self.pairwise)
        rows.eliminate_zeros()
        return rows.indptr.tolist(), rows.indices.astype(np.int64), rows.data

    @cached_property
    def square(self) -> FloatArray:
        """The diagonal of Q, float64 [L]; not to be modified."""
        return np.asarray(self.pairwise.diagonal())

    @cached_property
    def neighbours(self) -> tuple[IntArray, IntArray, FloatArray]:
        """Pairs of layers that share a module: lower and higher int64 [P], and their entries of Q, float64 [P]."""
        starts, columns, entries = self._compressed
        rows = np.repeat(np.arange(len(self.linear)), np.diff(starts))
        upper = rows < columns
        return rows[upper], columns[upper], entries[upper]

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
        return np.asarray(step * (self.linear + 2.0 * self.times(before) + step * self.square))

    def along(self, kept: IntArray, layer: int, counts: IntArray) -> FloatArray:
        """Cost of one plan with one layer's count varied: kept [L], counts [C] -> float64 [C]."""
        others = np.array(kept, dtype=np.float64)
        others[layer] = 0.0
        slope = self.linear[layer] + 2.0 * (others @ self.row(layer))
        return np.asarray(self(others) + counts * (slope + counts * self.square[layer]))


class FormBuilder:
    """Adds up products of kept extents into one :class:`QuadraticCost`."""

    def __init__(self, units: IntArray) -> None:
        self._units = units.astype(np.float64)
        self._constant = 0.0
        self._linear = np.zeros(len(units))
        self._rows: list[IntArray] = []
        self._columns: list[IntArray] = []
        self._entries: list[FloatArray] = []

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
        outputs, inputs = np.flatnonzero(out_widths), np.flatnonzero(in_widths)
        if len(outputs) == 0 or len(inputs) == 0:
            return
        # Only the symmetric half of Q counts in k.Q.k, and derivatives written 2 Q k need it to be symmetric.
        half = (0.5 * factor * np.outer(out_widths[outputs], in_widths[inputs])).ravel()
        rows, columns = (index.ravel() for index in np.meshgrid(outputs, inputs, indexing="ij"))
        self._rows += [rows, columns]
        self._columns += [columns, rows]
        self._entries += [half, half]

    def form(self) -> QuadraticCost:
        """The sum so far."""
        layers = len(self._units)
        if not self._entries:
            return QuadraticCost(self._constant, self._linear, stored(sparse.csr_array((layers, layers))))
        places = np.concatenate(self._rows), np.concatenate(self._columns)
        entries = sparse.coo_array((np.concatenate(self._entries), places), shape=(layers, layers))
        return QuadraticCost(self._constant, self._linear, stored(entries))


def stored(pairwise: Any) -> Pairwise:
    """A sparse matrix [L, L] as forms hold it: all of it for few layers, else its entries."""
    return np.asarray(pairwise.toarray()) if pairwise.shape[0] <= FEW_LAYERS else pairwise.tocsr()


def weighted_sum(parts: list[tuple[float, QuadraticCost]]) -> QuadraticCost:
    """The sum of forms, each with a factor; at least one."""
    return QuadraticCost(
        sum(factor * form.constant for factor, form in parts),
        np.sum([factor * form.linear for factor, form in parts], axis=0),
        sum((factor * form.pairwise for factor, form in parts[1:]), parts[0][0] * parts[0][1].pairwise),
    )
