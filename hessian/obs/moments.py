"""The second moment of a layer's inputs or output gradients, kept as a matrix or as the vectors themselves.

A Kronecker factor ``M = E[v v^T]`` [d, d] of N observed vectors has rank N at most. With N well below d the scaled
vectors ("rows", ``M = X^T X``) take less room than the matrix, and everything asked of it is cheaper in the N x N dual
(:mod:`hessian.obs.dual`). Both forms answer the same questions, so nothing else has to know which one it holds.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from hessian.obs.dual import DampedRows, DualConsumer
from hessian.obs.primal import DampedMatrix, DenseConsumer

Consumer = DenseConsumer | DualConsumer

DEAD_BESIDE_CONSTANT = 1e-10
"""Smallest mean square of inputs, beside a constant of 1, that damping goes by."""


@dataclass(frozen=True, eq=False)
class DenseMoment:
    """A second moment as a matrix.

    Attributes:
        values: M [groups, d, d].
    """

    values: Tensor

    def matrix(self) -> Tensor:
        """M [groups, d, d]."""
        return self.values

    def diagonal(self) -> Tensor:
        """Diagonal of M [groups, d]."""
        return self.values.diagonal(dim1=1, dim2=2)

    def square_norm(self) -> Tensor:
        """Squared Frobenius norm of M, float64 [groups]."""
        return torch.linalg.matrix_norm(self.values, dtype=torch.float64).square()

    def root(self) -> Tensor:
        """F [groups, r, d] in float64 with ``F^T F = M`` up to rounding."""
        values, vectors = torch.linalg.eigh(self.values.double())
        return values.clamp_min(0).sqrt()[..., None] * vectors.transpose(1, 2)

    def scaled(self, factor: float) -> DenseMoment:
        """``factor * M``."""
        return DenseMoment(self.values * factor)

    def damped(self, ridge: Tensor) -> DampedMatrix:
        """``M + diag(ridge)``, ready for refits and prices; ridge [groups, d]."""
        return DampedMatrix(self.values, ridge)


@dataclass(frozen=True, eq=False)
class RowMoment:
    """A second moment as rows.

    Attributes:
        values: X [groups, N, d] with ``X^T X = M``: the observed vectors, each over sqrt of their number.
    """

    values: Tensor

    def matrix(self) -> Tensor:
        """M [groups, d, d], formed anew: d^2 numbers."""
        return self.values.transpose(1, 2) @ self.values

    def diagonal(self) -> Tensor:
        """Diagonal of M [groups, d]."""
        return self.values.square().sum(dim=1)

    def square_norm(self) -> Tensor:
        """Squared Frobenius norm of M, float64 [groups]."""
        rows = self.values.double()
        return (rows @ rows.transpose(1, 2)).square().sum(dim=(1, 2))

    def root(self) -> Tensor:
        """F [groups, r, d] in float64 with ``F^T F = M``: the rows."""
        return self.values.double()

    def scaled(self, factor: float) -> RowMoment:
        """``factor * M``."""
        return RowMoment(self.values * factor**0.5)

    def damped(self, ridge: Tensor) -> DampedRows:
        """``M + diag(ridge)``, ready for refits and prices; ridge [groups, d]."""
        return DampedRows(self.values, ridge)


Moment = DenseMoment | RowMoment


@dataclass(frozen=True, eq=False)
class KroneckerFactors:
    """Curvature of one layer.

    Attributes:
        inputs: second moment of the inputs, width d_in; the last entry belongs to the constant 1 when ``bias``.
        outputs: second moment of the output gradients, width d_out.
        bias: whether the inputs carry the constant.
    """

    inputs: Moment
    outputs: Moment
    bias: bool

    @property
    def A(self) -> Tensor:
        """Input factor [groups, d_in, d_in]; formed anew where it is kept as rows."""
        return self.inputs.matrix()

    @property
    def G(self) -> Tensor:
        """Output-gradient factor [groups, d_out, d_out]; formed anew where it is kept as rows."""
        return self.outputs.matrix()

    def ridge(self, damping: float) -> Tensor:
        """Diagonal that damps A, float64 [groups, d_in]: ``damping`` times the mean diagonal of the inputs.

        The constant is damped no more than the inputs are, and by ``damping`` at most. Inputs that are (nearly) dead
        are damped as if they were small instead, or the constant beside them would drown the ridge in rounding.
        """
        diagonal = self.inputs.diagonal().double()
        columns = diagonal[:, :-1] if self.bias else diagonal
        smallest = DEAD_BESIDE_CONSTANT if self.bias else torch.finfo(torch.float64).tiny
        mean = columns.mean(dim=1, keepdim=True).clamp_min(smallest)
        ridge = (damping * mean).expand_as(diagonal).clone()
        if self.bias:
            ridge[:, -1].clamp_max_(damping)
        return ridge

    def damped(self, damping: float) -> DampedMatrix | DampedRows:
        """The damped input factor, ready for refits and prices."""
        return self.inputs.damped(self.ridge(damping))

    def consumer(self, damped: DampedMatrix | DampedRows, weight: Tensor, blocks: Tensor) -> Consumer:
        """What the layer, as a consumer, contributes to the prices of the units that feed it.

        Args:
            damped: :meth:`damped`, made once for all the layers that feed this one.
            weight: [groups, d_out, d_in], without the constant's column.
            blocks: LongTensor [n, c], the columns of each unit.
        """
        return damped.consumer(weight, self.outputs, blocks)
