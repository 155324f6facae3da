"""Greedy elimination of a layer's units: one sweep gives the order, every set price, and the loss curve.

Each step removes the cheapest unit and conditions every consumer on its absence:

    ``A^-1 -= P A^-1_C:``      ``W -= W_C P^T``      with ``P = A^-1_:C (A^-1_CC)^-1``

so that prices telescope: the sum of the steps equals the exact price of the removed set. Only ``R = A^-1`` and
``M = W^T G W`` on the layer's own columns are tracked. In them a step is the low-rank downdate

    ``R -= L L^T`` (a pivoted block Cholesky)      ``M -= P Q^T + Q P^T``,  ``Q = M_:C - 1/2 P M_CC``

Updates are applied lazily, a panel of steps at a time as matrix products, and eliminated columns are dropped after each
panel: O(d^3) in total whatever the number of units.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from hessian.obs.algebra import block_prices, cholesky

PANEL_COLUMNS = 192
"""Columns eliminated between two full updates of the trailing matrices."""


@dataclass(frozen=True, eq=False)
class ConsumerQuadratic:
    """What one consumer contributes to the price of its layer's units.

    Attributes:
        inverse: damped ``A^-1`` [groups, n c, n c] on the layer's columns, unit after unit.
        gram: ``W^T G W`` [groups, n c, n c], the same order.
        num_units: n.
    """

    inverse: Tensor
    gram: Tensor
    num_units: int


@dataclass(frozen=True, eq=False)
class Sweep:
    """Result of a greedy elimination.

    Attributes:
        order: LongTensor [n], units in the order of removal, cheapest first.
        increments: float64 [n], price of every step given the removals before it; they sum to the set price.
    """

    order: Tensor
    increments: Tensor


class _ConsumerState:
    """Trailing matrices of one consumer, with the current panel's low-rank updates pending."""

    def __init__(self, consumer: ConsumerQuadratic) -> None:
        self.R = consumer.inverse.clone()
        self.M = consumer.gram.clone()
        self.c = consumer.inverse.shape[-1] // consumer.num_units
        self.start_panel()

    def start_panel(self) -> None:
        """Forget the pending updates and read the diagonal blocks afresh."""
        groups, width, _ = self.R.shape
        self.R_blocks = _diagonal_blocks(self.R, self.c)
        self.M_blocks = _diagonal_blocks(self.M, self.c)
        empty = self.R.new_empty(groups, width, 0)
        self.L, self.P, self.Q = empty, empty, empty

    def prices(self) -> Tensor:
        """Price of every unit still present (and garbage for those removed in this panel): [n]."""
        return block_prices(self.R_blocks, self.M_blocks)

    def eliminate(self, slot: int) -> None:
        """Condition on the removal of the unit at a slot."""
        columns = slice(slot * self.c, (slot + 1) * self.c)
        R_c = self.R[:, :, columns] - self.L @ self.L[:, columns].transpose(1, 2)
        M_c = (
            self.M[:, :, columns]
            - self.P @ self.Q[:, columns].transpose(1, 2)
            - self.Q @ self.P[:, columns].transpose(1, 2)
        )
        factor = cholesky(R_c[:, columns])
        L = torch.linalg.solve_triangular(factor, R_c.transpose(1, 2), upper=False).transpose(1, 2)
        P = torch.linalg.solve_triangular(factor, L, upper=False, left=False)
        Q = M_c - 0.5 * P @ M_c[:, columns]
        self.R_blocks = self.R_blocks - _outer_blocks(L, L, self.c)
        cross = _outer_blocks(P, Q, self.c)
        self.M_blocks = self.M_blocks - cross - cross.transpose(-1, -2)
        self.L = torch.cat([self.L, L], dim=2)
        self.P = torch.cat([self.P, P], dim=2)
        self.Q = torch.cat([self.Q, Q], dim=2)

    def finish_panel(self, alive: Tensor) -> None:
        """Apply the pending updates to the columns of the surviving slots and drop the rest."""
        columns = (alive[:, None] * self.c + torch.arange(self.c, device=alive.device)).reshape(-1)
        L, P, Q = self.L[:, columns], self.P[:, columns], self.Q[:, columns]
        self.R = _select(self.R, columns).baddbmm_(L, L.transpose(1, 2), alpha=-1)
        self.M = _select(self.M, columns).baddbmm_(P, Q.transpose(1, 2), alpha=-1)
        self.M.baddbmm_(Q, P.transpose(1, 2), alpha=-1)
        self.start_panel()


def greedy_sweep(consumers: Sequence[ConsumerQuadratic]) -> Sweep:
    """Eliminate all units of a layer greedily; prices are summed over the layer's consumers.

    Args:
        consumers: one quadratic a consumer, all with the same number of units.

    Returns:
        The :class:`Sweep`. Ties go to the lower unit.
    """
    n = consumers[0].num_units
    device = consumers[0].inverse.device
    states = [_ConsumerState(consumer) for consumer in consumers]
    slots = torch.arange(n, device=device)
    steps_per_panel = max(1, PANEL_COLUMNS // max(state.c for state in states))
    order: list[int] = []
    increments: list[float] = []
    while len(slots):
        taken: list[int] = []
        for _ in range(min(steps_per_panel, len(slots))):
            prices = torch.stack([state.prices() for state in states]).sum(dim=0)
            prices[taken] = torch.inf
            slot = int(prices.argmin())
            order.append(int(slots[slot]))
            increments.append(max(float(prices[slot]), 0.0))
            taken.append(slot)
            if len(order) < n:
                for state in states:
                    state.eliminate(slot)
        mask = torch.ones(len(slots), dtype=torch.bool, device=device)
        mask[taken] = False
        alive = mask.nonzero()[:, 0]
        slots = slots[alive]
        if len(slots):
            for state in states:
                state.finish_panel(alive)
    return Sweep(torch.tensor(order), torch.tensor(increments, dtype=torch.float64))


def _diagonal_blocks(matrix: Tensor, c: int) -> Tensor:
    """[g, n c, n c] -> [g, n, c, c]."""
    groups, width, _ = matrix.shape
    blocks = matrix.view(groups, width // c, c, width // c, c)
    return blocks.diagonal(dim1=1, dim2=3).permute(0, 3, 1, 2).contiguous()


def _outer_blocks(left: Tensor, right: Tensor, c: int) -> Tensor:
    """Diagonal blocks of ``left right^T``: two [g, n c, k] -> [g, n, c, c]."""
    groups, width, rank = left.shape
    shape = (groups, width // c, c, rank)
    return left.reshape(shape) @ right.reshape(shape).transpose(-1, -2)


def _select(matrix: Tensor, columns: Tensor) -> Tensor:
    return matrix.index_select(1, columns).index_select(2, columns)
