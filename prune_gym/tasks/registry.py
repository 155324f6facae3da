"""Tasks by name: the ones that come with the package, and a user's own.

A task's structure (its untrained network) is available without its data, because an environment needs the layers
to know its spaces long before it needs images or weights.
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import nn

from hessian.support.names import unknown
from prune_gym.support.device import module_device
from prune_gym.tasks.imagenet import IMAGENET_TASKS, ImageNetTask
from prune_gym.tasks.named import NAMED_TASKS, NamedTask
from prune_gym.tasks.task import PruningTask, TaskSize, TaskStatus, check_target

__all__ = [
    "PruningTask",
    "TaskStructure",
    "make_task",
    "register_task",
    "task_description",
    "task_names",
    "task_size",
    "task_status",
    "task_structure",
    "task_takes",
]


class TaskStructure(NamedTuple):
    """Everything known of a task before its data: enough to find the prunable layers and count FLOPs.

    Attributes:
        model: The dense network; its weights mean nothing yet.
        example_input: An input to trace it with, ``[N, ...]``.
        ignored_layers: Qualified names of modules whose channels stay.
        default_target: FLOPs reduction asked for when nobody says, in (0, 1).
    """

    model: nn.Module
    example_input: torch.Tensor
    ignored_layers: tuple[str, ...]
    default_target: float


@dataclass(frozen=True)
class TaskEntry:
    """A registered task: how to build it, what is known of it beforehand, and how to learn what is at hand."""

    factory: Callable[..., PruningTask]
    structure: Callable[[], tuple[nn.Module, torch.Tensor]] | None = None
    ignored_layers: tuple[str, ...] = ()
    default_target: float | None = None
    description: str = ""
    size: TaskSize | None = None
    status: Callable[[], TaskStatus] = TaskStatus


_PACKAGED: tuple[NamedTask | ImageNetTask, ...] = (*NAMED_TASKS, *IMAGENET_TASKS)

_REGISTRY: dict[str, TaskEntry] = {
    task.name: TaskEntry(task.build, task.structure, (), task.default_target, task.description, task.size, task.status)
    for task in _PACKAGED
}


def register_task(
    name: str,
    factory: Callable[..., PruningTask],
    *,
    structure: Callable[[], tuple[nn.Module, torch.Tensor]] | None = None,
    ignored_layers: Sequence[str] = (),
    default_target: float | None = None,
    description: str = "",
    overwrite: bool = False,
) -> None:
    """Make a task available by name, as in ``gym.make("HOBSPrune-v0", task=name)``.

    Args:
        name: What to call it.
        factory: Builds the task; called when its data is first needed. Keyword arguments of :func:`make_task` that
            are not fields of the task reach it.
        structure: Builds ``(model, example_input)`` without weights or data, so that ``gym.make`` is quick. Without
            it the factory is called for that too.
        ignored_layers: The task's, repeated here because they are needed with ``structure``.
        default_target: FLOPs reduction in (0, 1); needed with ``structure``, else the task's own by default.
        description: One line for listings.
        overwrite: Replace a task of that name.

    Raises:
        TypeError: If ``name`` is not text or ``factory`` cannot be called.
        ValueError: If the name is taken and ``overwrite`` is not set, if ``default_target`` is outside (0, 1), or
            if ``structure`` comes without it.
    """
    if not isinstance(name, str) or not name:
        raise TypeError(f"a task's name is a non-empty text; got {name!r}")
    if not callable(factory):
        raise TypeError(f"factory is a function that returns a PruningTask; got {type(factory).__name__}")
    if name in _REGISTRY and not overwrite:
        raise ValueError(f"task {name!r} is already registered; choose another name or pass overwrite=True")
    if structure is not None and default_target is None:
        raise ValueError("structure needs default_target too: both are asked for before the task is built")
    if default_target is not None:
        check_target(default_target)
    _REGISTRY[name] = TaskEntry(factory, structure, tuple(ignored_layers), default_target, description)


def task_names() -> list[str]:
    """Names of all registered tasks, sorted."""
    return sorted(_REGISTRY)


def task_description(name: str) -> str:
    """One line about a registered task.

    Raises:
        KeyError: If no such task is registered.
    """
    return _entry(name).description


def task_size(name: str) -> TaskSize:
    """Layers, channels, FLOPs and parameters of a task's dense network.

    Known beforehand for the tasks of the package; for others their network is traced.

    Raises:
        KeyError: If no such task is registered.
        ValueError: If its network cannot be pruned.
    """
    known = _entry(name).size
    if known is not None:
        return known
    from hessian.discovery.find import find_channel_groups
    from prune_gym.cost.model import CostModel

    structure = task_structure(name)
    groups = find_channel_groups(structure.model, structure.example_input[:1], structure.ignored_layers)
    cost = CostModel(groups, structure.model, structure.example_input)
    return TaskSize(len(groups), sum(group.size for group in groups), int(cost.dense_flops), int(cost.dense_params))


def task_status(name: str) -> TaskStatus:
    """Status of a task's data and weights: at hand, or how to get them; reads no images.

    Raises:
        KeyError: If no such task is registered.
    """
    return _entry(name).status()


def task_default_target(name: str) -> float:
    """FLOPs reduction a task asks for when nobody says; of some users' tasks known only once they are built.

    Raises:
        KeyError: If no such task is registered.
    """
    target = _entry(name).default_target
    return target if target is not None else task_structure(name).default_target


def make_task(name: str, **overrides: Any) -> PruningTask:
    """Build a registered task, data and trained weights included.

    Args:
        name: A registered name, for example ``"digits-resnet20"``.
        **overrides: Fields of :class:`PruningTask` to replace; anything else goes to the task's factory, for example
            ``data_dir`` of the tasks that read files, or ``weights`` of the named ones.

    Raises:
        KeyError: If no such task is registered; the message names the nearest.
        TypeError: If the factory does not take an override, or returns something else than a task.
        ValueError: If the task contradicts what was registered with its structure.
    """
    entry = _entry(name)
    fields = {field.name for field in dataclasses.fields(PruningTask) if field.init}
    options = {key: value for key, value in overrides.items() if key not in fields}
    _check_options(name, entry.factory, options)
    task = entry.factory(**options)
    if not isinstance(task, PruningTask):
        raise TypeError(f"the factory of task {name!r} returned {type(task).__name__}, not a PruningTask")
    if entry.structure is not None and set(task.ignored_layers) != set(entry.ignored_layers):
        raise ValueError(
            f"task {name!r} ignores {list(task.ignored_layers)}, but was registered with "
            f"ignored_layers={list(entry.ignored_layers)}; make them agree"
        )
    changes: dict[str, Any] = {} if task.name == name else {"name": name}
    if entry.default_target is not None and task.default_target != entry.default_target:
        changes["default_target"] = entry.default_target
    changes.update({key: value for key, value in overrides.items() if key in fields})
    return dataclasses.replace(task, **changes) if changes else task


def task_takes(name: str, option: str) -> bool:
    """Return whether a task's factory names an option in its signature, for example ``"image_size"``.

    Raises:
        KeyError: If no such task is registered.
    """
    return option in (_options(_entry(name).factory) or ())


def _options(factory: Callable[..., PruningTask]) -> list[str] | None:
    """Names of a factory's options; None where it takes any and judges them itself."""
    parameters = inspect.signature(factory).parameters.values()
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return None
    return [parameter.name for parameter in parameters if parameter.kind is not parameter.POSITIONAL_ONLY]


