"""Names of methods and tasks that a configuration may hold, known without importing what they name.

Importing :mod:`baselines` or the tasks takes seconds, most of them PyTorch's. So the names of the package stand here
too (a test compares), and only a name that is none of them asks whoever else may have registered one.
"""

from __future__ import annotations

from benchmarks.settings.methods import METHODS, method_names

BASELINES = (
    *("unpruned", "random-channels", "magnitude", "dep-graph", "autocompress"),
    *("hrank", "taylor", "adaprune", "gnn", "amc"),
)
"""Published methods and controls of the package, in the order of :func:`baselines.available`."""

TASKS = (
    *("digits-resnet20", "digits-resnet56", "fashion-resnet20", "fashion-vgg11"),
    *("cifar10-resnet20", "cifar10-resnet56", "cifar100-resnet20", "cifar100-resnet56"),
    *("imagenet-resnet18", "imagenet-resnet50", "imagenet-mobilenet_v2", "imagenet-efficientnet_b0"),
    *("imagenet-vgg16_bn", "imagenet-densenet121"),
)
"""Tasks of the package, in the order of :func:`prune_gym.tasks.registry.task_names`."""


def is_method(name: str) -> bool:
    """Return whether there is a method of that name, of the package or registered."""
    return name in METHODS or name in BASELINES or name in method_names()


def is_task(name: str) -> bool:
    """Return whether there is a task of that name, of the package or registered."""
    return name in TASKS or name in known_tasks()


def known_tasks() -> list[str]:
    """Return the names of all tasks."""
    from prune_gym.tasks.registry import task_names

    return list(task_names())
