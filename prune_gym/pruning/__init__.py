"""Prune a network in one call: images and targets in, a smaller network and a report out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hessian.support.lazy import lazy_names

if TYPE_CHECKING:
    from prune_gym.pruning.prune import prune
    from prune_gym.pruning.result import PruneResult
    from prune_gym.pruning.targets import LatencyLimit, Targets, TargetsNotMetError

__all__ = [
    "LatencyLimit",
    "PruneResult",
    "Targets",
    "TargetsNotMetError",
    "prune",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "LatencyLimit": "targets",
        "PruneResult": "result",
        "Targets": "targets",
        "TargetsNotMetError": "targets",
        "prune": "prune",
    },
)
