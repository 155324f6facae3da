"""Training and fine-tuning loops."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hessian.support.lazy import lazy_names

if TYPE_CHECKING:
    from prune_gym.training.fitting import Loop
    from prune_gym.training.training import evaluate_model, fine_tune, train_dense

__all__ = [
    "Loop",
    "evaluate_model",
    "fine_tune",
    "train_dense",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "Loop": "fitting",
        "evaluate_model": "training",
        "fine_tune": "training",
        "train_dense": "training",
    },
)
