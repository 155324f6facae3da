"""Structured pruning of neural networks as a Gymnasium problem.

Importing this package registers ``HOBSPrune-v0``, ``HOBSPruneLayerwise-v0`` and ``HOBSPruneFamily-v0``; nothing heavy
is imported until a name is used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import gymnasium

from hessian.support.lazy import lazy_names

if TYPE_CHECKING:
    from prune_gym.data.splits import TensorSplit
    from prune_gym.envs.hobs_prune import HOBSPruneEnv
    from prune_gym.envs.layerwise import HOBSPruneLayerwiseEnv
    from prune_gym.envs.reward import AccuracyFlops, LambdaSchedule
    from prune_gym.envs.vector import HOBSPruneVectorEnv
    from prune_gym.measuring.evaluator import Evaluator
    from prune_gym.problem.plan_pool import ProcessPool
    from prune_gym.problem.problem import PruningProblem
    from prune_gym.pruning.prune import prune
    from prune_gym.pruning.result import PruneResult
    from prune_gym.reconstruction.reconstruction import reconstruct
    from prune_gym.reconstruction.settings import Reconstruction
    from prune_gym.saving.checkpoint import load_pruned, save_pruned
    from prune_gym.saving.export import export_onnx, export_program, export_state_dict
    from prune_gym.surgery.pruner import PhysicalPruner
    from prune_gym.surgery.state_dict import read_state_dict, shrink_to
    from prune_gym.tasks.imagefolder import imagefolder_splits, imagefolder_task
    from prune_gym.tasks.models import build_model
    from prune_gym.tasks.registry import make_task, register_task, task_names
    from prune_gym.tasks.task import PruningTask, task_from_loaders

__version__ = "0.1.0"

__all__ = [
    "AccuracyFlops",
    "Evaluator",
    "HOBSPruneEnv",
    "HOBSPruneLayerwiseEnv",
    "HOBSPruneVectorEnv",
    "LambdaSchedule",
    "PhysicalPruner",
    "ProcessPool",
    "PruneResult",
    "PruningProblem",
    "PruningTask",
    "Reconstruction",
    "TensorSplit",
    "build_model",
    "export_onnx",
    "export_program",
    "export_state_dict",
    "imagefolder_splits",
    "imagefolder_task",
    "load_pruned",
    "make_task",
    "prune",
    "read_state_dict",
    "reconstruct",
    "register_envs",
    "register_task",
    "save_pruned",
    "shrink_to",
    "task_from_loaders",
    "task_names",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "AccuracyFlops": "envs.reward",
        "Evaluator": "measuring.evaluator",
        "HOBSPruneEnv": "envs.hobs_prune",
        "HOBSPruneLayerwiseEnv": "envs.layerwise",
        "HOBSPruneVectorEnv": "envs.vector",
        "LambdaSchedule": "envs.reward",
        "PhysicalPruner": "surgery.pruner",
        "ProcessPool": "problem.plan_pool",
        "PruneResult": "pruning.result",
        "PruningProblem": "problem.problem",
        "PruningTask": "tasks.task",
        "Reconstruction": "reconstruction.settings",
        "TensorSplit": "data.splits",
        "build_model": "tasks.models",
        "export_onnx": "saving.export",
        "export_program": "saving.export",
        "export_state_dict": "saving.export",
        "imagefolder_splits": "tasks.imagefolder",
        "imagefolder_task": "tasks.imagefolder",
        "load_pruned": "saving.checkpoint",
        "make_task": "tasks.registry",
        "prune": "pruning.prune",
        "read_state_dict": "surgery.state_dict",
        "reconstruct": "reconstruction.reconstruction",
        "register_task": "tasks.registry",
        "save_pruned": "saving.checkpoint",
        "shrink_to": "surgery.state_dict",
        "task_from_loaders": "tasks.task",
        "task_names": "tasks.registry",
    },
)

_ENVIRONMENTS: dict[str, dict[str, Any]] = {
    "HOBSPrune-v0": {"entry_point": "HOBSPruneEnv", "vector_entry_point": "HOBSPruneVectorEnv"},
    "HOBSPruneLayerwise-v0": {"entry_point": "HOBSPruneLayerwiseEnv"},
    # A normalised score, see THRESHOLDS of prune_gym.bench.protocol.
    "HOBSPruneFamily-v0": {"entry_point": "HOBSPruneFamilyEnv", "reward_threshold": 0.6},
}


def register_envs() -> None:
    """Register the environments with Gymnasium; a second call changes nothing."""
    for name, about in _ENVIRONMENTS.items():
        if name not in gymnasium.registry:
            places = {key: f"prune_gym.prune_gym:{value}" for key, value in about.items() if "entry_point" in key}
            gymnasium.register(id=name, **{**about, **places})


register_envs()
