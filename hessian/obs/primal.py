"""Optimal brain surgery with the input factor as a matrix: the d x d side of :mod:`hessian.obs`, a consumer at a time.

The counterpart for few inputs is :mod:`hessian.obs.dual`; both offer the same methods.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from hessian.obs.algebra import Factorisations, block_prices, inverse, refit_columns
from hessian.obs.moments import Moment
from hessian.support.layout import in_float64, sent

BAND_COLUMNS = 1024
"""Columns whose products with all before them are formed at once."""


class DampedMatrix:
    """``A + diag(ridge)`` in float64.

    Args:
        matrix: A [groups, d, d].
        ridge: positive diagonal [groups, d].
    """

    def __init__(self, matrix: Tensor, ridge: Tensor) -> None:
        # A copy even of float64: the ridge is added in place, and the factor belongs to somebody else.
        doubled = in_float64(matrix)
        self.matrix = doubled.clone() if doubled is matrix else doubled
        self.matrix.diagonal(dim1=1, dim2=2).add_(ridge)

    @cached_property
    def _inverse(self) -> Tensor:
        return inverse(self.matrix)

    def refit(self, weight: Tensor, kept: Tensor, factorisations: Factorisations | None = None) -> Tensor:
        """Least-squares weights on the kept columns (:func:`hessian.obs.refit_columns`).

        Args:
            weight: [groups, d_out, d].
            kept: LongTensor [k]; on the CPU nobody has to wait for the device.
            factorisations: whoever checks the solution later; None checks it here.

        Returns:
            [groups, d_out, k] in the weight's dtype, where the weight is.
        """
        return refit_columns(weight, self.matrix, kept, factorisations).to(weight)

    def consumer(self, weight: Tensor, outputs: Moment, blocks: Tensor) -> DenseConsumer:
        """Contribution of these inputs to the prices of a layer's units.

        Args:
            weight: [groups, d_out, d]; a constant's column, the last, may be missing.
            outputs: G, of width d_out.
            blocks: LongTensor [n, c], the columns of each unit; on the CPU nobody has to wait for the device.
        """
        flat = blocks.reshape(-1)
        W = in_float64(weight[..., sent(flat, weight.device)]).transpose(1, 2)
        Z = W @ in_float64(outputs.matrix())
        if W.shape[2] > W.shape[1]:
            # More outputs than columns: the product is smaller than its factors.
            W, Z = torch.eye(W.shape[1], dtype=W.dtype, device=W.device).expand(len(W), -1, -1), W @ Z.transpose(1, 2)
        return DenseConsumer(_block(self._inverse, flat, flat), W, Z, _zeroing(self.matrix, W, Z, blocks))


@dataclass(frozen=True, eq=False)
class DenseConsumer:
    """A consumer's part of its layer's prices, on the layer's columns, unit after unit, c of them a unit.

    Attributes:
        inverse: damped ``A^-1`` [groups, n c, n c].
        weight: W [groups, n c, r].
        carried: Z = W G, the same shape: ``W Z^T`` is what G contributes to prices. (Any two factors of it do.)
        zeroing: price without repair as a quadratic in the indicator of the removed units [n, n].
    """

    inverse: Tensor
    weight: Tensor
    carried: Tensor
    zeroing: Tensor

    @property
    def num_units(self) -> int:
        """Units of the layer."""
        return len(self.zeroing)

    @property
    def device(self) -> torch.device:
        """Device the sweep runs on."""
        return self.zeroing.device

    def single_prices(self) -> Tensor:
        """Price of removing each unit alone, after repair: [n]."""
        c = self.inverse.shape[-1] // self.num_units
        return block_prices(diagonal_blocks(self.inverse, c), outer_blocks(self.weight, self.carried, c))

    def zeroing_curve(self, order: Tensor) -> Tensor:
        """Price without repair of the prefixes of an order: [n]; entry k removes the first k units.

        Args:
            order: LongTensor [n].
        """
        order = sent(order, self.device)
        # Removing k units costs the sum of the leading k x k block; sums along both axes leave it on the diagonal.
        total = self.zeroing[order][:, order].cumsum(0).cumsum(1).diagonal()
        return torch.cat([total.new_zeros(1), total[:-1]])

    def elimination(self) -> DenseElimination:
        """A fresh greedy elimination."""
        return DenseElimination(self.inverse, self.weight, self.carried, self.num_units)


@dataclass(frozen=True, eq=False)
class ConsumerQuadratic:
    """Contribution of one consumer to the price of its layer's units, with ``W^T G W`` as a matrix.

    Attributes:
        inverse: damped ``A^-1`` [groups, n c, n c] on the layer's columns, unit after unit.
        gram: ``W^T G W`` [groups, n c, n c], the same order.
        num_units: n.
    """

    inverse: Tensor
    gram: Tensor
    num_units: int

    @property
    def device(self) -> torch.device:
        """Device the sweep runs on."""
        return self.inverse.device

    def elimination(self) -> DenseElimination:
        """A fresh greedy elimination."""
        # Any two factors with this product will do; without W and G the gram is its own factor.
        eye = torch.eye(self.gram.shape[-1], dtype=self.gram.dtype, device=self.device).expand_as(self.gram)
        return DenseElimination(self.inverse, eye, self.gram, self.num_units)


class DenseElimination:
    """One consumer's matrices while units are removed, with the current panel's low-rank updates pending.

    A step conditions on the absence of the columns C: with ``L L^T = R_:C R_CC^-1 R_C:`` and ``P = R_:C R_CC^-1``

        ``R -= L L^T`` (a pivoted block Cholesky)      ``W -= P W_C``      ``Z -= P Z_C``

    What is left of the matrices stands in their leading columns: at the end of a panel the last columns move into the
    gaps, so that nothing is copied as a whole.

    Args:
        inverse: R [groups, n c, n c]; a copy is worked on.
        weight: W [groups, n c, r].
        carried: Z [groups, n c, r], with ``W Z^T`` symmetric.
        num_units: n.

    Attributes:
        c: columns of a unit.
    """

    def __init__(self, inverse: Tensor, weight: Tensor, carried: Tensor, num_units: int) -> None:
        self.c = inverse.shape[-1] // num_units
        self._R, self._W, self._Z = (
            matrix.clone(memory_format=torch.contiguous_format) for matrix in (inverse, weight, carried)
        )
        self._start_panel()

    def _start_panel(self) -> None:
        """Forget the pending updates and read the diagonal blocks afresh."""
        groups, width, _ = self._R.shape
        self._R_blocks = diagonal_blocks(self._R, self.c)
        self._M_blocks = outer_blocks(self._W, self._Z, self.c)
        self._L = self._P = self._R.new_empty(groups, width, 0)
        self._gone_W = self._gone_Z = self._W[:, :0]
        self._solving = Factorisations()

    def prices(self) -> Tensor:
        """Price of the unit in every slot (and garbage for those removed in this panel): [slots]."""
        return block_prices(self._R_blocks, self._M_blocks)

    def eliminate(self, columns: slice | Tensor) -> None:
        """Condition on the removal of the unit whose columns these are."""
        R = self._R[:, :, columns] - self._L @ self._L[:, columns].transpose(1, 2)
        factor = self._solving.cholesky(R[:, columns])
        L = torch.linalg.solve_triangular(factor, R.transpose(1, 2), upper=False).transpose(1, 2)
        P = torch.linalg.solve_triangular(factor, L, upper=False, left=False)
        W = self._W[:, columns] - self._P[:, columns] @ self._gone_W
        Z = self._Z[:, columns] - self._P[:, columns] @ self._gone_Z
        M = self._W @ Z.transpose(1, 2) - self._P @ (self._gone_W @ Z.transpose(1, 2))
        # The gram loses P M_C: + M_:C P^T - P M_CC P^T. Half of the last term in each of the others makes that
        # P Q^T + Q P^T, whose diagonal blocks need one product.
        Q = M - 0.5 * P @ M[:, columns]
        self._R_blocks = self._R_blocks - outer_blocks(L, L, self.c)
        cross = outer_blocks(P, Q, self.c)
        self._M_blocks = self._M_blocks - cross - cross.transpose(-1, -2)
        self._L = torch.cat([self._L, L], dim=2)
        self._P = torch.cat([self._P, P], dim=2)
        self._gone_W = torch.cat([self._gone_W, W], dim=1)
        self._gone_Z = torch.cat([self._gone_Z, Z], dim=1)

    def check(self) -> None:
        """Look whether all steps of the panel went well.

        Raises:
            DegenerateFactorError: one did not.
        """
        self._solving.check()

    def finish_panel(self, slots: Tensor) -> None:
        """Apply the pending updates to the remaining slots (on the CPU), in this order, and leave the rest behind."""
        moved = (slots != torch.arange(len(slots))).nonzero()[:, 0]
        device = self._R.device
        into, origin, columns = (sent(_columns(which, self.c), device) for which in (moved, slots[moved], slots))
        width = len(columns)
        L, P = self._L[:, columns], self._P[:, columns]
        self._R[:, into] = self._R[:, origin]
        self._R[:, :, into] = self._R[:, :, origin]
        self._R = self._R[:, :width, :width].baddbmm_(L, L.transpose(1, 2), alpha=-1)
        self._W = _moved(self._W, into, origin, width).baddbmm_(P, self._gone_W, alpha=-1)
        self._Z = _moved(self._Z, into, origin, width).baddbmm_(P, self._gone_Z, alpha=-1)
        self._start_panel()


def diagonal_blocks(matrix: Tensor, c: int) -> Tensor:
    """[g, n c, n c] -> [g, n, c, c]."""
    blocks = matrix.unflatten(2, (-1, c)).unflatten(1, (-1, c))
    return blocks.diagonal(dim1=1, dim2=3).permute(0, 3, 1, 2).contiguous()


def outer_blocks(left: Tensor, right: Tensor, c: int) -> Tensor:
    """Diagonal blocks of ``left right^T``: two [g, n c, k] -> [g, n, c, c]."""
    left, right = (matrix.unflatten(1, (-1, c)) for matrix in (left, right))
    return left @ right.transpose(-1, -2)


def _moved(matrix: Tensor, into: Tensor, origin: Tensor, width: int) -> Tensor:
    matrix[:, into] = matrix[:, origin]
    return matrix[:, :width]


def _columns(units: Tensor, c: int) -> Tensor:
    return (units[:, None] * c + torch.arange(c, device=units.device)).reshape(-1)


def _block(matrix: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Some rows and columns of [groups, d, d]; a view where they lie side by side."""
    ranges = [_as_slice(indices) for indices in (rows, columns)]
    if None not in ranges:
        return matrix[:, ranges[0], ranges[1]]
    rows, columns = (sent(indices, matrix.device) for indices in (rows, columns))
    return matrix[:, rows[:, None], columns]


def _as_slice(indices: Tensor) -> slice | None:
    first, count = int(indices[0]), len(indices)
    side_by_side = torch.equal(indices, torch.arange(first, first + count, device=indices.device))
    return slice(first, first + count) if side_by_side else None


def _zeroing(A: Tensor, W: Tensor, Z: Tensor, blocks: Tensor) -> Tensor:
    """``1/2 sum A o W Z^T`` over every pair of units [n, n], a band of rows at a time and each pair once."""
    n, c = blocks.shape
    quadratic = A.new_zeros(n, n)
    for start in range(0, n, max(1, BAND_COLUMNS // c)):
        stop = min(n, start + max(1, BAND_COLUMNS // c))
        rows, columns = slice(start * c, stop * c), slice(stop * c)
        products = W[:, rows] @ Z[:, columns].transpose(1, 2)
        flat = blocks[:stop].reshape(-1)
        products *= _block(A, flat[rows], flat)
        quadratic[start:stop, :stop] = products.sum(dim=0).view(stop - start, c, stop, c).sum(dim=(1, 3))
    lower = quadratic.tril()
    return 0.5 * (lower + lower.tril(-1).T)
