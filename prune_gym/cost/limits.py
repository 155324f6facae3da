"""Kept counts a plan may use: at least one unit, at most ``max_ratio`` removed, rounded for the hardware."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from hessian.channels.group import ChannelGroup

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class CountLimits:
    """Legal kept counts of every layer: multiples of ``step`` from ``minimum`` up, and all ``units``.

    Attributes:
        units: int64 [L], units of every layer.
        minimum: int64 [L], smallest legal count, at least 1.
        step: int64 [L], distance of two legal counts (the last one, to ``units``, may be shorter).
    """

    units: IntArray
    minimum: IntArray
    step: IntArray

    @classmethod
    def of(
        cls, groups: Sequence[ChannelGroup], max_ratio: float = 0.95, *, min_channels: int = 1, round_to: int = 1
    ) -> CountLimits:
        """Limits of a network's layers.

        Args:
            groups: the prunable layers.
            max_ratio: largest pruning ratio of a layer, in [0, 1).
            min_channels: channels every layer keeps at least (or all it has, if fewer).
            round_to: kept channels are a multiple of this (or all of them).

        Raises:
            ValueError: a setting out of its range.
        """
        if not 0.0 <= max_ratio < 1.0:
            raise ValueError(f"max_pruning_ratio is a fraction in [0, 1); got {max_ratio}")
        for name, value in (("min_channels", min_channels), ("round_to", round_to)):
            if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 1:
                raise ValueError(f"{name} is a whole number of channels, at least 1; got {value!r}")
        units = np.array([group.num_units for group in groups], dtype=np.int64)
        width = np.array([group.size // group.num_units for group in groups], dtype=np.int64)
        step = np.lcm(width, round_to) // width
        # The subtraction keeps 20 * (1 - 0.95) at 1 unit although it is 1.0000000000000009 in floating point.
        fewest = np.ceil(units * (1.0 - max_ratio) - 1e-9).astype(np.int64)
        fewest = np.maximum(np.maximum(fewest, -(-min_channels // width)), 1)
        return cls(units, np.minimum(-(-fewest // step) * step, units), step)

    def round(self, counts: FloatArray) -> IntArray:
        """Nearest legal counts.

        Args:
            counts: float [..., L], any real numbers.

        Returns:
            int64 [..., L].
        """
        bounds = self._bounds
        if bounds.step is None:
            nearest = np.rint(counts)
        else:
            nearest = np.rint(np.asarray(counts, dtype=np.float64) / bounds.step) * bounds.step
        return np.minimum(np.maximum(nearest, bounds.minimum), bounds.units).astype(np.int64)

    def one_more(self, kept: IntArray) -> IntArray:
        """The next larger legal count of every layer (``units`` stays), int64 [..., L]."""
        return np.minimum((kept // self.step + 1) * self.step, self.units)

    def one_fewer(self, kept: IntArray) -> IntArray:
        """The next smaller legal count of every layer (``minimum`` stays), int64 [..., L]."""
        return np.maximum((-(-kept // self.step) - 1) * self.step, self.minimum)

    def choices(self, layer: int) -> IntArray:
        """All legal counts of one layer, ascending, int64 [C]."""
        units, minimum, step = int(self.units[layer]), int(self.minimum[layer]), int(self.step[layer])
        counts = np.arange(minimum, units + 1, step, dtype=np.int64)
        return counts if counts[-1] == units else np.append(counts, units)

    def contains(self, kept: IntArray) -> NDArray[np.bool_]:
        """Return whether plans use legal counts only, bool [...]."""
        kept = np.asarray(kept)
        whole = (kept % self.step == 0) | (kept == self.units)
        return (whole & (kept >= self.minimum) & (kept <= self.units)).all(axis=-1)

    def logits(self, kept: IntArray | FloatArray) -> FloatArray:
        """Pruning ratios in logit space, float64 [..., L].

        They are finite: an unpruned layer counts as a quarter of a unit removed, which rounding takes back, so the
        logits of a legal plan always round to that plan.
        """
        bounds = self._bounds
        ratio = np.minimum(np.maximum(1.0 - kept / bounds.units, bounds.edge), 1.0 - bounds.edge)
        return np.log(ratio / (1.0 - ratio))

    def from_logits(self, logits: FloatArray) -> IntArray:
        """Legal counts nearest to pruning ratios given in logit space, int64 [..., L]."""
        return self.round(self._bounds.units / (1.0 + np.exp(np.minimum(logits, _LOGIT_LIMIT))))

    @cached_property
    def _bounds(self) -> _Bounds:
        units, step = self.units.astype(np.float64), self.step.astype(np.float64)
        return _Bounds(units, self.minimum.astype(np.float64), None if (step == 1.0).all() else step, 0.25 / units)

    def __post_init__(self) -> None:
        if not (len(self.units) == len(self.minimum) == len(self.step)) or math.prod(self.units.shape) == 0:
            raise ValueError("limits need one entry a layer and at least one layer")


@dataclass(frozen=True, eq=False)
class _Bounds:
    """Limits as floating-point numbers, made once: conversions cost as much as the arithmetic on one plan.

    Attributes:
        units: float64 [L].
        minimum: float64 [L].
        step: float64 [L]; None where all steps are 1.
        edge: float64 [L], a quarter of a unit as a ratio.
    """

    units: FloatArray
    minimum: FloatArray
    step: FloatArray | None
    edge: FloatArray


_LOGIT_LIMIT = 700.0
"""Largest logit whose exponential is a float64."""
