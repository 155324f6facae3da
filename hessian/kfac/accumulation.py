"""Running sums of what hooks see: second moments of a layer's inputs and output gradients.

Vectors are kept as rows (:mod:`hessian.obs.moments`) while there are few of them, and folded into a matrix as soon as
there are more.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from hessian.obs.moments import DenseMoment, Moment, RowMoment
from hessian.patches.matrices import input_second_moment, output_columns, output_second_moment, patches
from hessian.support.distributed import Workers

WIDEST_MATRIX = 8192
"""Width up to which a matrix is affordable (512 MiB in float64), so that speed alone decides."""

ROW_FRACTION = 4
"""There, sweeps on rows are the faster ones up to about a quarter as many rows as columns (measured)."""


def row_limit(width: int) -> int:
    """Number of vectors from which on their second moment is kept as a matrix."""
    return width if width > WIDEST_MATRIX else width // ROW_FRACTION


class Observations(Protocol):
    """Vectors seen in one pass."""

    @property
    def count(self) -> int:
        """Number of vectors, in each group."""
        ...

    def rows(self) -> Tensor:
        """The vectors [groups, count, width]."""
        ...

    def matrix(self) -> Tensor:
        """Sum of their outer products [groups, width, width]."""
        ...


@dataclass(frozen=True, eq=False)
class InputVectors:
    """Inputs of a layer at every output position.

    Attributes:
        module: the layer.
        inputs: what it was called with.
        count: images x output positions, or images when ``reduce``.
        bias: append the constant 1.
        reduce: average over an image's positions first.
    """

    module: nn.Module
    inputs: Tensor
    count: int
    bias: bool
    reduce: bool

    def rows(self) -> Tensor:
        """Input vectors [groups, count, d_in (+ 1)]."""
        columns = patches(self.module, self.inputs)
        rows = _as_rows(columns.mean(dim=3, keepdim=True) if self.reduce else columns)
        return torch.cat([rows, rows.new_ones(*rows.shape[:2], 1)], dim=2) if self.bias else rows

    def matrix(self) -> Tensor:
        """Sum of ``a a^T``."""
        return input_second_moment(self.module, self.inputs, bias=self.bias, reduce=self.reduce)[0]


@dataclass(frozen=True, eq=False)
class OutputGradients:
    """Output gradients of a layer at every output position.

    Attributes:
        module: the layer.
        gradients: as they arrive in the backward pass.
        count: images x output positions, or images when ``reduce``.
        reduce: sum over an image's positions first.
    """

    module: nn.Module
    gradients: Tensor
    count: int
    reduce: bool

    def rows(self) -> Tensor:
        """Gradients [groups, count, d_out]."""
        columns = output_columns(self.module, self.gradients)
        return _as_rows(columns.sum(dim=3, keepdim=True) if self.reduce else columns)

    def matrix(self) -> Tensor:
        """Sum of ``g g^T``."""
        return output_second_moment(self.module, self.gradients, reduce=self.reduce)


class MomentSum:
    """Running sum of outer products of vectors.

    Args:
        limit: vectors from which on they are folded into a matrix, see :func:`row_limit`.
        passes: how many additions are to be expected; with many, rows are not even begun.

    Attributes:
        count: vectors so far.
    """

    def __init__(self, limit: int, passes: int = 1) -> None:
        self.count = 0
        self._limit = limit
        self._passes = passes
        self._rows: list[Tensor] = []
        self._matrix: Tensor | None = None

    def add(self, seen: Observations) -> None:
        """Add what was seen in one pass."""
        first = self.count == 0
        self.count += seen.count
        expected = seen.count * self._passes if first else self.count
        if self._matrix is None and max(expected, self.count) < self._limit:
            # A copy: rows may be views of tensors that the network overwrites.
            self._rows.append(seen.rows().clone())
            return
        matrix = seen.matrix()
        self._fold()
        self._matrix = matrix if self._matrix is None else self._matrix.add_(matrix)

    def shown(self) -> list[Tensor]:
        """Tensors that hold a NaN or an infinity as soon as one was seen."""
        return self._rows if self._matrix is None else [self._matrix.diagonal(dim1=1, dim2=2)]

    def merge(self, workers: Workers) -> None:
        """Add up the sums of several processes, each of which has seen something."""
        if workers.size == 1:
            return
        device = (self._rows[0] if self._matrix is None else self._matrix).device
        counts = torch.zeros(workers.size + 1, dtype=torch.int64, device=device)
        counts[workers.rank], counts[-1] = self.count, int(self._matrix is not None)
        *each, folded = workers.sum(counts).tolist()
        self.count = sum(each)
        if folded or self.count >= self._limit:
            self._fold()
            assert self._matrix is not None
            workers.sum(self._matrix)
        else:
            own = torch.cat(self._rows, dim=1)
            everyone = own.new_zeros(own.shape[0], self.count, own.shape[2])
            before = sum(each[: workers.rank])
            everyone[:, before : before + own.shape[1]] = own
            self._rows = [workers.sum(everyone)]

    def moment(self, divisor: float) -> Moment:
        """The sum over a divisor, as a second moment."""
        if self._matrix is not None:
            return DenseMoment(self._matrix / divisor)
        return RowMoment(torch.cat(self._rows, dim=1) / math.sqrt(divisor))

    def _fold(self) -> None:
        for rows in self._rows:
            matrix = rows.transpose(1, 2) @ rows
            self._matrix = matrix if self._matrix is None else self._matrix.add_(matrix)
        self._rows = []


def input_width(module: Any) -> int:
    """Entries of an input vector of one group, without a constant."""
    if isinstance(module, nn.Linear):
        return module.in_features
    return module.in_channels // module.groups * math.prod(module.kernel_size)


def output_width(module: Any) -> int:
    """Entries of an output vector of one group."""
    return module.out_features if isinstance(module, nn.Linear) else module.out_channels // module.groups


def _as_rows(columns: Tensor) -> Tensor:
    """[N, groups, d, S] -> [groups, N S, d]."""
    return columns.permute(1, 0, 3, 2).reshape(columns.shape[1], -1, columns.shape[2])
