"""What an agent sees: the layout of the flat observation, and the per-layer features in it.

Features say what is known of a layer before anything is measured: predicted loss at several ratios, the size and
spread of its Kronecker factors, how much of a removal can be repaired, its share of the cost. What spans orders of
magnitude is taken on a log scale, and all are standardised *across* the layers of the network, so that their order of
magnitude carries over from one network to another.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from prune_gym.cost import CostModel
from prune_gym.limits import FloatArray, IntArray

if TYPE_CHECKING:
    from torch import Tensor

    from hessian import HOBSSensitivityAnalyzer
    from hessian.channels import ChannelGroup

BOUND = 10.0
"""Observations are clipped to [-BOUND, BOUND]."""

GLOBALS = ("accuracy_drop", "flops_reduction", "target_flops_reduction", "lambda", "progress")
"""Names of the entries behind the layers' blocks."""

FEATURES = (
    "log_price_25",
    "log_price_50",
    "log_price_75",
    "log_unit_price",
    "log_input_trace",
    "log_gradient_trace",
    "input_effective_rank",
    "compensability_50",
    "log_flops_share",
    "log_params_share",
    "log_units",
    "depth",
)
"""Names of a layer's features, in order:

========================  ==========================================================================================
``log_price_25/50/75``    log predicted loss increase of removing 25, 50, 75 % of the units, repaired
``log_unit_price``        log predicted loss increase of the first unit removed
``log_input_trace``       log mean diagonal of A, averaged over the consumers
``log_gradient_trace``    log mean diagonal of G, averaged over the consumers
``input_effective_rank``  participation ratio ``tr(A)^2 / (d |A|^2)``, log, averaged over the consumers
``compensability_50``     1 - (price with repair) / (price without), half the units removed
``log_flops_share``       log share of the network's FLOPs saved by removing half the units
``log_params_share``      the same for parameters
``log_units``             log number of units
``depth``                 position in execution order
========================  ==========================================================================================
"""

_TINY = 1e-30


@dataclass(frozen=True)
class ObservationLayout:
    """Where everything is in the flat observation ``[features L*F | pruning ratios L | 5 globals]``.

    Attributes:
        num_layers: L.
        feature_names: the F features of a layer; the block is layer-major, all features of the first layer first.
    """

    num_layers: int
    feature_names: tuple[str, ...] = FEATURES

    @property
    def feature_dim(self) -> int:
        """F, features a layer."""
        return len(self.feature_names)

    @property
    def size(self) -> int:
        """Length of the observation."""
        return self.num_layers * (self.feature_dim + 1) + len(GLOBALS)

    @property
    def slices(self) -> dict[str, slice]:
        """Slice of every block (``"features"``, ``"ratios"``, ``"globals"``) and of every global by its name."""
        features = self.num_layers * self.feature_dim
        start = features + self.num_layers
        blocks = {"features": slice(0, features), "ratios": slice(features, start), "globals": slice(start, self.size)}
        return blocks | {name: slice(start + i, start + i + 1) for i, name in enumerate(GLOBALS)}

    def features(self, observation: NDArray[np.floating[Any]]) -> NDArray[np.floating[Any]]:
        """The layers' features [..., L, F] of observations [..., size]."""
        block = observation[..., self.slices["features"]]
        return block.reshape(*block.shape[:-1], self.num_layers, self.feature_dim)

    def feature(self, observation: NDArray[np.floating[Any]], name: str) -> NDArray[np.floating[Any]]:
        """One feature of every layer [..., L], by its name.

        Raises:
            KeyError: no such feature; the message lists them.
        """
        if name not in self.feature_names:
            raise KeyError(f"unknown feature {name!r}; there are {', '.join(self.feature_names)}")
        return self.features(observation)[..., self.feature_names.index(name)]


def layer_features(hobs: HOBSSensitivityAnalyzer, cost: CostModel) -> FloatArray:
    """The features of every layer, standardised across layers.

    Args:
        hobs: an analysed network.
        cost: its cost model.

    Returns:
        float64 [L, F], columns as in :data:`FEATURES`, each of mean 0 and variance 1 (or all 0 where the layers do not
        differ), clipped to [-10, 10].
    """
    columns = raw_features(hobs, cost)
    table = np.stack([columns[name] for name in FEATURES], axis=-1)
    spread = table.std(axis=0)
    constant = spread <= 1e-9 * np.maximum(1.0, np.abs(table).max(axis=0))
    standard = (table - table.mean(axis=0)) / np.where(constant, 1.0, spread)
    return np.clip(np.where(constant, 0.0, standard), -BOUND, BOUND)


def raw_features(hobs: HOBSSensitivityAnalyzer, cost: CostModel) -> dict[str, FloatArray]:
    """The features before standardisation: name -> float64 [L]."""
    groups = hobs.groups
    curves = [_positive(hobs.curves[group.name]) for group in groups]
    unrepaired = [_positive(hobs.obd_curves[group.name]) for group in groups]
    statistics = {name: _factor_statistics(factors) for name, factors in hobs.factors.items()}
    input_trace, gradient_trace, rank = np.array([_consumer_mean(group, statistics) for group in groups]).T
    half = [len(curve) // 2 for curve in curves]
    prices = {
        f"log_price_{percent}": np.log([curve[_units(curve, percent)] for curve in curves]) for percent in (25, 50, 75)
    }
    return prices | {
        "log_unit_price": np.log([curve[1] for curve in curves]),
        "log_input_trace": input_trace,
        "log_gradient_trace": gradient_trace,
        "input_effective_rank": rank,
        "compensability_50": np.array(
            [1.0 - min(1.0, obs[k] / obd[k]) for obs, obd, k in zip(curves, unrepaired, half, strict=True)]
        ),
        "log_flops_share": np.log(_half_shares(cost.flops_form.change, cost.units, cost.dense_flops)),
        "log_params_share": np.log(_half_shares(cost.params_form.change, cost.units, cost.dense_params)),
        "log_units": np.log(cost.units.astype(np.float64)),
        "depth": np.arange(len(groups), dtype=np.float64),
    }


def _positive(curve: Tensor) -> FloatArray:
    return np.maximum(curve.double().cpu().numpy(), _TINY)


def _units(curve: Sequence[float] | FloatArray, percent: int) -> int:
    """Units that make up a percentage of a layer, at least one and fewer than all."""
    return min(max(1, round(percent / 100 * len(curve))), len(curve) - 1)


def _half_shares(change: Any, units: IntArray, total: int) -> FloatArray:
    half = np.maximum(units - units // 2, 1)
    return np.maximum(-change(units, half) / total, _TINY)


def _factor_statistics(factors: Any) -> tuple[float, float, float]:
    """Log mean diagonals of A and G, log participation ratio of A (groups of a grouped convolution averaged)."""
    inputs, gradients = factors.A.double(), factors.G.double()
    trace = inputs.diagonal(dim1=-2, dim2=-1).sum(-1)
    frobenius = inputs.square().sum(dim=(-2, -1))
    rank = (trace.square() / (frobenius * inputs.shape[-1]).clamp_min(_TINY)).mean().item()
    gradient = gradients.diagonal(dim1=-2, dim2=-1).mean().item()
    return (
        float(np.log(max(trace.mean().item() / inputs.shape[-1], _TINY))),
        float(np.log(max(gradient, _TINY))),
        float(np.log(max(rank, _TINY))),
    )


def _consumer_mean(group: ChannelGroup, statistics: Mapping[str, tuple[float, float, float]]) -> FloatArray:
    return np.mean([statistics[member.module] for member in group.consumers], axis=0)
