"""A finished analysis: the network, its layers, their curvature, prices, orders and loss curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from torch import Tensor, nn

from hessian.channels.group import ChannelGroup
from hessian.obs.factors import KroneckerFactors
from hessian.refit.closed_form import Compensator
from hessian.refit.standardised import StandardisedLayer


@dataclass(frozen=True, eq=False)
class Analysis:
    """Read-only view of everything a :class:`hessian.hobs.HOBSSensitivityAnalyzer` knows.

    Attributes:
        model: the network; never modified.
        groups: the prunable layers, in execution order.
        norms: consumer -> BatchNorm that absorbs a refitted constant.
        factors: Kronecker factors by consumer.
        prices: layer -> float64 [num_units], price in nats of removing a single unit.
        orders: layer -> LongTensor [num_units], units in the order of removal.
        curves: layer -> float64 [num_units], predicted loss increase (nats) after removing the first k units.
        obd_curves: the same without repair.
        damping: relative damping of the input factors.
        approximation: ``"expand"`` or ``"reduce"``.
        fisher: curvature estimator.
        seed: seed of the curvature sketch.
        left_out: consumers that no refit can reach -> why.
        standardised: consumers that standardise their weight, repaired as such.
    """

    model: nn.Module
    groups: Sequence[ChannelGroup]
    norms: Mapping[str, str]
    factors: Mapping[str, KroneckerFactors]
    prices: Mapping[str, Tensor]
    orders: Mapping[str, Tensor]
    curves: Mapping[str, Tensor]
    obd_curves: Mapping[str, Tensor]
    damping: float
    approximation: str
    fisher: str
    seed: int
    left_out: Mapping[str, str] = field(default_factory=dict)
    standardised: Mapping[str, StandardisedLayer] = field(default_factory=dict)

    @cached_property
    def compensator(self) -> Compensator:
        """Repairs any plan with the measured factors.

        Raises:
            ValueError: there are no factors.
        """
        if not self.factors:
            raise ValueError("no factors yet; call compute_sensitivity(dataloader) or load(path) first")
        factors = {name: factor for name, factor in self.factors.items() if name not in self.left_out}
        return Compensator(self.model, list(self.groups), factors, self.damping, self.norms, self.standardised)

    @property
    def consumers(self) -> list[str]:
        """Names of all modules that consume a prunable layer."""
        return list(dict.fromkeys(member.module for group in self.groups for member in group.consumers))
