"""Matching a pruned network's outputs to the dense network's on unlabelled images."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hessian.support.lazy import lazy_names

if TYPE_CHECKING:
    from prune_gym.reconstruction.images import UnlabelledImages
    from prune_gym.reconstruction.reconstruction import reconstruct
    from prune_gym.reconstruction.settings import Reconstructed, Reconstruction, Setting

__all__ = [
    "Reconstructed",
    "Reconstruction",
    "Setting",
    "UnlabelledImages",
    "reconstruct",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "Reconstructed": "settings",
        "Reconstruction": "settings",
        "Setting": "settings",
        "UnlabelledImages": "images",
        "reconstruct": "reconstruction",
    },
)
