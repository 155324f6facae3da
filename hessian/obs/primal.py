"""Optimal brain surgery with the input factor as a matrix: the d x d side of :mod:`hessian.obs`, a consumer at a time.

The counterpart for few inputs is :mod:`hessian.obs.dual`; both offer the same methods.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from hessian.obs.algebra import inverse, obs_column_prices, output_gram, refit_columns
from hessian.obs.sweep import ConsumerQuadratic
from hessian.obs.sweep import _ConsumerState as DenseElimination

if TYPE_CHECKING:
    from hessian.obs.moments import Moment


class DampedMatrix:
    """``A + diag(ridge)`` in float64.

    Args:
        matrix: A [groups, d, d].
        ridge: positive diagonal [groups, d].
    """

    def __init__(self, matrix: Tensor, ridge: Tensor) -> None:
        self.matrix = matrix.to(torch.float64, copy=True)
        self.matrix.diagonal(dim1=1, dim2=2).add_(ridge)

    @cached_property
    def _inverse(self) -> Tensor:
        return inverse(self.matrix)

    def refit(self, weight: Tensor, kept: Tensor) -> Tensor:
        """Least-squares weights on the kept columns (:func:`hessian.obs.refit_columns`).

        Args:
            weight: [groups, d_out, d].
            kept: LongTensor [k].

        Returns:
            [groups, d_out, k] in the weight's dtype.
        """
        return refit_columns(weight, self.matrix, kept).to(weight.dtype)

    def consumer(self, weight: Tensor, outputs: Moment, blocks: Tensor) -> DenseConsumer:
        """What these inputs contribute to the prices of a layer's units.

        Args:
            weight: [groups, d_out, d]; a constant's column, the last, may be missing.
            outputs: G, of width d_out.
            blocks: LongTensor [n, c], the columns of each unit.
        """
        n, c = blocks.shape
        flat = blocks.reshape(-1)
        gram = output_gram(weight[..., flat], outputs.matrix())
        zeroing = (self.matrix[:, flat[:, None], flat].mul_(gram)).sum(dim=0).view(n, c, n, c).sum(dim=(1, 3)).mul_(0.5)
        return DenseConsumer(ConsumerQuadratic(self._inverse[:, flat[:, None], flat], gram, n), zeroing)


@dataclass(frozen=True, eq=False)
class DenseConsumer:
    """A consumer's part of its layer's prices.

    Attributes:
        quadratic: inverse and gram on the layer's columns.
        zeroing: price without repair as a quadratic in the indicator of the removed units [n, n].
    """

    quadratic: ConsumerQuadratic
    zeroing: Tensor

    @property
    def num_units(self) -> int:
        """Units of the layer."""
        return self.quadratic.num_units

    @property
    def device(self) -> torch.device:
        """Where the sweep runs."""
        return self.zeroing.device

    def single_prices(self) -> Tensor:
        """Price of removing each unit alone, after repair: [n]."""
        width = self.quadratic.inverse.shape[-1]
        blocks = torch.arange(width, device=self.device).view(self.num_units, -1)
        return obs_column_prices(self.quadratic.inverse, self.quadratic.gram, blocks)

    def zeroing_curve(self, order: Tensor) -> Tensor:
        """Price without repair of the prefixes of an order: [n]; entry k removes the first k units.

        Args:
            order: LongTensor [n].
        """
        order = order.to(self.device)
        total = self.zeroing[order][:, order].cumsum(0).cumsum(1).diagonal()
        return torch.cat([total.new_zeros(1), total[:-1]])

    def elimination(self) -> DenseElimination:
        """A fresh greedy elimination."""
        return DenseElimination(self.quadratic)
