"""Weights of several plans at common shapes, stacked.

The common shapes are those of a *wide* plan, which keeps whatever one of the plans keeps. What a plan has not kept of
them is zero: the channel's filters, biases and statistics, and every weight that reads it. Such a channel carries
nothing, whatever an activation makes of zero, unless channels are mixed on the way (a norm over channels): that is
found out by trying (:mod:`prune_gym.measuring.stacked.side_by_side`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from hessian.channels.slicing import Cut

Stacked = dict[str, Tensor]
"""State dict of several plans: every tensor has a leading dimension [plans]."""


def stack(wide: Cut, cuts: Sequence[Cut], states: Sequence[Mapping[str, Tensor]]) -> Stacked:
    """State dicts of several plans as one, at the shapes of the wide plan.

    Args:
        wide: the plan that keeps what any of the others keeps, applied to the network.
        cuts: the plans, applied to the same network.
        states: of each, a state dict at its own shapes.

    Returns:
        Every key of the network's state dict, [plans, ...].
    """
    dense = wide.model.state_dict()
    places = {
        name: torch.arange(tensor.numel(), device=tensor.device).view(tensor.shape) for name, tensor in dense.items()
    }
    widened = [wide.state(_spread(places, cut, state)) for cut, state in zip(cuts, states, strict=True)]
    return {name: torch.stack([state[name] for state in widened]) for name in dense}


def _spread(places: Mapping[str, Tensor], cut: Cut, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A plan's tensors where they were in the dense network's, zeros elsewhere."""
    spread: dict[str, Tensor] = {}
    for name, kept in cut.state(places).items():
        tensor = state[name]
        if kept is not places[name]:
            whole = tensor.new_zeros(places[name].numel())
            whole[kept.reshape(-1)] = tensor.reshape(-1)
            tensor = whole.view(places[name].shape)
        spread[name] = tensor
    return spread
