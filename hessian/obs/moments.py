"""The second moment of a layer's inputs or output gradients, kept as a matrix or as the vectors themselves.

A Kronecker factor ``M = E[v v^T]`` [d, d] of N observed vectors has rank N at most. With N well below d the scaled
vectors ("rows", ``M = X^T X``) take less room than the matrix, and everything asked of it is cheaper in the N x N dual
(:mod:`hessian.obs.dual`). Both forms answer the same questions, so nothing else has to know which one it holds.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from hessian.support.layout import in_float64


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
        return torch.linalg.matrix_norm(in_float64(self.values)).square()

    def root(self) -> Tensor:
        """F [groups, r, d] in float64 with ``F^T F = M`` up to rounding."""
        # Not Cholesky: with few images M is singular, and rounding makes its smallest eigenvalues negative.
        values, vectors = torch.linalg.eigh(in_float64(self.values))
        return values.clamp_min(0).sqrt()[..., None] * vectors.transpose(1, 2)

    def scaled(self, factor: float) -> DenseMoment:
        """``factor * M``."""
        return DenseMoment(self.values * factor)


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
        rows = in_float64(self.values)
        # X^T X and X X^T have the same norm, and N x N is the smaller one.
        return (rows @ rows.transpose(1, 2)).square().sum(dim=(1, 2))

    def root(self) -> Tensor:
        """F [groups, r, d] in float64 with ``F^T F = M``: the rows."""
        return in_float64(self.values)

    def scaled(self, factor: float) -> RowMoment:
        """``factor * M``."""
        return RowMoment(self.values * factor**0.5)


Moment = DenseMoment | RowMoment
