"""A network as models of many networks see it: one row of numbers a layer, and predicted losses of plans.

Names, kinds and channel indices are left out, so that a network never seen looks like those that were. Everything is
known before a plan is measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from prune_gym.problem.features import FEATURES, FeatureSet

LAYER_INPUTS = (
    *FEATURES,
    "log_loss_50",
    "log_loss_50_share",
    "log_loss_25_to_50",
    "log_loss_50_to_75",
    "log_loss_50_to_90",
    "log_units",
    "log_flops_share",
    "log_params_share",
    "position",
    "log_layers",
    "dense_log_odds",
)
"""Inputs of a layer that no plan changes: the default features, standardised within the network, and how its curve, its
costs and the network compare with those of other networks."""

_TINY = 1e-6
_EDGE = 0.02


class NetworkProblem(Protocol):
    """Problem as it is seen here: a :class:`prune_gym.PruningProblem`, or its sibling made of a table."""

    cost: Any

    @property
    def log_curves(self) -> Sequence[np.ndarray]:
        """Per layer, [num_units]: entry k is the log predicted loss increase of removing k units. Finite."""
        ...

    @property
    def dense(self) -> Any:
        """Scores of the unpruned network."""
        ...

    def features_of(self, features: FeatureSet) -> np.ndarray:
        """Standardised features [L, F]."""
        ...


class NetworkView:
    """Numbers of one network and of plans for it.

    Args:
        problem: the network's task, loaded.

    Attributes:
        units: int64 [L].
        layers: float64 [L, len(LAYER_INPUTS)].
        log_curves: log predicted losses by units removed.

    Raises:
        TypeError: the problem does not say what is needed.
    """

    def __init__(self, problem: NetworkProblem) -> None:
        try:
            self._flops, self._params = problem.cost.flops_form, problem.cost.params_form
            features, dense = problem.features_of(FeatureSet()), float(problem.dense.soft_accuracy)
        except AttributeError as error:
            raise TypeError(f"{type(problem).__name__} does not describe its network ({error})") from None
        self.units = np.asarray(problem.cost.units, dtype=np.int64)
        self.log_curves = [np.asarray(curve, dtype=np.float64) for curve in problem.log_curves]
        self._dense_flops, self._dense_params = float(self._flops(self.units)), float(self._params(self.units))
        self.layers = self._layer_inputs(features, dense)

    @property
    def num_layers(self) -> int:
        """L."""
        return len(self.units)

    def _layer_inputs(self, features: np.ndarray, dense: float) -> np.ndarray:
        loss = {percent: np.array([_at(curve, percent) for curve in self.log_curves]) for percent in (25, 50, 75, 90)}
        half = np.maximum(self.units // 2, 1)
        each = np.ones(self.num_layers)
        columns = (
            loss[50],
            loss[50] - np.logaddexp.reduce(loss[50]),
            loss[50] - loss[25],
            loss[75] - loss[50],
            loss[90] - loss[50],
            np.log(self.units),
            np.log(np.maximum(-self._flops.change(self.units, half) / self._dense_flops, _TINY)),
            np.log(np.maximum(-self._params.change(self.units, half) / self._dense_params, _TINY)),
            np.linspace(0.0, 1.0, self.num_layers),
            np.log(self.num_layers) * each,
            np.log((dense + _EDGE) / (1.0 - dense + _EDGE)) * each,
        )
        return np.concatenate([features, np.stack(columns, axis=-1)], axis=-1)

    def log_losses(self, kept: np.ndarray) -> np.ndarray:
        """Log predicted losses of every layer: kept int [..., L] -> float64 [..., L]."""
        columns = [curve[len(curve) - kept[..., layer]] for layer, curve in enumerate(self.log_curves)]
        return np.stack(columns, axis=-1)

    def log_rest(self, kept: np.ndarray) -> np.ndarray:
        """Logarithms of the share of FLOPs that plans leave: kept int [..., L] -> float64 [...]."""
        return np.log(self._flops(kept) / self._dense_flops)


def _at(curve: np.ndarray, percent: int) -> float:
    """A curve's value where a percentage of the units is removed, at least one and fewer than all where there are."""
    return float(curve[min(max(1, round(percent / 100 * len(curve))), len(curve) - 1)])
