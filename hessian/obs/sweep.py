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

from hessian.support.layout import sent

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

    def eliminate(self, columns: slice | Tensor) -> None:
        """Condition on the removal of the unit whose columns these are (a LongTensor [c] on the device)."""
        ...

    def check(self) -> None:
        """Look whether all steps since the last check went well, and raise where one did not."""
        ...

    def finish_panel(self, slots: Tensor) -> None:
        """Apply what is pending and keep these slots (on the CPU), in this order."""
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

    The host waits for the device once a panel, not at every step.

    Args:
        consumers: at least one, all with the same number of units.

    Returns:
        The :class:`Sweep`, on the CPU. Ties go to the lower unit.

    Raises:
        DegenerateFactorError: a consumer's input factor is not positive definite.
    """
    states = [consumer.elimination() for consumer in consumers]
    units = torch.arange(consumers[0].num_units)
    # A panel is measured in columns, because that is what pending updates cost.
    steps = max(1, PANEL_COLUMNS // max(state.c for state in states))
    order: list[Tensor] = []
    increments: list[Tensor] = []
    while len(units):
        taken, prices = _panel(states, units, steps, consumers[0].device)
        for state in states:
            state.check()
        order.append(units[taken])
        increments.append(prices)
        slots = _filled_up(len(units), taken.tolist())
        units = units[slots]
        if len(units):
            for state in states:
                state.finish_panel(slots)
    # A redundant unit costs 0, and rounding may say a little less: curves must not fall.
    return Sweep(torch.cat(order), torch.cat(increments).clamp_min(0.0))


def _panel(states: Sequence[Elimination], units: Tensor, steps: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Eliminate the next few units; returns their slots and prices, in the order of removal, on the CPU."""
    taken: list[Tensor] = []
    increments: list[Tensor] = []
    by_unit = sent(units.argsort(), device)
    gone = torch.zeros(len(units), dtype=torch.bool, device=device)
    for _ in range(min(steps, len(units))):
        prices = torch.stack([state.prices() for state in states]).sum(dim=0).masked_fill(gone, torch.inf)
        # Panels shuffle the slots; searching in the order of units makes ties go to the lower one.
        slot = by_unit[prices[by_unit].argmin(dim=0, keepdim=True)]
        taken.append(slot)
        increments.append(prices[slot])
        gone[slot] = True
        if len(taken) < len(units):
            for state in states:
                state.eliminate(_columns(slot, state.c))
    return torch.cat(taken).cpu(), torch.cat(increments).cpu()


def _columns(slot: Tensor, c: int) -> slice | Tensor:
    """Columns of the unit in a slot [1]: as a slice, which copies nothing, where nobody waits for reading the slot."""
    if slot.device.type == "cpu":
        return slice(int(slot) * c, (int(slot) + 1) * c)
    return slot * c + torch.arange(c, device=slot.device)


def _filled_up(count: int, taken: Sequence[int]) -> Tensor:
    """Slots that remain, those behind moved into the gaps so that most stay where they are: LongTensor."""
    left = count - len(taken)
    gone = set(taken)
    moved = iter([slot for slot in range(left, count) if slot not in gone])
    return torch.tensor([next(moved) if slot in gone else slot for slot in range(left)]).long()
