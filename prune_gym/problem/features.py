"""Features of the prunable layers, by name, and the sets of them that observations are made of.

Features say what is known of a layer before anything is measured: predicted loss at several ratios, the size and
spread of its Kronecker factors, how much of a removal can be repaired, its share of the cost. What spans orders of
magnitude is taken on a log scale, and all are standardised *across* the layers of the network, so that their order of
magnitude carries over from one network to another. Three of AMC's features follow the plan of the moment; they are
fractions and stay as they are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from hessian.support.names import unknown
from prune_gym.cost.limits import FloatArray, IntArray

if TYPE_CHECKING:
    from torch import Tensor

    from hessian import HOBSSensitivityAnalyzer
    from hessian.channels.group import ChannelGroup
    from prune_gym.cost.model import CostModel

BOUND = 10.0
"""Observations are clipped to [-BOUND, BOUND]."""

COST_FEATURES = ("log_flops_share", "log_params_share", "log_units", "depth")
"""Features known from the cost model alone: no curvature."""

AMC_FEATURES = (
    "depth",
    "out_channels",
    "in_channels",
    "height",
    "width",
    "stride",
    "kernel",
    "flops",
    "reduced_flops",
    "rest_flops",
    "previous_ratio",
)
"""The eleven of AMC's state (He et al., ECCV 2018) as others reproduce it; a layer is described by its convolution."""

PLAN_FEATURES = ("reduced_flops", "rest_flops", "previous_ratio")
"""Features that follow the plan of the moment."""

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
"""The default set, in order. All features there are:

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
``out_channels``          output channels n of the layer's convolution; ``in_channels`` its input channels c
``height``, ``width``     of its input; ``stride`` and ``kernel`` of the convolution
``flops``                 its FLOPs in the dense network
``reduced_flops``         FLOPs saved by the plan in the layers before, share of all layers' dense FLOPs
``rest_flops``            dense FLOPs of the layers after it, the same share
``previous_ratio``        pruning ratio of the layer before (AMC's last action)
========================  ==========================================================================================
"""

FEATURE_SETS: dict[str, tuple[str, ...]] = {"kfac": FEATURES, "cost": COST_FEATURES, "amc": AMC_FEATURES}
"""Named sets: everything (default), without curvature, and AMC's."""

FEATURE_NAMES = tuple(dict.fromkeys((*FEATURES, *AMC_FEATURES)))
"""Every feature there is."""


@dataclass(frozen=True)
class FeatureSet:
    """The features of an observation.

    Attributes:
        names: their names, in order.
    """

    names: tuple[str, ...] = FEATURES

    @classmethod
    def of(cls, given: str | Sequence[str] | FeatureSet) -> FeatureSet:
        """A set by its name, or of single features.

        Raises:
            ValueError: an unknown name, or a feature twice.
        """
        if isinstance(given, FeatureSet):
            return given
        if isinstance(given, str):
            if given not in FEATURE_SETS:
                raise ValueError(unknown("feature set", given, tuple(FEATURE_SETS)))
            return cls(FEATURE_SETS[given])
        names = tuple(given)
        for name in names:
            if name not in FEATURE_NAMES:
                raise ValueError(unknown("feature", name, FEATURE_NAMES))
        if len(set(names)) != len(names):
            raise ValueError(f"features are named once each; got {', '.join(names)}")
        return cls(names)

    def fixed(self, hobs: HOBSSensitivityAnalyzer, cost: CostModel) -> FloatArray:
        """The features that no plan changes, float64 [L, F]; 0 where one does (see :meth:`of_plans`)."""
        return layer_features(hobs, cost, self.names)

    @property
    def plan_columns(self) -> tuple[tuple[int, str], ...]:
        """Columns that follow the plan, with their names."""
        return tuple((column, name) for column, name in enumerate(self.names) if name in PLAN_FEATURES)

    def of_plans(self, kept: IntArray, cost: Any) -> list[tuple[int, FloatArray]]:
        """Columns that follow the plan: kept int [..., L] -> (column, float64 [..., L]) each."""
        if not self.plan_columns:
            return []
        dense = _root_flops(cost, cost.units)
        saved = dense - _root_flops(cost, kept)
        zero = np.zeros_like(saved[..., :1])
        columns = {
            "reduced_flops": np.concatenate([zero, saved.cumsum(axis=-1)[..., :-1]], axis=-1) / dense.sum(),
            "rest_flops": np.broadcast_to((dense.sum() - dense.cumsum()) / dense.sum(), saved.shape),
            "previous_ratio": np.concatenate([zero, (1.0 - kept / cost.units)[..., :-1]], axis=-1),
        }
        return [(column, columns[name]) for column, name in self.plan_columns]


