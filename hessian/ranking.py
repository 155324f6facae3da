"""One ranking over all layers: which units go first when the whole network has to lose a fraction of something."""

from __future__ import annotations

import heapq
from collections.abc import Sequence

import numpy as np

from hessian.flops import FlopsModel

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
