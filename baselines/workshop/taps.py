"""Places where a layer's channels are read: gates on them, and the feature maps they carry.

Removing a channel takes it from the inputs of all its consumers. A gate at those inputs is therefore exact for every
architecture: at 0 the network computes what surgery leaves. In a network of ReLUs it is the same function as a gate
behind every batch norm that makes the channel, because ReLU, sums, pooling and depthwise convolutions without a bias
pass a positive factor on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from hessian.channels.group import ChannelGroup, Member
from hessian.channels.layer_calls import layer_input
from hessian.channels.layer_types import CONV_TYPES

MapVisitor = Callable[[ChannelGroup, Tensor], None]
"""Called with a layer and its feature maps ``[N, size, H, W]`` of one batch, once a place they are read."""


@contextmanager
def gated(model: nn.Module, groups: Sequence[ChannelGroup], gates: Mapping[str, Tensor]) -> Iterator[None]:
    """Inside, every channel is multiplied by its layer's gate where it is read.

    Args:
        model: the network.
        groups: its layers.
        gates: layer name -> factors ``[size]``; layers left out are not touched. They may require gradients.
    """
    modules = dict(model.named_modules())
    feeding: dict[str, list[tuple[str, Tensor]]] = {}
    for group in groups:
        if group.name in gates:
            for member in group.consumers:
                feeding.setdefault(member.module, []).append((group.name, member.indices))

    def gate(consumer: str) -> Any:
        def multiply(module: nn.Module, args: Any, kwargs: Any) -> tuple[Any, Any]:
            x = layer_input(args, kwargs)
            axis = 1 if isinstance(module, CONV_TYPES) else x.ndim - 1
            factors = torch.ones(x.shape[axis], dtype=x.dtype, device=x.device)
            for layer, indices in feeding[consumer]:
                values = gates[layer].to(x).repeat_interleave(indices.shape[1])
                factors = factors.index_copy(0, indices.reshape(-1).to(x.device), values)
            shape = [1] * x.ndim
            shape[axis] = -1
            return (x * factors.view(shape), *args[1:]), {key: kwargs[key] for key in kwargs if key != "input"}

        return multiply

    handles = [modules[name].register_forward_pre_hook(gate(name), with_kwargs=True) for name in feeding]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def watched(model: nn.Module, groups: Sequence[ChannelGroup], visit: MapVisitor) -> Iterator[None]:
    """Inside, every forward pass shows the post-activation feature maps of every layer.

    They are read where convolutions read them. A layer that no convolution reads (the last one, before global pooling
    and the classifier) is read behind its last normalisation, through a ReLU; a hidden linear layer at the next
    linear map, as maps of 1 x 1.
    """
    modules = dict(model.named_modules())
    handles = [handle for group in groups for handle in _attach(group, modules, partial(visit, group))]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _attach(group: ChannelGroup, modules: Mapping[str, nn.Module], show: Callable[[Tensor], None]) -> list[Any]:
    readers = [member for member in group.consumers if isinstance(modules[member.module], CONV_TYPES)]
    if readers:
        return [_before(modules[member.module], member, show) for member in readers]
    makers = [member for member in group.carriers if member.parameter is None] or list(group.producers)
    last = makers[-1]
    if isinstance(modules[group.producers[0].module], CONV_TYPES):
        return [_behind(modules[last.module], last, show)]
    return [_before(modules[member.module], member, show) for member in group.consumers]


def _before(module: nn.Module, member: Member, show: Callable[[Tensor], None]) -> Any:
    def hook(module: nn.Module, args: Any, kwargs: Any) -> None:
        x = layer_input(args, kwargs).detach()
        if isinstance(module, CONV_TYPES):
            show(x[:, member.indices[:, 0].to(x.device)])
        else:
            show(x[..., member.indices.to(x.device)].reshape(-1, len(member.indices), member.width, 1))

    return module.register_forward_pre_hook(hook, with_kwargs=True)


def _behind(module: nn.Module, member: Member, show: Callable[[Tensor], None]) -> Any:
    def hook(module: nn.Module, inputs: Any, output: Tensor) -> None:
        show(output.detach()[:, member.indices[:, 0].to(output.device)].relu())

    return module.register_forward_hook(hook)


def per_unit(group: ChannelGroup, channels: Tensor) -> Tensor:
    """Sum of channel values over the channels of every unit: ``[size]`` -> ``[num_units]``."""
    return torch.stack([channels[list(unit)].sum() for unit in group.units])


def unit_mask(group: ChannelGroup, kept: np.ndarray) -> Tensor:
    """Gates of a layer's channels, float [size]: 1 for units that stay."""
    mask = torch.ones(group.size)
    mask[group.channels(np.flatnonzero(~kept))] = 0.0
    return mask