def _check_options(name: str, factory: Callable[..., PruningTask], options: Mapping[str, Any]) -> None:
    known = _options(factory)
    if known is None:
        return
    unknown = [key for key in options if key not in known]
    if unknown:
        raise TypeError(
            f"task {name!r} takes no option {', '.join(map(repr, unknown))} (its options: {', '.join(known) or 'none'})"
        )


def task_structure(name: str) -> TaskStructure:
    """The untrained network of a task, without its data.

    Raises:
        KeyError: If no such task is registered; the message names the nearest.
    """
    entry = _entry(name)
    if entry.structure is not None and entry.default_target is not None:
        model, example_input = entry.structure()
        return TaskStructure(model, example_input, entry.ignored_layers, entry.default_target)
    return structure_of(make_task(name))


def structure_of(task: str | PruningTask) -> TaskStructure:
    """The structure of a named task, or of a task object.

    Raises:
        KeyError: If no such task is registered; the message names the nearest.
    """
    if isinstance(task, str):
        return task_structure(task)
    example = task.example_input.to(module_device(task.model))
    return TaskStructure(task.model, example, tuple(task.ignored_layers), task.default_target)


_FAMILIES = {"family": "prune_gym.tasks.family.tasks"}
"""Names with a slash: what comes before it -> the module whose ``task_entry`` makes entries of what comes after it.

They are as many as a family has networks, so none is listed, and none is made before it is asked for.
"""


def _entry(name: str) -> TaskEntry:
    if name in _REGISTRY:
        return _REGISTRY[name]
    family, _, member = name.partition("/")
    if member and family in _FAMILIES:
        return TaskEntry(**importlib.import_module(_FAMILIES[family]).task_entry(member))
    raise KeyError(unknown("task", name, task_names(), "registered"))
