"""Pruning plans from users: every mistake found and named before anything is cut."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import nn

from hessian.channels.group import ChannelGroup
from hessian.support.names import suggest


def resolve_plan(plan: Mapping[str, Any], groups: Sequence[ChannelGroup], model: nn.Module) -> dict[str, list[int]]:
    """Check a pruning plan and key it by layer.

    A layer may be named by any of its producers, as long as the producer's output channels are numbered as the layer's.

    Args:
        plan: Layer (or producer) name -> removed channel indices, as any sequence of integers.
        groups: The network's prunable layers.
        model: The network, to tell names that exist but cannot be pruned from names that do not exist.

    Returns:
        Layer name -> sorted removed channel indices; layers that lose nothing are left out.

    Raises:
        TypeError: If the plan is not a mapping, or indices are not integers.
        ValueError: If a name is no layer or is ambiguous, one layer gets two different entries, or indices repeat, are
            out of range, empty the layer or split a unit of it.
    """
    if not isinstance(plan, Mapping):
        raise TypeError(f"a plan maps layer names to removed channel indices, got a {type(plan).__name__}")
    by_name = {group.name: group for group in groups}
    resolved: dict[str, list[int]] = {}
    named_as: dict[str, str] = {}
    for name, removed in plan.items():
        layer = name if name in by_name else _layer_of_member(name, groups, model)
        indices = _checked_indices(name, removed, by_name[layer])
        if layer in resolved and resolved[layer] != indices:
            raise ValueError(
                f"{named_as[layer]!r} and {name!r} are both the layer {layer!r} (they share channels) but remove "
                f"different channels: {_brief(resolved[layer])} and {_brief(indices)}; keep one entry, named {layer!r}"
            )
        resolved[layer] = indices
        named_as[layer] = name
    return {layer: indices for layer, indices in resolved.items() if indices}


def _layer_of_member(name: str, groups: Sequence[ChannelGroup], model: nn.Module) -> str:
    owners = [(group, member) for group in groups for member in group.producers if member.module == name]
    if len(owners) == 1:
        group, member = owners[0]
        if member.indices.shape[1] == 1 and torch.equal(member.indices[:, 0], torch.arange(group.size)):
            return group.name
        raise ValueError(
            f"{name!r} is part of the layer {group.name!r} but numbers its channels differently; "
            f"name the layer {group.name!r} and use its channel numbers"
        )
    carried = [group.name for group in groups for member in group.carriers if name in (member.module, member.parameter)]
    if owners or carried:
        layers = sorted({*carried, *(group.name for group, _ in owners)})
        raise ValueError(f"{name!r} carries the channels of {_quoted(layers)}; name the layer instead")
    raise ValueError(_unknown_layer(name, [group.name for group in groups], model))


def _unknown_layer(name: Any, layers: list[str], model: nn.Module) -> str:
    reason = "is not prunable" if name in dict(model.named_modules()) else "is not a layer of this network"
    return f"layer {name!r} {reason}{suggest(name, layers, 'prunable')}"


def _checked_indices(name: str, removed: Any, group: ChannelGroup) -> list[int]:
    indices = sorted(_integers(name, removed))
    repeated = sorted({index for index, after in pairwise(indices) if index == after})
    if repeated:
        raise ValueError(f"plan of layer {name!r} repeats channels {_brief(repeated)}; give each index once")
    outside = [index for index in indices if not 0 <= index < group.size]
    if outside:
        raise ValueError(
            f"plan of layer {name!r} removes channels {_brief(outside)}, but it has channels 0 to {group.size - 1}"
        )
    if len(indices) == group.size:
        raise ValueError(f"plan removes all {group.size} channels of layer {name!r}; keep at least one unit")
    gone = set(indices)
    for unit in group.units:
        staying = sorted(set(unit) - gone)
        if 0 < len(staying) < len(unit):
            raise ValueError(
                f"plan of layer {name!r} splits a unit: channels {_brief(unit)} leave together (a grouped module keeps "
                f"its groups equal), but {_brief(staying)} would stay"
            )
    return indices


def _integers(name: str, removed: Any) -> list[int]:
    """Return indices as Python ints; arrays, tensors, ranges and sets of integers are all fine.

    Raises:
        TypeError: no sequence of whole numbers.
    """
    values = removed.tolist() if hasattr(removed, "tolist") else removed
    if isinstance(values, (str, bytes, Mapping)) or not isinstance(values, Iterable):
        raise TypeError(
            f"plan of layer {name!r} must be a sequence of channel indices, got {removed!r} (a plan lists the removed "
            "channels; a pruning ratio is a budget, not a plan)"
        )
    integers = []
    for value in values:
        index = value.tolist() if hasattr(value, "tolist") else value
        if isinstance(index, bool) or not isinstance(index, int):
            raise TypeError(f"plan of layer {name!r} must hold integer channel indices, got {value!r}")
        integers.append(index)
    return integers


def _brief(indices: Sequence[int]) -> str:
    shown = ", ".join(map(str, indices[:8]))
    return f"[{shown}, ... ({len(indices)} in all)]" if len(indices) > 8 else f"[{shown}]"


def _quoted(names: Iterable[str]) -> str:
    return ", ".join(map(repr, names))
