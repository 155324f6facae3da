"""Tensors in whatever a network returns: tuples, lists, dicts, dataclasses, and containers of containers."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor


def nested_tensors(value: Any) -> list[Tensor]:
    """All tensors in nested containers, in order."""
    found: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        found.append(tensor)
        return tensor

    map_tensors(value, keep)
    return found


def map_tensors(value: Any, change: Callable[[Tensor], Any]) -> Any:
    """Nested containers of the same kinds with every tensor changed; what holds no tensors is taken over.

    Args:
        value: a tensor, or tuples, lists, dicts and dataclasses of them; anything else is a leaf.
        change: called with every tensor, in order.
    """
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, Mapping):
        return _like(value, {key: map_tensors(part, change) for key, part in value.items()})
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(map_tensors(part, change) for part in value))
    if isinstance(value, (tuple, list)):
        return type(value)(map_tensors(part, change) for part in value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        changed = copy.copy(value)
        for entry in dataclasses.fields(value):
            object.__setattr__(changed, entry.name, map_tensors(getattr(value, entry.name), change))
        return changed
    return value


def _like(value: Mapping[Any, Any], entries: dict[Any, Any]) -> Any:
    if type(value) is dict:
        return entries
    changed = copy.copy(value)
    for key, part in entries.items():
        changed[key] = part  # type: ignore[index]
    return changed
