r"""Trace calibration: give every layer's Kronecker product the trace of the layer's exact curvature.

``A (x) G`` of KFAC-expand treats output positions as independent. In a network with global average pooling they are
not, and whole layers are mis-scaled. The exact trace of a layer's Gauss-Newton matrix costs one Gram matrix a sample,

    ``E_n || sum_s g_ns a_ns^T ||^2``     against     ``tr(A) tr(G)``

and their ratio scales G. Prices within a layer keep their order; prices across layers become comparable.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hessian.obs.moments import Moment
from hessian.patches.matrices import CHUNK_ELEMENTS, output_columns, patches
from hessian.support.distributed import Workers
from hessian.support.layout import in_float64


class TraceSum:
    """Running sum of squared norms of per-sample weight gradients."""

    def __init__(self) -> None:
        self._total: Tensor | None = None

    def add(self, module: nn.Module, inputs: Tensor, gradients: Tensor) -> None:
        """Add one pass.

        Args:
            module: a convolution or linear layer.
            inputs: what it was called with.
            gradients: gradients of its output, of a loss summed over samples.
        """
        total = sum_of_square_norms(module, inputs, gradients)
        self._total = total if self._total is None else self._total + total

    def merge(self, workers: Workers) -> None:
        """Add up the sums of several processes."""
        if self._total is not None:
            workers.sum(self._total)

    def ratio(self, samples: int, inputs: Moment, outputs: Moment, *, bias: bool) -> float:
        """Exact trace over ``tr(A) tr(G)``; the constant takes no part. 1 where the layer carries no curvature.

        Args:
            samples: images seen.
            inputs: A.
            outputs: G.
            bias: whether A carries a constant, as its last entry.
        """
        if self._total is None:
            return 1.0
        diagonal = in_float64(inputs.diagonal())
        traces = (diagonal[:, :-1] if bias else diagonal).sum(dim=1) * in_float64(outputs.diagonal()).sum(dim=1)
        approximate = float(traces.sum())
        return float(self._total) / samples / approximate if approximate > 0 else 1.0


def sum_of_square_norms(module: nn.Module, inputs: Tensor, gradients: Tensor) -> Tensor:
    """``sum_n || sum_s g_ns a_ns^T ||^2``, float64 scalar; groups of a grouped convolution add up."""
    total = in_float64(torch.zeros((), device=inputs.device))
    kernel = module.weight[0, 0].numel() if isinstance(module, nn.modules.conv._ConvNd) else 1
    images = max(1, CHUNK_ELEMENTS // (inputs[0].numel() * kernel))
    for part, gradient in zip(inputs.split(images), gradients.split(images), strict=True):
        a, g = patches(module, part), output_columns(module, gradient)
        d_in, d_out, positions = a.shape[2], g.shape[2], a.shape[3]
        if positions * (d_in + d_out) < d_in * d_out:
            products = (a.transpose(2, 3) @ a) * (g.transpose(2, 3) @ g)
        else:
            products = (g @ a.transpose(2, 3)).square()
        total += products.to(total.device).sum(dtype=torch.float64)
    return total
