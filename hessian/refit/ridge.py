"""Ridge regression of a layer's weights, centred at the weights it has."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from hessian.obs.algebra import Factorisations
from hessian.obs.refined import Solver
from hessian.patches.matrices import (
    CHUNK_ELEMENTS,
    moment_with_constant,
    output_columns,
    patches,
    to_matrix,
)
from hessian.patches.products import outer_sum
from hessian.refit.relu_aware import ROUNDS, ReluTargets
from hessian.refit.standardised import Made, centred_ridge
from hessian.support.layout import in_float64


@dataclass(frozen=True, eq=False)
class Refitted:
    """A layer's solution.

    Attributes:
        matrix: [groups, d_out, d_in (+ 1 with a constant)] in float64.
        missed: share of the targets' variance (over positions, summed over outputs) that the solution misses, a scalar;
            before a ReLU, what the ReLU lets through of the miss. It falls out of the normal equations, up to rounding.
    """

    matrix: Tensor
    missed: Tensor

    @property
    def error(self) -> float:
        """The share as a number, at least 0; reading it waits for the device."""
        return errors_of([self.missed])[0]


def errors_of(missed: Sequence[Tensor]) -> list[float]:
    """Shares that solutions miss as numbers, at least 0, read together; 0 where there was nothing to miss."""
    shares = torch.stack(list(missed)).tolist() if missed else []
    return [share if math.isfinite(share) and share > 0.0 else 0.0 for share in shares]


def ridge_refit(
    module: Any,
    shift: Tensor | None,
    inputs: Sequence[Tensor],
    targets: Sequence[Tensor],
    damping: float,
    relu: Sequence[ReluTargets] | None = None,
    factorisations: Factorisations | None = None,
    standardised: Made | None = None,
) -> Refitted:
    """Ridge regression of targets on a layer's inputs, centred at its current weights.

    Args:
        module: a convolution or linear layer.
        shift: current constant [d_out] added to the outputs (a bias), or None to fit none.
        inputs: what the layer is called with, batch by batch.
        targets: what it should give, batch by batch.
        damping: relative to the mean diagonal of ``X X^T``; the constant is hardly damped.
        relu: what a ReLU behind the layer makes of its outputs, batch by batch; the solution is then improved in a few
            rounds for what the ReLU lets through (:mod:`hessian.refit.relu_aware`). None asks for the targets as they
            are.
        factorisations: whoever checks the solution later; None checks it here.
        standardised: the weight forward makes, where it standardises its parameter; the solution is one, too.

    Returns:
        The solution, with or without a constant as ``shift`` is given or not, and its error.

    Raises:
        DegenerateFactorError: the equations have no solution; NaN or infinite inputs, or too little damping.
    """
    given = module.weight if standardised is None else standardised.weight
    weight = in_float64(to_matrix(module, given, shift))
    columns = _Patches(module, inputs)
    gram = _gram(columns, shift is not None, weight)
    solving = factorisations or Factorisations()
    solutions = 1 + ROUNDS if relu else 1
    solve = _solution(weight, gram, damping, shift is not None, solving, standardised, solutions)
    asked = wanted = _cross(columns, targets, weight)
    matrix = solve(wanted.cross)
    for _ in range(ROUNDS if relu else 0):
        wanted = _cross(columns, relu or (), weight, matrix)
        matrix = solve(wanted.cross)
    if factorisations is None:
        solving.check()
    return Refitted(matrix, wanted.missed(matrix, gram, asked.variance))


class NormalEquations:
    """Sums of a ridge regression that is gathered call by call, for layers that run more than once.

    Args:
        weight: matrices [groups, d_out, d_in (+ 1 with a constant)] the solution is pulled towards.
        constant: whether the inputs carry a constant 1, as their last entry.
        standardised: the weight forward makes, where it standardises its parameter.
    """

    def __init__(self, weight: Tensor, *, constant: bool, standardised: Made | None = None) -> None:
        self._weight = in_float64(weight)
        self._constant = constant
        self._standardised = standardised
        self._gram: Tensor | None = None
        self._wanted: _Wanted | None = None

    def add(self, module: Any, inputs: Sequence[Tensor], targets: Sequence[Tensor]) -> None:
        """Add a call, batch by batch."""
        columns = _Patches(module, inputs)
        gram = _gram(columns, self._constant, self._weight)
        self._gram = gram if self._gram is None else self._gram + gram
        wanted = _cross(columns, targets, self._weight)
        self._wanted = wanted if self._wanted is None else self._wanted.plus(wanted)

    def solve(self, damping: float, factorisations: Factorisations) -> Refitted:
        """The solution for all calls so far (at least one), not checked yet."""
        assert self._gram is not None
        assert self._wanted is not None
        solve = _solution(self._weight, self._gram, damping, self._constant, factorisations, self._standardised)
        matrix = solve(self._wanted.cross)
        return Refitted(matrix, self._wanted.missed(matrix, self._gram, self._wanted.variance))


def _solution(
    weight: Tensor,
    gram: Tensor,
    damping: float,
    constant: bool,
    factorisations: Factorisations,
    standardised: Made | None,
    solutions: int = 1,
) -> Callable[[Tensor], Tensor]:
    """Function from ``Y X^T`` to the ridge solution, that is called so many times."""
    ridge = _ridge(gram, damping, constant)
    if standardised is not None:
        return centred_ridge(weight, gram, ridge, constant=constant, fixed_lengths=standardised.rule.gain is None)
    solver = Solver(gram + torch.diag_embed(ridge), weight.shape[1] * solutions, factorisations.cholesky)
    return lambda cross: weight + solver.solve((cross - weight @ gram).transpose(1, 2)).transpose(1, 2)


def wide(tensor: Tensor) -> Tensor:
    """The tensor in float32 where it is in 16 bits: products are formed and solved in more than networks compute in."""
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


class _Patches:
    """A layer's inputs as columns, a few images at a time: kept where they are few, else formed anew in every pass."""

    def __init__(self, module: Any, inputs: Sequence[Tensor]) -> None:
        self.module, self._inputs = module, inputs
        self._kept: list[tuple[int, slice, Tensor]] | None = None
        if sum(map(self._elements, inputs)) <= CHUNK_ELEMENTS:
            self._kept = list(self._formed())

    def __iter__(self) -> Iterator[tuple[int, slice, Tensor]]:
        """(batch, its images, their patches [N, groups, d_in, S])."""
        return iter(self._formed() if self._kept is None else self._kept)

    def _formed(self) -> Iterator[tuple[int, slice, Tensor]]:
        for batch, given in enumerate(self._inputs):
            # So few that patches, their outer products and targets fit into memory together.
            images = max(1, CHUNK_ELEMENTS // 4 // max(1, self._elements(given[:1])))
            for start in range(0, len(given), images):
                part = slice(start, start + images)
                yield batch, part, patches(self.module, given[part])

    def _elements(self, inputs: Tensor) -> int:
        kernel = 1 if isinstance(self.module, nn.Linear) else math.prod(self.module.kernel_size)
        return inputs.numel() * kernel


def _gram(columns: _Patches, constant: bool, weight: Tensor) -> Tensor:
    """``X X^T`` over all batches, [groups, d_in (+ 1), d_in (+ 1)]."""
    gram = weight.new_zeros(weight.shape[0], weight.shape[2], weight.shape[2])
    for _, _, X in columns:
        gram += (moment_with_constant(X) if constant else outer_sum(X)).to(gram.device)
    return gram


def _ridge(gram: Tensor, damping: float, constant: bool) -> Tensor:
    """Term that damping adds to the diagonal, [groups, d_in (+ 1)]."""
    diagonal = gram.diagonal(dim1=1, dim2=2)
    inputs = diagonal[:, :-1] if constant else diagonal
    mean = inputs.mean(dim=1, keepdim=True).clamp_min(torch.finfo(gram.dtype).tiny)
    ridge = (damping * mean).expand_as(diagonal).clone()
    if constant:
        ridge[:, -1] = torch.minimum(ridge[:, -1], damping * gram[:, -1, -1])
    return ridge


@dataclass(frozen=True, eq=False)
class _Wanted:
    """Sums over all positions of what a layer should give.

    Attributes:
        cross: ``Y X^T`` [groups, d_out, d_in (+ 1)].
        squares: summed squares of Y, a scalar.
        sums: of Y, [groups, d_out].
        count: positions.
    """

    cross: Tensor
    squares: Tensor
    sums: Tensor
    count: int

    @property
    def variance(self) -> Tensor:
        """Summed squares of Y around its means."""
        return self.squares - self.sums.square().sum() / self.count

    def missed(self, matrix: Tensor, gram: Tensor, variance: Tensor) -> Tensor:
        """Share of a variance that ``|Y - W X|^2`` is, from sums alone, a scalar."""
        residual = self.squares - ((2 * self.cross - matrix @ gram) * matrix).sum()
        return residual.clamp_min(0.0) / variance

    def plus(self, other: _Wanted) -> _Wanted:
        """The sums over both."""
        return _Wanted(
            self.cross + other.cross,
            self.squares + other.squares,
            self.sums + other.sums,
            self.count + other.count,
        )


def _cross(
    columns: _Patches,
    targets: Sequence[Tensor] | Sequence[ReluTargets],
    weight: Tensor,
    matrix: Tensor | None = None,
) -> _Wanted:
    """Sums over all batches; with a matrix, Y is what its outputs should become."""
    cross, sums = torch.zeros_like(weight), weight.new_zeros(weight.shape[:2])
    squares, count = weight.new_zeros(()), 0
    for batch, part, X in columns:
        wanted, width = targets[batch], X.shape[2]
        if isinstance(wanted, ReluTargets):
            assert matrix is not None
            own = wanted.at(part)
            target = own.against(_outputs(columns.module, matrix, X, own.wanted))
        else:
            target = wanted[part]
        Y = output_columns(columns.module, target)
        cross[:, :, :width] += outer_sum(Y, X).to(cross.device)
        sums = sums + Y.sum(dim=(0, 3)).to(cross.device)
        squares = squares + Y.square().sum().to(cross.device)
        count += Y.shape[0] * Y.shape[3]
    cross[:, :, width:] += sums[:, :, None]
    return _Wanted(cross, squares, sums, count)


def _outputs(module: Any, matrix: Tensor, X: Tensor, like: Tensor) -> Tensor:
    """Outputs of the layer with other weights, in the shape of its own."""
    width = X.shape[2]
    matrix = matrix.to(X)
    if X.shape[3] == 1:  # many single positions: one product instead of one an image
        columns = (X[..., 0].transpose(0, 1) @ matrix[:, :, :width].transpose(1, 2)).transpose(0, 1)[..., None]
    else:
        columns = matrix[:, :, :width] @ X
    if matrix.shape[2] > width:
        columns = columns + matrix[:, :, width:]
    if isinstance(module, nn.Linear):
        columns = columns[:, 0].transpose(1, 2)
    return columns.reshape(like.shape)
