r"""Solutions of symmetric positive definite systems in float64, from a float32 factorisation where that is faster.

``A X = B`` is solved with the Cholesky factor of A in float32, and improved by residuals in float64 (iterative
refinement, Wilkinson 1963): ``X += L^-T L^-1 (B - A X)``. Every round takes the error down by a factor of about
``cond(A) 6e-8``, A scaled to a unit diagonal. It is a solution when what is left, estimated from the last two
corrections, is at most :data:`TOLERANCE` of it; where corrections do not shrink fast enough, or A has no factor in
float32, A is factorised in float64.

It saves the d^3/3 of a factorisation in float64 and costs 2 d^2 k in float64 for every round and k columns of B, so
that it is for slow float64 and few columns (:func:`pays`). CPUs and data-centre GPUs compute float64 at half the rate:
there it hardly ever pays. GPUs for gaming and workstations do so at 1/32 or 1/64.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

TOLERANCE = 1e-11
"""Largest error that a refined solution may have, relative to it, by estimate."""

MOST_ROUNDS = 8
"""Rounds after which a solution is given up."""

EXPECTED_ROUNDS = 4
"""Rounds that :func:`pays` counts on: those of a condition of 1e5 or so, as damping of 1e-3 leaves it."""

SLOWEST_SHRINKING = 0.25
"""Largest ratio of two corrections that is taken for convergence."""

HALF_RATE = frozenset({(6, 0), (7, 0), (8, 0), (9, 0), (10, 0)})
"""Compute capabilities of the NVIDIA GPUs that compute float64 at half the rate of float32: P100 to B200."""


def float64_rate(device: torch.device) -> float:
    """Rate of arithmetic in float64 over that in float32: 1/2, or 1/64 on a GPU that is not :data:`HALF_RATE`."""
    if device.type != "cuda" or torch.cuda.get_device_capability(device) in HALF_RATE:
        return 0.5
    return 1 / 64


def pays(device: torch.device, width: int, columns: int) -> bool:
    """Return whether a refined solution takes less arithmetic time than one in float64, by operations and rates.

    Never on a CPU: of 1,024 unknowns and 16 columns (condition 2e4) it takes 24 ms instead of 23 there, of 2,048 125
    instead of 138, and with more columns more.

    Args:
        device: where A is.
        width: d.
        columns: k, of all right sides together.
    """
    if device.type == "cpu":
        return False
    factorising, solving = width / 3, 2 * columns  # operations over d^2; a residual takes as many as a solution
    slow = 1 / float64_rate(device)
    refined = factorising + solving * (1 + EXPECTED_ROUNDS) + slow * solving * EXPECTED_ROUNDS
    return refined < slow * (factorising + solving)


class Solver:
    """Solves ``A X = B`` for several B with one factorisation.

    Args:
        matrix: A, float64 [..., d, d], symmetric positive definite; not to be modified while it is solved with.
        columns: of all B together, so that the way to solve can be chosen.
        factorise: gives the Cholesky factor of a matrix in float64, and checks it whenever it likes. A refined solution
            is checked here, and the host waits for the device once a round.
        refine: whether to try refinement; None asks :func:`pays`.

    Attributes:
        rounds: of the last refined solution; None where there is none, or the last was factorised in float64.
    """

    def __init__(
        self, matrix: Tensor, columns: int, factorise: Callable[[Tensor], Tensor], *, refine: bool | None = None
    ) -> None:
        self._matrix, self._factorise = matrix, factorise
        self._factor: Tensor | None = None
        self._low: tuple[Tensor, Tensor] | None = None
        self.rounds: int | None = None
        if pays(matrix.device, matrix.shape[-1], columns) if refine is None else refine:
            scale = matrix.diagonal(dim1=-2, dim2=-1).rsqrt()[..., None]
            factor, code = torch.linalg.cholesky_ex((matrix * scale * scale.transpose(-1, -2)).float())
            if not bool((code != 0).any()):
                self._low = factor, scale

    def solve(self, right: Tensor) -> Tensor:
        """X [..., d, k] of B [..., d, k], float64."""
        if self._low is not None:
            solution = self._refined(right, *self._low)
            if solution is not None:
                return solution
            self._low = None
        if self._factor is None:
            self._factor = self._factorise(self._matrix)
        return torch.cholesky_solve(right, self._factor)

    def _refined(self, right: Tensor, factor: Tensor, scale: Tensor) -> Tensor | None:
        """The refined solution, or None where it does not converge."""
        self.rounds = None
        solution, before = torch.zeros_like(right), torch.inf
        for rounds in range(MOST_ROUNDS + 1):
            residual = scale * (right - self._matrix @ solution if rounds else right)
            # Residuals are brought to a size that float32 holds.
            size = residual.abs().amax(dim=(-2, -1), keepdim=True).clamp_min(torch.finfo(residual.dtype).tiny)
            correction = scale * size * torch.cholesky_solve((residual / size).float(), factor).double()
            solution = solution + correction
            norms = [torch.linalg.matrix_norm(each / scale) for each in (correction, solution)]
            # Of several systems the worst decides. Nothing to solve is solved.
            change = float(torch.where(norms[0] == 0, norms[0], norms[0] / norms[1]).max())
            shrinking = change / before if rounds else 1.0
            if change == 0.0 or (shrinking <= SLOWEST_SHRINKING and change * shrinking / (1 - shrinking) <= TOLERANCE):
                self.rounds = rounds
                return solution
            if rounds and not shrinking <= SLOWEST_SHRINKING:
                return None
            before = change
        return None
