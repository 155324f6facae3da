"""Observations of an agent: the layout of the flat vector, and the observer that fills it.

The features of the layers are named and computed in :mod:`prune_gym.problem.features`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from prune_gym.cost.limits import IntArray
from prune_gym.problem.features import BOUND, FEATURES, FeatureSet

if TYPE_CHECKING:
    from prune_gym.envs.fidelity import Problem

__all__ = ["BOUND", "FEATURES", "GLOBALS", "ObservationLayout", "Observer"]

GLOBALS = ("accuracy_drop", "flops_reduction", "target_flops_reduction", "lambda", "progress")
"""Names of the entries behind the layers' blocks."""


@dataclass(frozen=True)
class ObservationLayout:
    """Positions in the flat observation ``[features L*F | pruning ratios L | 5 globals]``.

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

    def column(self, index: int) -> slice:
        """Entries of the observation that hold the feature of this index, one a layer."""
        return slice(index, self.num_layers * self.feature_dim, self.feature_dim)


class Observer:
    """Writes observations; what no plan changes is looked up once.

    Args:
        layout: where everything is; its features are those of the set, and any more stay 0.
        features: the features of the layers.
        problem: what is pruned.
    """

    def __init__(self, layout: ObservationLayout, features: FeatureSet, problem: Problem) -> None:
        self.layout = layout
        self.features = features
        self._problem = problem
        self._template: NDArray[np.float32] | None = None
        self._follows_plan = bool(features.plan_columns)
        self._units = problem.cost.units.astype(np.float64)
        self._tail = layout.size - len(GLOBALS)

    def __call__(
        self, kept: IntArray, drop: Any, reduction: Any, target: Any, weight: Any, progress: Any
    ) -> NDArray[np.float32]:
        """Observations float32 [..., size] of plans, fresh arrays.

        Args:
            kept: int [..., L], their kept units.
            drop: [...], accuracy lost against the dense network.
            reduction: [...], their FLOPs reductions.
            target: [...], the FLOPs reductions asked for.
            weight: [...], lambda.
            progress: [...], share of the episode that is over.
        """
        template, tail = self._fixed(), self._tail
        observations = np.tile(template, (*kept.shape[:-1], 1)) if kept.ndim > 1 else template.copy()
        observations[..., tail - kept.shape[-1] : tail] = 1.0 - kept / self._units
        if self._follows_plan:
            for index, values in self.features.of_plans(kept, self._problem.cost):
                observations[..., self.layout.column(index)] = values
        if kept.ndim == 1:
            observations[tail:] = (drop, reduction, target, min(weight, BOUND), progress)
            return observations
        for offset, values in enumerate((drop, reduction, target, np.minimum(weight, BOUND), progress)):
            observations[..., tail + offset] = values
        return observations

    def _fixed(self) -> NDArray[np.float32]:
        if self._template is None:
            self._template = np.zeros(self.layout.size, dtype=np.float32)
            values = self._problem.features_of(self.features)
            self.layout.features(self._template)[:, : values.shape[1]] = values
        return self._template
