"""FLOPs, parameters, latency of kept counts; projection; knapsack."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hessian.support.lazy import lazy_names

if TYPE_CHECKING:
    from prune_gym.cost.model import CostModel

__all__ = [
    "CostModel",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "CostModel": "model",
    },
)
