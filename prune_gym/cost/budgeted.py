"""A cost that a target limits, whichever it is: FLOPs, parameters, or latency on this machine.

Constraints, projection and knapsack know a cost by what is here: what plans cost, a quadratic form of it (the cost
itself, or close to it), and the nearest plan that costs little enough.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

import numpy as np

from prune_gym.cost.limits import CountLimits, FloatArray, IntArray
from prune_gym.cost.projection import project
from prune_gym.cost.quadratic import QuadraticCost

if TYPE_CHECKING:
    from hessian.channels.group import ChannelGroup


class BudgetedCost(ABC):
    """A cost of plans that never falls as units are kept, and that has a quadratic form.

    Attributes:
        quantity: ``"flops"``, ``"params"`` or ``"latency"``.
        label: what messages call it.
        groups: the prunable layers.
        units: int64 [L], units of every layer.
    """

    quantity = "flops"
    label = "FLOPs"
    groups: tuple[ChannelGroup, ...]
    units: IntArray

    @property
    @abstractmethod
    def form(self) -> QuadraticCost:
        """The cost as a quadratic form of the kept counts, exact unless a subclass says otherwise."""

    @property
    @abstractmethod
    def dense(self) -> float:
        """Cost of the dense network."""

    def of(self, kept: IntArray) -> FloatArray:
        """Cost of plans: kept int [..., L] -> float64 [...]."""
        return self.form(kept)

    def each_changed(self, kept: IntArray, other: IntArray) -> FloatArray:
        """Cost of a plan with one layer at a time changed: kept [L], other [L] -> float64 [L]."""
        return np.asarray(self.form(kept) + self.form.change(kept, other))

    def along(self, kept: IntArray, layer: int, counts: IntArray) -> FloatArray:
        """Cost of one plan with one layer's count varied: kept [L], counts [C] -> float64 [C]."""
        return self.form.along(kept, layer, counts)

    def form_target(self, kept: IntArray, target: float) -> float:
        """The reduction of :attr:`form` that leaves a plan as far from the target as its cost is."""
        return target

    # ------------------------------------------------------------------ what all costs do

    def reduction(self, kept: IntArray) -> FloatArray:
        """Reduction of plans, fraction in [0, 1): kept int [..., L] -> float64 [...]."""
        return np.asarray(1.0 - self.of(kept) / self.dense)

    def limits(self, max_ratio: float = 0.95, *, min_channels: int = 1, round_to: int = 1) -> CountLimits:
        """Legal kept counts under the given bounds (see :meth:`prune_gym.cost.limits.CountLimits.of`)."""
        return CountLimits.of(self.groups, max_ratio, min_channels=min_channels, round_to=round_to)

    def largest_reduction(self, limits: CountLimits) -> float:
        """The reduction of the smallest legal network."""
        return float(self.reduction(limits.minimum))

    def check_target(self, target: float | FloatArray, limits: CountLimits) -> None:
        """Check that a target reduction can be reached.

        Raises:
            ValueError: it is out of reach; the message names the reachable range.
        """
        low, high = float(np.min(target)), float(np.max(target))
        reachable = self.largest_reduction(limits)
        if not (low >= 0.0 and high <= reachable):
            given = f"{low:g}" if low == high else f"[{low:g}, {high:g}]"
            raise ValueError(
                f"target {self.label} reduction {given} is out of reach: this network reaches [0, {reachable:.4f}] "
                "under max_pruning_ratio (and round_to, min_channels); lower the target or raise max_pruning_ratio"
            )

    def project(
        self,
        ratios: FloatArray,
        target: float | FloatArray,
        max_ratio: float = 0.95,
        *,
        limits: CountLimits | None = None,
    ) -> IntArray:
        """Move plans onto a target: one common shift of all ratios in logit space, then whole units.

        The shift is the smallest one whose rounded plan reduces the cost by at least the target. What
        rounding overshoots is given back, unit by unit, to the layer rounded down furthest among those that still fit;
        so no single unit of the result can be given back, and projecting twice changes nothing.

        Args:
            ratios: float [..., L], pruning ratios in [0, 1].
            target: reduction to reach; a number or an array that broadcasts to the leading dimensions.
            max_ratio: largest pruning ratio of a layer; ignored when ``limits`` are given.
            limits: legal counts, if they are to be other than ``max_ratio`` alone says.

        Returns:
            int64 [..., L], kept units; ``reduction(kept) >= target`` holds exactly.

        Raises:
            ValueError: ratios outside [0, 1] or NaN, or a target out of reach (the reachable range is named).
        """
        ratios = np.asarray(ratios, dtype=np.float64)
        if ratios.shape[-1:] != self.units.shape or not np.all((ratios >= 0.0) & (ratios <= 1.0)):
            raise ValueError(
                f"ratios are {len(self.units)} pruning ratios in [0, 1], one a layer; got an array of shape "
                f"{ratios.shape}: {np.array2string(ratios, threshold=8, precision=4)}"
            )
        limits = self.limits(max_ratio) if limits is None else limits
        self.check_target(target, limits)
        return self.project_logits(limits.logits(self.units * (1.0 - ratios)), target, limits)

    def project_logits(self, logits: FloatArray, target: float | FloatArray, limits: CountLimits) -> IntArray:
        """:meth:`project` for ratios given in logit space [..., L], without checks."""
        odds = np.exp(logits).reshape(-1, len(self.units))
        targets = np.broadcast_to(np.asarray(target, dtype=np.float64), np.shape(logits)[:-1]).reshape(-1)
        return self._project(odds, targets, limits).reshape(np.shape(logits))

    def _project(self, odds: FloatArray, targets: FloatArray, limits: CountLimits) -> IntArray:
        """Plans int64 [B, L] on targets [B], of odds [B, L]."""
        return project(odds, targets, self.form, self.dense, limits)


class FormCost(BudgetedCost):
    """A cost that is a quadratic form, such as the parameters.

    Args:
        quantity: see :class:`BudgetedCost`; so are ``label``, ``groups`` and ``units``.
        label: see there.
        groups: see there.
        units: see there.
        form: the cost.
    """

    def __init__(
        self, quantity: str, label: str, groups: tuple[ChannelGroup, ...], units: IntArray, form: QuadraticCost
    ) -> None:
        self.quantity, self.label, self.groups, self.units = quantity, label, groups, units
        self._form, self._dense = form, float(form(units))

    @property
    def form(self) -> QuadraticCost:
        """The cost itself."""
        return self._form

    @property
    def dense(self) -> float:
        """Cost of the dense network."""
        return self._dense
