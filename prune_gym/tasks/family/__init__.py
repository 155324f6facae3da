"""A family of small trained networks, drawn by seed: what is learned on some holds, or not, on others."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hessian.support.lazy import lazy_names

if TYPE_CHECKING:
    from prune_gym.tasks.family.draws import Design, family_names, split_of
    from prune_gym.tasks.family.networks import design_of, family_network
    from prune_gym.tasks.family.tasks import family_task

__all__ = ["Design", "design_of", "family_names", "family_network", "family_task", "split_of"]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "Design": "draws",
        "family_names": "draws",
        "split_of": "draws",
        "design_of": "networks",
        "family_network": "networks",
        "family_task": "tasks",
    },
)
