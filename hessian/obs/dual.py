r"""Optimal brain surgery with the inputs themselves instead of their second moment: the N x N dual.

Where a layer has seen fewer input vectors N than it has columns d (a flattened 25,088-column ``Linear`` and a few
images), ``A = X^T X + D`` with rows X [N, d] and a diagonal ridge D is never formed. In coordinates whitened by the
ridge, ``X <- X D^-1/2`` and ``W <- W D^1/2``, the matrix inversion lemma turns everything into N x N systems over
the kept columns K and removed columns C:

    ``A_KK^-1 = I - X_K^T M^-1 X_K``      with ``M = I + X_K X_K^T``
    ``W'_K = W_K + W_C X_C^T M^-1 X_K``   the refit of :func:`hessian.obs.refit_columns`

Prices see G only through a root ``F^T F = G``, that is through ``V = F W`` [r, d]. Rotating the columns *inside* a unit
changes nothing in these coordinates, so a unit of c > N columns (49 behind a flattened 7 x 7 map) is rotated until only
N of them carry data; the others cost their ridge, a constant.

Leading dimensions are the groups of a grouped convolution.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from hessian.obs.algebra import Factorisations, block_prices, cholesky, complement
from hessian.obs.moments import Moment
from hessian.support.layout import in_float64, sent

CHUNK_ELEMENTS = 1 << 22
"""Elements of a weight converted to float64 at once."""

CHUNK_COLUMNS = 1024
"""Columns whose mutual products are formed at once."""


class DampedRows:
    """``A = X^T X + diag(ridge)``, held as whitened rows.

    Args:
        rows: X [groups, N, d].
        ridge: positive diagonal [groups, d].
    """

    def __init__(self, rows: Tensor, ridge: Tensor) -> None:
        self._scale = in_float64(ridge).sqrt()
        self._rows = in_float64(rows) / self._scale[:, None, :]

    def refit(self, weight: Tensor, kept: Tensor, factorisations: Factorisations | None = None) -> Tensor:
        """Least-squares weights on the kept columns, as :func:`hessian.obs.refit_columns` gives them.

        Args:
            weight: [groups, d_out, d].
            kept: LongTensor [k]; on the CPU nobody has to wait for the device.
            factorisations: whoever checks the solution later; None checks it here.

        Returns:
            [groups, d_out, k] in the weight's dtype; the weight itself where nothing is removed.
        """
        removed, stays = complement(kept, weight.shape[-1]), sent(kept, weight.device)
        if len(removed) == 0:
            return weight[..., stays]
        removed, kept = sent(removed, self._rows.device), sent(kept, self._rows.device)
        X = self._rows[..., kept]
        # The weights themselves are never whitened: `forth` takes them into whitened coordinates, `back` out again.
        factor = cholesky if factorisations is None else factorisations.cholesky
        back = torch.cholesky_solve(X, factor(_plus_identity(X))) / self._scale[:, None, kept]
        forth = (self._rows[..., removed] * self._scale[:, None, removed]).transpose(1, 2)
        refitted = weight.new_empty(*weight.shape[:-1], len(kept))
        for part in _chunks(weight):
            carried = in_float64(weight[:, part])[..., removed] @ forth
            refitted[:, part] = weight[:, part][..., stays] + (carried @ back).to(weight)
        return refitted

    def consumer(self, weight: Tensor, outputs: Moment, blocks: Tensor) -> DualConsumer:
        """Contribution of these inputs to the prices of a layer's units.

        Args:
            weight: [groups, d_out, d]; a constant's column, the last, may be missing.
            outputs: G, of width d_out.
            blocks: LongTensor [n, c], the columns of each unit; on the CPU nobody has to wait for the device.
        """
        flat, root = blocks.reshape(-1), outputs.root()
        rest, flat = sent(complement(flat, self._rows.shape[-1]), root.device), sent(flat, root.device)
        V = root.new_zeros(*root.shape[:2], len(flat))
        for part in _chunks(weight):
            V += root[:, :, part] @ in_float64(weight[:, part])[..., flat]
        V *= self._scale[:, None, flat]
        # Columns of other layers are never removed in this sweep, so they enter M once.
        others = self._rows[..., rest]
        return _rotated(self._rows[..., flat], V, _plus_identity(others), len(blocks))


@dataclass(frozen=True, eq=False)
class DualConsumer:
    """A consumer's part of its layer's prices, in whitened and rotated columns, c of them a unit.

    Attributes:
        rows: X^T [groups, n c, N].
        outputs: V^T [groups, n c, r].
        outside: ``I + X X^T`` [groups, N, N] over the columns that are not the layer's.
        constant: [n], price of each unit's columns without data.
        num_units: n.
    """

    rows: Tensor
    outputs: Tensor
    outside: Tensor
    constant: Tensor
    num_units: int

    @property
    def block(self) -> int:
        """Columns of a unit, c."""
        return self.rows.shape[1] // self.num_units

    @property
    def device(self) -> torch.device:
        """Device the sweep runs on."""
        return self.rows.device

    def single_prices(self) -> Tensor:
        """Price of removing each unit alone, after repair: [n]."""
        elimination = self.elimination()
        prices = elimination.prices()
        elimination.check()
        return prices

    def zeroing_curve(self, order: Tensor) -> Tensor:
        """Price without repair, ``1/2 tr(G W_S A_SS W_S^T)``, of the prefixes S of an order.

        Args:
            order: LongTensor [n].

        Returns:
            [n]; entry k removes the first k units.
        """
        order, c = sent(order, self.device), self.block
        columns = _columns(order, c)
        carried = self.outputs.new_zeros(self.rows.shape[0], self.outputs.shape[2], self.rows.shape[2])
        steps = []
        for part in columns.split(max(1, CHUNK_COLUMNS // c) * c):
            X, V = self.rows[:, part], self.outputs[:, part]
            among = (X @ X.transpose(1, 2)).mul_(V @ V.transpose(1, 2)).sum(dim=0)
            among = among.view(len(part) // c, c, len(part) // c, c).sum(dim=(1, 3))
            before = (V @ carried).mul_(X).sum(dim=(0, 2)).view(-1, c).sum(dim=1)
            # A unit joins with its own energy and twice its products with the units that are gone already.
            steps.append(among.diagonal() + 2 * (among.tril(-1).sum(dim=1) + before))
            carried += V.transpose(1, 2) @ X
        # Whitened, A_SS is X_S^T X_S + I, and the identity leaves the squared lengths of the columns of V.
        ridge = self.outputs.square().sum(dim=(0, 2)).view(-1, c).sum(dim=1)[order]
        total = (0.5 * (torch.cat(steps) + ridge) + self.constant[order]).cumsum(0)
        return torch.cat([total.new_zeros(1), total[:-1]])

    def elimination(self) -> DualElimination:
        """A fresh greedy elimination."""
        return DualElimination(self)


class DualElimination:
    """Trailing system of one consumer while units are removed: :mod:`hessian.obs.sweep`'s updates on implicit matrices.

    ``R = I - X^T M^-1 X`` and ``V^T V`` stand for the inverse and the gram. Removals in a panel are pending low-rank
    updates of both; the end of a panel applies them to V and forms M anew.

    Attributes:
        c: columns of a unit.
    """

    def __init__(self, consumer: DualConsumer) -> None:
        self.c = consumer.block
        self._outside, self._constant = consumer.outside, consumer.constant
        self._solving = Factorisations()
        self._X, self._V = consumer.rows, consumer.outputs
        self._start_panel()

    def _start_panel(self) -> None:
        groups, width, _ = self._X.shape
        # M is summed anew over the columns that are left: it is small, and subtracting what went would cancel digits.
        core = torch.baddbmm(self._outside, self._X.transpose(1, 2), self._X)
        self._solved = torch.cholesky_solve(self._X.transpose(1, 2), self._solving.cholesky(core))
        eye = torch.eye(self.c, dtype=core.dtype, device=core.device)
        self._R_blocks = eye - _diagonal_blocks(self._X, self._solved.transpose(1, 2), self.c)
        self._M_blocks = _diagonal_blocks(self._V, self._V, self.c)
        self._L = self._P = self._X.new_empty(groups, width, 0)
        self._gone_V = self._V[:, :0]

    def prices(self) -> Tensor:
        """Price of the unit in every slot (and garbage for those removed in this panel): [slots]."""
        return block_prices(self._R_blocks, self._M_blocks) + self._constant

    def eliminate(self, columns: slice | Tensor) -> None:
        """Condition on the removal of the unit whose columns these are."""
        R = -(self._X @ self._solved[:, :, columns])
        R[:, columns] += torch.eye(self.c, dtype=R.dtype, device=R.device)
        R -= self._L @ self._L[:, columns].transpose(1, 2)
        factor = self._solving.cholesky(R[:, columns])
        L = torch.linalg.solve_triangular(factor, R.transpose(1, 2), upper=False).transpose(1, 2)
        P = torch.linalg.solve_triangular(factor, L, upper=False, left=False)
        V = self._V[:, columns] - self._P[:, columns] @ self._gone_V
        M = self._V @ V.transpose(1, 2) - self._P @ (self._gone_V @ V.transpose(1, 2))
        # The gram loses P M_C: + M_:C P^T - P M_CC P^T. Half of the last term in each of the others makes that
        # P Q^T + Q P^T, whose diagonal blocks need one product.
        Q = M - 0.5 * P @ M[:, columns]
        self._R_blocks = self._R_blocks - _diagonal_blocks(L, L, self.c)
        cross = _diagonal_blocks(P, Q, self.c)
        self._M_blocks = self._M_blocks - cross - cross.transpose(-1, -2)
        self._L = torch.cat([self._L, L], dim=2)
        self._P = torch.cat([self._P, P], dim=2)
        self._gone_V = torch.cat([self._gone_V, V], dim=1)

    def check(self) -> None:
        """Look whether all steps since the last check went well.

        Raises:
            DegenerateFactorError: one did not.
        """
        self._solving.check()

    def finish_panel(self, slots: Tensor) -> None:
        """Apply the pending updates to the remaining slots (on the CPU), in this order, and drop the rest."""
        slots = sent(slots, self._X.device)
        columns = _columns(slots, self.c)
        self._V = self._V[:, columns] - self._P[:, columns] @ self._gone_V
        self._X = self._X[:, columns]
        self._constant = self._constant[slots]
        self._start_panel()


def _rotated(X: Tensor, V: Tensor, outside: Tensor, num_units: int) -> DualConsumer:
    """Consumer of units [n, c] given in X [g, N, n c] and V [g, r, n c], with at most N columns a unit."""
    groups, N, width = X.shape
    c = width // num_units
    constant = X.new_zeros(num_units)
    X, V = X.transpose(1, 2), V.transpose(1, 2)
    if c > N:
        basis, X = torch.linalg.qr(X.reshape(groups, num_units, c, N))
        V = V.reshape(groups, num_units, c, -1)
        reached = basis.transpose(2, 3) @ V
        # What V has outside the span of the data meets the ridge alone, here the identity: its price never changes.
        constant = 0.5 * (V - basis @ reached).square().sum(dim=(0, 2, 3))
        X, V = X.reshape(groups, num_units * N, N), reached.reshape(groups, num_units * N, -1)
    return DualConsumer(X.contiguous(), V.contiguous(), outside, constant, num_units)


def _plus_identity(rows: Tensor) -> Tensor:
    """``I + X X^T`` [groups, N, N]."""
    eye = torch.eye(rows.shape[1], dtype=rows.dtype, device=rows.device)
    return eye + rows @ rows.transpose(1, 2)


def _columns(units: Tensor, c: int) -> Tensor:
    """Columns of some units of c columns each, LongTensor [len(units) * c]."""
    return (units[:, None] * c + torch.arange(c, device=units.device)).reshape(-1)


def _diagonal_blocks(left: Tensor, right: Tensor, c: int) -> Tensor:
    """Diagonal blocks of ``left right^T``: two [g, n c, k] -> [g, n, c, c]."""
    groups, width, _ = left.shape
    left, right = (matrix.reshape(groups, width // c, c, -1) for matrix in (left, right))
    return left @ right.transpose(-1, -2)


def _chunks(weight: Tensor) -> list[slice]:
    """Slices of a weight's rows, small enough to be converted at once."""
    size = max(1, CHUNK_ELEMENTS // (weight.shape[0] * weight.shape[2]))
    return [slice(start, start + size) for start in range(0, weight.shape[1], size)]
