"""The layers of a network: found by running it, proved by cutting it for trial."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from hessian.channels.group import ChannelGroup, PinnedChannels, UnsupportedStructureError
from hessian.discovery.layers import layers_of
from hessian.discovery.proof import proved
from hessian.discovery.requests import ignored_names, runnable
from hessian.provenance.run import trace
from hessian.support.door import plain_model


@dataclass(frozen=True, eq=False)
class Discovery:
    """Channels of a network that can be pruned, and those that cannot.

    Attributes:
        groups: the prunable layers, in execution order of their roots.
        pinned: channels that stay, with the place and the reason.
    """

    groups: list[ChannelGroup]
    pinned: list[PinnedChannels]


def discover(
    model: nn.Module, example_input: Any, ignored_layers: Sequence[str | nn.Module] = (), *, verify: bool = True
) -> Discovery:
    """Find the prunable layers of any network and what of it stays whole.

    The network runs on the example with every element of every activation carrying the channel it comes from
    (`hessian.provenance`). Then units of every layer are cut for trial: the smaller network must compute what the
    dense one computes with these channels reading as zero. What fails is pinned. The model is left as it was.

    Args:
        model: any network that runs on the example; wrappers of PyTorch are looked through.
        example_input: a tensor, a tuple of arguments or a mapping of keyword arguments, on the model's device. One
            image is enough.
        ignored_layers: names (or modules) whose channels stay; a layer with an ignored producer or carrier is pinned.
        verify: whether layers are proved; without, places whose sizes are fixed in code may be read wrongly.

    Returns:
        Layers and pinned channels.

    Raises:
        ValueError: an unknown ignored layer, or a model that does not run on the example.
        TypeError: something else than a module, or ignored layers that are neither names nor modules.
    """
    model = plain_model(model)
    ignored = ignored_names(model, ignored_layers)
    with runnable(model, example_input):
        provenance = trace(model, example_input)
    if verify:
        layers = proved(model, example_input, provenance, ignored)
    else:
        layers = layers_of(model, provenance, {}, (), ignored)
    return Discovery(layers.groups, layers.pinned)


def layers_found(model: nn.Module, found: Discovery) -> list[ChannelGroup]:
    """The layers of a discovery, if there are any.

    Raises:
        UnsupportedStructureError: there are none; the first reasons are named.
    """
    if found.groups:
        return found.groups
    reasons = [f"{stay.name!r} {stay.reason}" for stay in found.pinned[:3]]
    why = "; ".join(reasons) if reasons else "no conv or linear output feeds another weighted layer"
    raise UnsupportedStructureError(f"{type(model).__name__} has no prunable layer: {why}")
