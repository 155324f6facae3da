"""Structured pruning of neural networks as a Gymnasium problem.

Importing this package registers ``HOBSPrune-v0`` and ``HOBSPruneLayerwise-v0``; nothing heavy is imported until a name
is used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import gymnasium

from hessian.lazy import lazy_names

if TYPE_CHECKING:
    from prune_gym.checkpoint import load_pruned, save_pruned
    from prune_gym.env import HOBSPruneEnv
    from prune_gym.imagefolder import imagefolder_splits, imagefolder_task
    from prune_gym.layerwise import HOBSPruneLayerwiseEnv
    from prune_gym.problem import PruningProblem
    from prune_gym.pruner import PhysicalPruner
    from prune_gym.pruning_task import task_from_loaders
    from prune_gym.tasks import PruningTask, make_task, register_task, task_names
    from prune_gym.vector_env import HOBSPruneVectorEnv

__version__ = "0.1.0"

__all__ = [
    "HOBSPruneEnv",
    "HOBSPruneLayerwiseEnv",
    "HOBSPruneVectorEnv",
    "PhysicalPruner",
    "PruningProblem",
    "PruningTask",
    "imagefolder_splits",
    "imagefolder_task",
    "load_pruned",
    "make_task",
    "register_envs",
    "register_task",
    "save_pruned",
    "task_from_loaders",
    "task_names",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "HOBSPruneEnv": "env",
        "HOBSPruneLayerwiseEnv": "layerwise",
        "HOBSPruneVectorEnv": "vector_env",
        "PhysicalPruner": "pruner",
        "PruningProblem": "problem",
        "PruningTask": "tasks",
        "imagefolder_splits": "imagefolder",
        "imagefolder_task": "imagefolder",
        "load_pruned": "checkpoint",
        "make_task": "tasks",
        "register_task": "tasks",
        "save_pruned": "checkpoint",
        "task_from_loaders": "pruning_task",
        "task_names": "tasks",
    },
)

_ENVIRONMENTS = {
    "HOBSPrune-v0": ("prune_gym.env:HOBSPruneEnv", "prune_gym.vector_env:HOBSPruneVectorEnv"),
    "HOBSPruneLayerwise-v0": ("prune_gym.layerwise:HOBSPruneLayerwiseEnv", None),
}


def register_envs() -> None:
    """Register the environments with Gymnasium; a second call changes nothing."""
    for name, (entry_point, vector_entry_point) in _ENVIRONMENTS.items():
        if name not in gymnasium.registry:
            gymnasium.register(id=name, entry_point=entry_point, vector_entry_point=vector_entry_point)


register_envs()
