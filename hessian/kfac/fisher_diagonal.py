"""The diagonal of a layer's Fisher matrix, exact per sample."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from hessian.patches.matrices import CHUNK_ELEMENTS, from_matrix, output_columns, patches


@dataclass(frozen=True, eq=False)
class LastBatch:
    """The part of a pass that a layer's diagonal needs.

    Attributes:
        module: the layer, with the geometry it was called with.
        inputs: what it was called with.
        gradients: gradients of its output, one a backward pass, as they come.
    """

    module: Any
    inputs: Tensor
    gradients: list[Tensor] = field(default_factory=list)


def fisher_diagonal(module: Any, inputs: Tensor, gradients: Sequence[Tensor]) -> Tensor:
    """``F_ij = 1/N sum_n (dL_n / dW_ij)^2`` with the full gradient of a sample, its positions summed before the square.

    Args:
        module: a convolution or linear layer.
        inputs: what it was called with, N samples.
        gradients: gradients of its output, of losses summed over samples; their diagonals add up.

    Returns:
        Tensor of the shape of the layer's weight.
    """
    images = max(1, CHUNK_ELEMENTS // module.weight.numel())
    total: Tensor | None = None
    for gradient in gradients:
        for part, slopes in zip(inputs.split(images), gradient.split(images), strict=True):
            squares = (output_columns(module, slopes) @ patches(module, part).transpose(2, 3)).square().sum(dim=0)
            total = squares if total is None else total + squares
    assert total is not None
    return from_matrix(module, total / len(inputs), bias=False)[0]
