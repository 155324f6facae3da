"""Everything known of one task; pools; layer features."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hessian.support.lazy import lazy_names

if TYPE_CHECKING:
    from prune_gym.problem.problem import PruningProblem

__all__ = [
    "PruningProblem",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "PruningProblem": "problem",
    },
)
