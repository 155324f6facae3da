"""The prunable layers of a network: which channels leave together, and where they are stored.

A *layer* of the pruning problem is a set of coupled channels. Removing channel ``i`` of a layer removes

* row ``i`` of every **producer** (the convolutions and linear maps that compute the channel; a residual stream has
  several of them),
* entry ``i`` of every **carrier** (normalisation, depthwise convolution, bare per-channel parameter: they pass the
  channel on without mixing it with others), and
* the columns of channel ``i`` in every **consumer** (the maps that mix it with other channels; after a flatten a
  channel owns several columns, after a concatenation its columns start at an offset).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from hessian.channels.group import ChannelGroup
from hessian.discovery.discover import discover, layers_found


def find_channel_groups(
    model: nn.Module, example_input: Any, ignored_layers: Sequence[str | nn.Module] = (), *, verify: bool = True
) -> list[ChannelGroup]:
    """Find the prunable layers of a network, in execution order of their roots; `discover` also says what stays.

    Args:
        model: any network that runs on the example; it is left as it was.
        example_input: what it accepts, on its device; see `hessian.discovery.discover.discover`.
        ignored_layers: names (or modules) whose channels stay; a layer with an ignored producer or carrier is left out.
        verify: whether every layer is proved by cutting it for trial.

    Returns:
        One :class:`ChannelGroup` a prunable layer.

    Raises:
        UnsupportedStructureError: nothing at all can be pruned; the reasons are named.
        ValueError: an unknown ignored layer, or a model that does not run on the example.
        TypeError: something else than a module, or ignored layers that are neither names nor modules.
    """
    return layers_found(model, discover(model, example_input, ignored_layers, verify=verify))
