"""Greedy elimination of a layer's units: one sweep gives the order, every set price, and the loss curve.

Each step removes the cheapest unit and conditions every consumer on its absence:

    ``A^-1 -= P A^-1_C:``      ``W -= W_C P^T``      with ``P = A^-1_:C (A^-1_CC)^-1``

so that prices telescope: the sum of the steps equals the exact price of the removed set. Of a consumer only
``R = A^-1`` on the layer's own columns and two factors of ``W^T G W = W Z^T`` are tracked (:mod:`hessian.obs.primal`),
or the inputs themselves (:mod:`hessian.obs.dual`).

Updates are applied lazily, a panel of steps at a time as matrix products, and eliminated columns are left out after
each panel: O(d^3) in total whatever the number of units.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

PANEL_COLUMNS = 192
"""Columns eliminated between two full updates of the trailing matrices."""


@dataclass(frozen=True, eq=False)
class Sweep:
    """Result of a greedy elimination.

    Attributes:
        order: LongTensor [n], units in the order of removal, cheapest first.
        increments: float64 [n], price of every step given the removals before it; they sum to the set price.
    """

    order: Tensor
    increments: Tensor


class Elimination(Protocol):
    """One consumer while units are removed. A unit is named by its slot; slots move at the end of a panel."""

    c: int
    """Columns of a unit."""

    def prices(self) -> Tensor:
        """Price of the unit in every slot (and garbage for those removed in this panel): [slots]."""
        ...

    def eliminate(self, slot: int) -> None:
        """Condition on the removal of the unit in a slot."""
        ...

    def finish_panel(self, slots: Tensor) -> None:
        """Apply what is pending and keep these slots, in this order."""
        ...


class Eliminable(Protocol):
    """A consumer that units can be removed from."""

    @property
    def num_units(self) -> int:
        """Units of the layer."""
        ...

    @property
    def device(self) -> torch.device:
        """Device the sweep runs on."""
        ...

    def elimination(self) -> Elimination:
        """A fresh greedy elimination."""
        ...


def greedy_sweep(consumers: Sequence[Eliminable]) -> Sweep:
    """Eliminate all units of a layer greedily; prices are summed over the layer's consumers.

    Args:
        consumers: at least one, all with the same number of units.

    Returns:
        The :class:`Sweep`. Ties go to the lower unit.
    """
    states = [consumer.elimination() for consumer in consumers]
    units = torch.arange(consumers[0].num_units, device=consumers[0].device)
    # A panel is measured in columns, because that is what pending updates cost.
    steps = max(1, PANEL_COLUMNS // max(state.c for state in states))
    order: list[int] = []
    increments: list[float] = []
    while len(units):
        taken = _panel(states, units, steps, order, increments)
        slots = _filled_up(len(units), taken, units.device)
        units = units[slots]
        if len(units):
            for state in states:
                state.finish_panel(slots)
    return Sweep(torch.tensor(order), torch.tensor(increments, dtype=torch.float64))


def _panel(
    states: Sequence[Elimination], units: Tensor, steps: int, order: list[int], increments: list[float]
) -> list[int]:
    """Eliminate the next few units, appending to the order and the increments; returns their slots."""
    taken: list[int] = []
    by_unit = units.argsort()
    for _ in range(min(steps, len(units))):
        prices = torch.stack([state.prices() for state in states]).sum(dim=0)
        prices[taken] = torch.inf
        # Panels shuffle the slots; searching in the order of units makes ties go to the lower one.
        slot = int(by_unit[prices[by_unit].argmin()])
        order.append(int(units[slot]))
        # A redundant unit costs 0, and rounding may say a little less: curves must not fall.
        increments.append(max(float(prices[slot]), 0.0))
        taken.append(slot)
        if len(taken) < len(units):
            for state in states:
                state.eliminate(slot)
    return taken


def _filled_up(count: int, taken: Sequence[int], device: torch.device) -> Tensor:
    """Slots that remain, those behind moved into the gaps so that most stay where they are: LongTensor."""
    left = count - len(taken)
    gone = set(taken)
    moved = iter([slot for slot in range(left, count) if slot not in gone])
    return torch.tensor([next(moved) if slot in gone else slot for slot in range(left)], device=device).long()
