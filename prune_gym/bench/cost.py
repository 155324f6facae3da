"""FLOPs and parameters of a network of the bench, from the forms in its file: no network is needed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from prune_gym.cost.budgeted import FormCost
from prune_gym.cost.limits import FloatArray, IntArray
from prune_gym.cost.quadratic import QuadraticCost


@dataclass(frozen=True)
class BenchLayer:
    """A prunable layer as costs and limits know it: one channel a unit.

    Attributes:
        name: the layer's.
        num_units: units it has.
    """

    name: str
    num_units: int

    @property
    def size(self) -> int:
        """Channels."""
        return self.num_units


class BenchCost(FormCost):
    """FLOPs and parameters of kept units; as a cost that a target limits, the FLOPs.

    It answers what :class:`prune_gym.cost.model.CostModel` answers without a network.

    Args:
        layer_names: names of the layers.
        units: int64 [L], their units.
        flops_form: the FLOPs.
        params_form: the parameters.
    """

    def __init__(
        self, layer_names: Sequence[str], units: IntArray, flops_form: QuadraticCost, params_form: QuadraticCost
    ) -> None:
        layers: Any = tuple(BenchLayer(name, int(count)) for name, count in zip(layer_names, units, strict=True))
        super().__init__("flops", "FLOPs", layers, units, flops_form)
        self.flops_form, self.params_form = flops_form, params_form
        self.dense_flops, self.dense_params = int(flops_form(units)), int(params_form(units))

    def flops(self, kept: IntArray) -> IntArray:
        """FLOPs of plans for one input: kept int [..., L] -> int64 [...]."""
        return self.flops_form(kept).astype(np.int64)

    def params(self, kept: IntArray) -> IntArray:
        """Parameters of plans: kept int [..., L] -> int64 [...]."""
        return self.params_form(kept).astype(np.int64)

    @cached_property
    def params_cost(self) -> FormCost:
        """The parameters, as a cost that a target limits."""
        return FormCost("params", "parameter", self.groups, self.units, self.params_form)


def packed(form: QuadraticCost) -> FloatArray:
    """A form as a flat array: constant, linear [L], pairwise [L * L]."""
    return np.concatenate([[form.constant], form.linear, form.pairwise.ravel()])


def unpacked(flat: FloatArray, layers: int) -> QuadraticCost:
    """A form back from :func:`packed`."""
    return QuadraticCost(float(flat[0]), flat[1 : 1 + layers].copy(), flat[1 + layers :].reshape(layers, layers).copy())
