"""Greedy elimination of a layer whose consumers hold their inputs in different forms.

:func:`hessian.obs.sweep.greedy_sweep` for consumers that are matrices; the same steps, consumer by consumer, where some
are rows (:mod:`hessian.obs.dual`).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from hessian.obs.dual import DualElimination
from hessian.obs.moments import Consumer
from hessian.obs.primal import DenseConsumer
from hessian.obs.sweep import PANEL_COLUMNS, Sweep, greedy_sweep
from hessian.obs.sweep import _ConsumerState as DenseElimination


def eliminate(consumers: Sequence[Consumer]) -> Sweep:
    """Eliminate all units of a layer greedily; prices are summed over the layer's consumers.

    Args:
        consumers: at least one, all with the same number of units.

    Returns:
        The :class:`hessian.obs.sweep.Sweep`. Ties go to the lower unit.
    """
    dense = [consumer for consumer in consumers if isinstance(consumer, DenseConsumer)]
    if len(dense) == len(consumers):
        return greedy_sweep([consumer.quadratic for consumer in dense])
    states: list[DenseElimination | DualElimination] = [consumer.elimination() for consumer in consumers]
    remaining = torch.arange(consumers[0].num_units, device=consumers[0].device)
    steps = max(1, PANEL_COLUMNS // max(state.c for state in states))
    order: list[int] = []
    increments: list[float] = []
    while len(remaining):
        taken = _panel(states, remaining, steps, order, increments)
        mask = torch.ones(len(remaining), dtype=torch.bool, device=remaining.device)
        mask[taken] = False
        alive = mask.nonzero()[:, 0]
        remaining = remaining[alive]
        if len(remaining):
            for state in states:
                state.finish_panel(alive)
    return Sweep(torch.tensor(order), torch.tensor(increments, dtype=torch.float64))


def _panel(
    states: Sequence[DenseElimination | DualElimination],
    remaining: Tensor,
    steps: int,
    order: list[int],
    increments: list[float],
) -> list[int]:
    """Eliminate the next few units, appending to the order and the increments; returns their slots."""
    taken: list[int] = []
    for _ in range(min(steps, len(remaining))):
        prices = torch.stack([state.prices() for state in states]).sum(dim=0)
        prices[taken] = torch.inf
        slot = int(prices.argmin())
        order.append(int(remaining[slot]))
        increments.append(max(float(prices[slot]), 0.0))
        taken.append(slot)
        if len(taken) < len(remaining):
            for state in states:
                state.eliminate(slot)
    return taken
