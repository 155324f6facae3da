"""The curvature of one layer: its two Kronecker factors, and which algebra serves the form they are kept in."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from hessian.obs.dual import DampedRows, DualConsumer
from hessian.obs.moments import Moment, RowMoment
from hessian.obs.primal import DampedMatrix, DenseConsumer
from hessian.support.layout import in_float64

Consumer = DenseConsumer | DualConsumer

DEAD_BESIDE_CONSTANT = 1e-10
"""Smallest mean square of inputs, beside a constant of 1, that damping goes by."""


def with_ridge(moment: Moment, ridge: Tensor) -> DampedMatrix | DampedRows:
    """``M + diag(ridge)``, ready for refits and prices.

    Args:
        moment: M, in either form.
        ridge: positive diagonal [groups, d].
    """
    if isinstance(moment, RowMoment):
        return DampedRows(moment.values, ridge)
    return DampedMatrix(moment.values, ridge)


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
        diagonal = in_float64(self.inputs.diagonal())
        columns = diagonal[:, :-1] if self.bias else diagonal
        smallest = DEAD_BESIDE_CONSTANT if self.bias else torch.finfo(torch.float64).tiny
        mean = columns.mean(dim=1, keepdim=True).clamp_min(smallest)
        ridge = (damping * mean).expand_as(diagonal).clone()
        if self.bias:
            ridge[:, -1].clamp_max_(damping)
        return ridge

    def damped(self, damping: float) -> DampedMatrix | DampedRows:
        """The damped input factor, ready for refits and prices."""
        return with_ridge(self.inputs, self.ridge(damping))

    def consumer(self, damped: DampedMatrix | DampedRows, weight: Tensor, blocks: Tensor) -> Consumer:
        """Contribution of the layer, as a consumer, to the prices of the units that feed it.

        Args:
            damped: :meth:`damped`, made once for all the layers that feed this one.
            weight: [groups, d_out, d_in], without the constant's column.
            blocks: LongTensor [n, c], the columns of each unit.
        """
        return damped.consumer(weight, self.outputs, blocks)
