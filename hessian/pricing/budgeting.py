"""From the prices, orders and loss curves of single layers to what leaves the whole network."""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from hessian.channels.flops import FlopsModel
from hessian.channels.group import ChannelGroup

RANKINGS = ("channels", "flops")
"""Quantities that a pruning ratio may be a fraction of."""


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


Steps = Sequence[Sequence[float]]
"""By layer: price of every further unit, in the order of removal; the last unit of a layer has none."""

Sizes = Sequence[Sequence[int]]
"""By layer: channels of every unit, in the order of removal."""


def rank_by_channels(steps: Steps, sizes: Sizes, goal: float) -> list[int]:
    """Cheapest unit first, until enough channels are gone.

    Args:
        steps: price of every further unit, non-decreasing in each layer.
        sizes: channels of every unit.
        goal: channels to remove; where the layers cannot lose as many, all but one unit of each go.

    Returns:
        Units removed, a layer.
    """
    removed = [0] * len(steps)
    heap = [(prices[0], layer) for layer, prices in enumerate(steps) if prices]
    heapq.heapify(heap)
    gone = 0
    while heap and gone < goal:
        _, layer = heapq.heappop(heap)
        gone += sizes[layer][removed[layer]]
        removed[layer] += 1
        if removed[layer] < len(steps[layer]):
            heapq.heappush(heap, (steps[layer][removed[layer]], layer))
    return removed


def rank_by_flops(steps: Steps, sizes: Sizes, flops: FlopsModel, ratio: float) -> list[int]:
    """The unit that costs least per FLOP it saves first, until enough FLOPs are gone.

    What a unit saves depends on what its neighbours have lost by then.

    Args:
        steps: price of every further unit, non-decreasing in each layer.
        sizes: channels of every unit.
        flops: FLOPs of the pruned network.
        ratio: fraction of the dense network's FLOPs to remove, in [0, 1).

    Returns:
        Units removed, a layer.

    Raises:
        ValueError: the layers cannot lose as many (the reachable fraction is named).
    """
    removed, lost = [0] * len(steps), np.zeros(len(steps))
    price = np.array([prices[0] if prices else np.inf for prices in steps])
    more = np.array([channels[0] for channels in sizes], dtype=np.float64)
    dense = flops.flops(lost)
    while (now := flops.flops(lost)) > (1.0 - ratio) * dense:
        if not np.isfinite(price).any():
            raise ValueError(
                f"pruning_ratio {ratio} of the FLOPs is out of reach: with one unit left in every layer the network "
                f"loses {1.0 - now / dense:.4f} of them"
            )
        layer = int(np.argmin(price / np.maximum(flops.savings(lost, more), 1.0)))
        lost[layer] += more[layer]
        removed[layer] += 1
        ended = removed[layer] == len(steps[layer])
        price[layer] = np.inf if ended else steps[layer][removed[layer]]
        more[layer] = sizes[layer][removed[layer]]
    return removed