_TINY = 1e-30


def layer_features(hobs: HOBSSensitivityAnalyzer, cost: CostModel, names: Sequence[str] = FEATURES) -> FloatArray:
    """The features of every layer, standardised across layers.

    Args:
        hobs: an analysed network.
        cost: its cost model.
        names: the features.

    Returns:
        float64 [L, F], columns as in ``names``, each of mean 0 and variance 1 (or all 0 where the layers do not
        differ, and for :data:`PLAN_FEATURES`), clipped to [-10, 10].
    """
    columns = cost_features(cost)
    if set(names) & set(FEATURES) - set(COST_FEATURES):
        columns |= curvature_features(hobs)
    if not set(names) <= set(FEATURES):
        columns |= amc_features(hobs, cost)
    return standardised(np.stack([columns[name] for name in names], axis=-1))


def standardised(table: FloatArray) -> FloatArray:
    """Columns of mean 0 and variance 1 across layers, clipped to [-10, 10]: float64 [L, F] -> [L, F].

    A column in which the layers do not differ is 0.
    """
    spread = table.std(axis=0)
    constant = spread <= 1e-9 * np.maximum(1.0, np.abs(table).max(axis=0))
    standard = (table - table.mean(axis=0)) / np.where(constant, 1.0, spread)
    return np.clip(np.where(constant, 0.0, standard), -BOUND, BOUND)


def raw_features(hobs: HOBSSensitivityAnalyzer, cost: CostModel) -> dict[str, FloatArray]:
    """The default features before standardisation: name -> float64 [L]."""
    return curvature_features(hobs) | cost_features(cost)


def cost_features(cost: CostModel) -> dict[str, FloatArray]:
    """Features that need no curvature (:data:`COST_FEATURES`), before standardisation: name -> float64 [L]."""
    return {
        "log_flops_share": np.log(_half_shares(cost.flops_form.change, cost.units, cost.dense_flops)),
        "log_params_share": np.log(_half_shares(cost.params_form.change, cost.units, cost.dense_params)),
        "log_units": np.log(cost.units.astype(np.float64)),
        "depth": np.arange(len(cost.units), dtype=np.float64),
    }


def curvature_features(hobs: HOBSSensitivityAnalyzer) -> dict[str, FloatArray]:
    """Features from prices and Kronecker factors, before standardisation: name -> float64 [L].

    Raises:
        ValueError: the analysis has no factors, as one by magnitude.
    """
    if not hobs.factors:
        raise ValueError("these features need curvature, and none was measured; choose features='cost'")
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
    from hessian.support.layout import in_float64  # here, because the bench names features without PyTorch

    inputs, gradients = in_float64(factors.A), in_float64(factors.G)
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


def amc_features(hobs: HOBSSensitivityAnalyzer, cost: CostModel) -> dict[str, FloatArray]:
    """AMC's features before standardisation: name -> float64 [L]; those that follow the plan are 0."""
    modules = dict(hobs.model.named_modules())
    rows = []
    for group in cost.groups:
        module: Any = modules[group.root]
        shape = cost.input_shapes[group.root]
        outputs, inputs = cost.module_sizes(group.root, cost.units)
        stride = getattr(module, "stride", (1,))[0]
        kernel = getattr(module, "kernel_size", (1,))[0]
        height, width = (1, *shape[1:])[-2:] if len(shape) > 1 else (1, 1)
        rows.append([outputs, inputs, height, width, stride, kernel])
    names = ("out_channels", "in_channels", "height", "width", "stride", "kernel")
    columns = dict(zip(names, np.array(rows, dtype=np.float64).T, strict=True))
    zeros = np.zeros(len(cost.groups))
    fixed = {"depth": np.arange(len(cost.groups), dtype=np.float64), "flops": _root_flops(cost, cost.units)}
    return columns | fixed | dict.fromkeys(PLAN_FEATURES, zeros)


def _root_flops(cost: CostModel, kept: IntArray) -> FloatArray:
    """FLOPs of the convolutions the layers are named after: kept int [..., L] -> float64 [..., L]."""
    return np.stack([cost.module_flops(group.root, kept) for group in cost.groups], axis=-1)
