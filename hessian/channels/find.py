"""Which channels of a network can be removed together, and what each removal touches.

A *layer* of the pruning problem is a set of coupled channels. Removing channel ``i`` of a layer removes

* row ``i`` of every **producer** (the convolutions and linear maps that compute the channel; a residual stream has
  several of them),
* entry ``i`` of every **carrier** (normalisation, depthwise convolution, bare per-channel parameter: they pass the
  channel on without mixing it with others), and
* the columns of channel ``i`` in every **consumer** (the maps that mix it with other channels; after a flatten a
  channel owns several columns, after a concatenation its columns start at an offset).

Coupling is found by torch-pruning's ``DependencyGraph`` (DepGraph, Fang et al., CVPR 2023). Only this module, with
:mod:`hessian.channels.trace` (the run that builds the graph) and :mod:`hessian.channels.coupling` (its translation)
behind it, knows that graph: everything else works with :class:`ChannelGroup`.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

from torch import nn

from hessian.channels.coupling import channel_group, check_coverage
from hessian.channels.group import ChannelGroup, Member, UnsupportedStructureError
from hessian.channels.layer_types import (
    CONV_TYPES,
    MIXING_TYPES,
    NORM_TYPES,
    TRANSPOSED_TYPES,
    channel_extent,
    is_depthwise,
)
from hessian.channels.trace import coupled_dimensions, execution_order, refuse_attention
from hessian.support.names import suggest

__all__ = [
    "CONV_TYPES",
    "MIXING_TYPES",
    "NORM_TYPES",
    "TRANSPOSED_TYPES",
    "ChannelGroup",
    "Member",
    "UnsupportedStructureError",
    "channel_extent",
    "find_channel_groups",
    "is_depthwise",
]


def find_channel_groups(
    model: nn.Module, example_input: Any, ignored_layers: Sequence[str | nn.Module] = ()
) -> list[ChannelGroup]:
    """Find the prunable layers of a network, in execution order of their roots.

    Channels that reach the network's output without passing a weighted layer are excluded by the graph, whatever the
    type of the layer that makes them. The model is not modified.

    Args:
        model: any network torch-pruning can trace; all its parameters must require gradients.
        example_input: a tensor (or tuple of tensors) the model accepts, on the model's device.
        ignored_layers: names (or modules) whose channels stay; a layer with an ignored producer or carrier is left out.

    Returns:
        One :class:`ChannelGroup` a prunable layer, sorted by execution.

    Raises:
        UnsupportedStructureError: a structure that cannot be cut consistently (named, with the remedy).
        ValueError: unknown ignored layer, frozen parameters, or no prunable layer at all.
    """
    ignored = _ignored_names(model, ignored_layers)
    _check_trainable(model)
    traced = copy.deepcopy(model).eval()
    order = execution_order(traced, example_input, ignored)
    refuse_attention(traced, ignored)
    coupled = coupled_dimensions(traced, example_input)
    found = (channel_group(raw, traced, order, ignored) for raw in coupled)
    groups = [group for group in found if group is not None]
    check_coverage(groups, coupled, traced)
    groups.sort(key=lambda group: order[group.name])
    if not groups:
        raise ValueError(
            f"{type(model).__name__} has no prunable layer: no conv or linear output feeds another weighted layer"
            f"{' outside ignored_layers' if ignored else ''}"
        )
    return groups


def _ignored_names(model: nn.Module, ignored_layers: Sequence[str | nn.Module]) -> set[str]:
    modules = dict(model.named_modules())
    names = {id(module): name for name, module in modules.items()}
    ignored: set[str] = set()
    for layer in ignored_layers:
        if isinstance(layer, nn.Module):
            if id(layer) not in names:
                raise ValueError(f"ignored layer {type(layer).__name__} is not a module of the model")
            layer = names[id(layer)]
        if not isinstance(layer, str):
            raise TypeError(f"ignored_layers holds {layer!r}; give module names or module instances, not types")
        if layer not in modules:
            raise ValueError(f"unknown ignored layer {layer!r}" + suggest(layer, modules))
        ignored.update(name for name in modules if name == layer or name.startswith(layer + "."))
    return ignored


def _check_trainable(model: nn.Module) -> None:
    frozen = [name for name, parameter in model.named_parameters() if not parameter.requires_grad]
    if frozen:
        raise UnsupportedStructureError(
            f"{len(frozen)} parameters are frozen ({', '.join(frozen[:3])}, ...): tracing would silently miss layers. "
            "Call model.requires_grad_(True) first"
        )
