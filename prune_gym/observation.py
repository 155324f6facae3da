"""What an agent sees: the layout of the flat observation.

The features of the layers are named and computed in :mod:`prune_gym.features`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prune_gym.features import BOUND, FEATURES

__all__ = ["BOUND", "FEATURES", "GLOBALS", "ObservationLayout"]

GLOBALS = ("accuracy_drop", "flops_reduction", "target_flops_reduction", "lambda", "progress")
"""Names of the entries behind the layers' blocks."""


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
