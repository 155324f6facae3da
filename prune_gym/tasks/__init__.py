"""Network + data + recipe, by name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hessian.support.lazy import lazy_names

if TYPE_CHECKING:
    from prune_gym.tasks.registry import make_task, register_task, task_names
    from prune_gym.tasks.task import PruningTask

__all__ = [
    "PruningTask",
    "make_task",
    "register_task",
    "task_names",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "PruningTask": "task",
        "make_task": "registry",
        "register_task": "registry",
        "task_names": "registry",
    },
)
