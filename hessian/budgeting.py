"""From the prices, orders and loss curves of single layers to what leaves the whole network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from hessian.channels import ChannelGroup
from hessian.flops import FlopsModel
from hessian.ranking import rank_by_channels, rank_by_flops

RANKINGS = ("channels", "flops")
"""What a pruning ratio may be a fraction of."""


def prices_of_channels(groups: Sequence[ChannelGroup], prices: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Prices of single channels: those of a larger unit share its price equally.

    Args:
        groups: the layers.
        prices: layer -> [num_units], price of every unit.

    Returns:
        Layer -> float64 [size].
    """
    result = {}
    for group in groups:
        shares = torch.zeros(group.size, dtype=torch.float64)
        for unit, price in zip(group.units, prices[group.name], strict=True):
            shares[list(unit)] = price / len(unit)
        result[group.name] = shares
    return result


def cheapest_removals(
    groups: Sequence[ChannelGroup],
    orders: Mapping[str, Tensor],
    curves: Mapping[str, Tensor],
    ratio: float,
    flops: FlopsModel | None = None,
) -> list[int]:
    """Units every layer keeps when a fraction of the network goes, cheapest first across layers.

    Args:
        groups: the layers.
        orders: layer -> LongTensor [num_units], units in the order of removal.
        curves: layer -> [num_units], predicted loss increase after removing the first k units.
        ratio: fraction to remove, in [0, 1): of all channels of the layers, or of the FLOPs where ``flops`` is given.
        flops: FLOPs of the pruned network; units are then ranked by their price for each FLOP saved.

    Returns:
        Kept units a layer; at least one each.

    Raises:
        ValueError: so many FLOPs are out of reach.
    """
    steps = [curves[group.name].diff().cummax(0).values.tolist() for group in groups]
    sizes = [[len(group.units[unit]) for unit in orders[group.name].tolist()] for group in groups]
    if flops is None:
        removed = rank_by_channels(steps, sizes, ratio * sum(group.size for group in groups))
    else:
        removed = rank_by_flops(steps, sizes, flops, ratio)
    return [group.num_units - count for group, count in zip(groups, removed, strict=True)]


def prefix_plan(
    groups: Sequence[ChannelGroup], orders: Mapping[str, Tensor], kept: Sequence[int]
) -> dict[str, list[int]]:
    """The pruning plan of a kept vector: every layer loses a prefix of its elimination order.

    Args:
        groups: the layers.
        orders: layer -> LongTensor [num_units], units in the order of removal.
        kept: kept units a layer, in the order of ``groups``, each in [1, num_units].

    Returns:
        Layer -> removed channel indices, sorted; layers that lose nothing are absent.

    Raises:
        ValueError: another number of entries than layers, or an entry out of range.
    """
    if len(kept) != len(groups):
        raise ValueError(f"kept must have one entry for each of the {len(groups)} layers, got {len(kept)}")
    plan = {}
    for group, count in zip(groups, kept, strict=True):
        if not 1 <= int(count) <= group.num_units:
            raise ValueError(f"layer {group.name!r} keeps {int(count)} units; it has 1 to {group.num_units}")
        if int(count) < group.num_units:
            plan[group.name] = group.channels(orders[group.name][: group.num_units - int(count)].tolist())
    return plan
