"""Latency as a cost that a target limits: the measured table decides, a quadratic form close to it guides searches.

Between two sizes that were measured a layer's time is bilinear in its outputs and inputs, so over the whole table
``a + b * outputs + c * inputs + d * outputs * inputs`` with non-negative coefficients is close to it. The knapsack
prices and exchanges units by that form, and repairs what it finds by the table.
"""

from __future__ import annotations

from functools import cached_property

import numpy as np
from scipy.optimize import nnls

from prune_gym.cost.latency import LatencyTable, LayerTimes
from prune_gym.cost.limits import FloatArray, IntArray
from prune_gym.cost.planwise import PlanwiseCost
from prune_gym.cost.quadratic import FormBuilder, QuadraticCost

NANOSECONDS = 1e6
"""In a millisecond; latencies are counted in nanoseconds, so that they are large numbers as FLOPs are."""


class LatencyCost(PlanwiseCost):
    """Nanoseconds of a batch, from a measured table.

    Args:
        table: the measurements.
    """

    quantity = "latency"
    label = "latency"

    def __init__(self, table: LatencyTable) -> None:
        self.table = table
        self.groups, self.units = table.cost.groups, table.cost.units
        self._dense = float(table(self.units)) * NANOSECONDS

    @property
    def dense(self) -> float:
        """Nanoseconds of the dense network."""
        return self._dense

    @cached_property
    def form(self) -> QuadraticCost:
        """A quadratic form close to the table, non-decreasing in every layer's count."""
        builder = FormBuilder(self.units)
        for name, times in self.table.layers.items():
            self.table.cost.module_forms(name, builder, _fit(times).tolist())
        shares = np.full(len(self.units), self.table.rest * NANOSECONDS / self.units.sum())
        builder.add(1.0, self.table.rest * NANOSECONDS, shares)
        return builder.form()

    def of(self, kept: IntArray) -> FloatArray:
        """Nanoseconds of plans: kept int [..., L] -> float64 [...]."""
        return self.table(kept) * NANOSECONDS


def _fit(times: LayerTimes) -> FloatArray:
    """Coefficients a, b, c, d >= 0, in nanoseconds, least squares relative to the times."""
    outputs, inputs = (grid.ravel() for grid in np.meshgrid(times.outputs, times.inputs, indexing="ij"))
    values = times.milliseconds.ravel() * NANOSECONDS
    terms = np.stack([np.ones_like(outputs), outputs, inputs, outputs * inputs], axis=1)
    weights = 1.0 / np.maximum(values, 1.0)
    scale = np.maximum(terms.max(axis=0), 1.0)
    coefficients, _ = nnls(terms / scale * weights[:, None], values * weights)
    return np.asarray(coefficients / scale)
