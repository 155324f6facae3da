r"""Optimal brain surgery under a Kronecker-factored quadratic, as closed forms.

The model of a layer's loss is ``dL(dW) = 1/2 tr(G dW A dW^T)`` with W [d_out, d_in], A [d_in, d_in], G [d_out, d_out].
Optimal Brain Damage (OBD, LeCun et al. 1990) zeroes weights and leaves the rest; Optimal Brain Surgeon (OBS, Hassibi &
Stork 1993) moves the remaining weights to the constrained minimum. For input columns C that minimum and its price are

    ``dW = -W_C (A^-1_CC)^-1 A^-1_C:``        ``price = 1/2 tr(G W_C (A^-1_CC)^-1 W_C^T)``

and the repaired weights equal the least-squares refit ``W A[:, K] A[K, K]^-1`` on the kept columns K.

Pure functions over matrices. Every matrix argument may carry leading batch dimensions (one a group of a grouped
convolution) where the shapes say ``...``; prices then sum over them. The greedy sweep is in :mod:`hessian.obs.sweep`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from hessian.obs.refined import Solver
from hessian.support.layout import in_float64, sent


def damped(matrix: Tensor, damping: float) -> Tensor:
    """``M + damping mean(diag M) I`` in float64 [..., d, d]; damping is relative."""
    matrix = in_float64(matrix)
    # A layer whose inputs are all zero has mean 0, and a ridge of 0 would leave it singular.
    mean = matrix.diagonal(dim1=-2, dim2=-1).mean(dim=-1).clamp_min(torch.finfo(torch.float64).tiny)
    eye = torch.eye(matrix.shape[-1], dtype=matrix.dtype, device=matrix.device)
    return matrix + (damping * mean)[..., None, None] * eye


class DegenerateFactorError(ValueError):
    """A Kronecker factor that cannot be inverted; the message says why and what helps."""


class Factorisations:
    """Cholesky factorisations that are checked together: a look at one makes the host wait for the device.

    Until :meth:`check` the factor of a degenerate matrix is garbage, and so is what is solved with it.
    """

    def __init__(self) -> None:
        self._codes: list[Tensor] = []
        self._traces: list[Tensor] = []

    def cholesky(self, matrix: Tensor) -> Tensor:
        """Lower Cholesky factor of a symmetric positive definite matrix [..., d, d], not checked yet."""
        factor, code = torch.linalg.cholesky_ex(matrix)
        self._codes.append(code.reshape(-1))
        # A second moment with NaN or infinite entries has one on its diagonal.
        self._traces.append(matrix.diagonal(dim1=-2, dim2=-1).sum())
        return factor

    def check(self) -> None:
        """Look at all factorisations since the last check.

        Raises:
            DegenerateFactorError: a matrix was not positive definite, or held NaN or infinite values.
        """
        if not self._codes:
            return
        indefinite, finite = (torch.cat(self._codes) != 0).any(), torch.stack(self._traces).isfinite().all()
        self._codes, self._traces = [], []
        if not bool(indefinite):
            return
        if not bool(finite):
            raise DegenerateFactorError(
                "a Kronecker factor holds NaN or infinite values: the network's activations or gradients overflow on "
                "these images"
            )
        raise DegenerateFactorError(
            "a Kronecker factor is not positive definite: use a larger damping (1e-5 or more) or more images"
        )


def cholesky(matrix: Tensor) -> Tensor:
    """Lower Cholesky factor of a symmetric positive definite matrix [..., d, d].

    Raises:
        DegenerateFactorError: the matrix is not positive definite, or holds NaN or infinite values.
    """
    factorisations = Factorisations()
    factor = factorisations.cholesky(matrix)
    factorisations.check()
    return factor


def inverse(matrix: Tensor) -> Tensor:
    """Inverse of a symmetric positive definite matrix [..., d, d].

    Raises:
        DegenerateFactorError: the matrix is not positive definite; more damping is needed.
    """
    factor = cholesky(matrix)
    # In place: a second float64 matrix of a wide layer is gigabytes.
    return torch.cholesky_inverse(factor, out=factor)


def output_gram(weight: Tensor, G: Tensor) -> Tensor:
    """``W^T G W`` [..., d_in, d_in] in float64: what G contributes to the price of input columns."""
    weight = in_float64(weight)
    return weight.transpose(-1, -2) @ (in_float64(G) @ weight)


# ---------------------------------------------------------------- removing inputs (columns): the consumer's side


def obd_column_prices(A: Tensor, gram: Tensor, blocks: Tensor) -> Tensor:
    """Prices of zeroing blocks of columns without repair, ``1/2 tr(G W_C A_CC W_C^T)``.

    Args:
        A: [..., d, d].
        gram: ``W^T G W`` [..., d, d].
        blocks: LongTensor [n, c], the columns of each block.

    Returns:
        [n].
    """
    # tr(XY) of symmetric blocks is the sum of their elementwise product.
    return 0.5 * (_diagonal_blocks(A, blocks) * _diagonal_blocks(gram, blocks)).sum(dim=(-1, -2)).reshape(
        -1, len(blocks)
    ).sum(dim=0)


def obs_column_prices(A_inverse: Tensor, gram: Tensor, blocks: Tensor) -> Tensor:
    """Prices of removing blocks of columns one at a time, after repair: ``1/2 tr(G W_C (A^-1_CC)^-1 W_C^T)``.

    Args:
        A_inverse: [..., d, d].
        gram: ``W^T G W`` [..., d, d].
        blocks: LongTensor [n, c].

    Returns:
        [n].
    """
    return block_prices(_diagonal_blocks(A_inverse, blocks), _diagonal_blocks(gram, blocks))


def block_prices(inverse_blocks: Tensor, gram_blocks: Tensor) -> Tensor:
    """``1/2 tr(M_CC (A^-1_CC)^-1)`` of diagonal blocks [..., n, c, c], summed over leading dimensions: [n]."""
    if inverse_blocks.shape[-1] == 1:
        # A batch of 1 x 1 Cholesky factors would take far longer than the division they amount to.
        traces = (gram_blocks / inverse_blocks)[..., 0, 0]
    else:
        # Unchecked: units removed in the current panel of a sweep leave blocks near zero, and nobody reads their price.
        factor = torch.linalg.cholesky_ex(inverse_blocks)[0]
        traces = torch.cholesky_solve(gram_blocks, factor).diagonal(dim1=-2, dim2=-1).sum(dim=-1)
    return 0.5 * traces.reshape(-1, traces.shape[-1]).sum(dim=0)


def set_price(A: Tensor, gram: Tensor, removed: Tensor) -> Tensor:
    """Price of removing a set of columns together, after repair.

    Args:
        A: damped input factor [..., d, d].
        gram: ``W^T G W`` [..., d, d].
        removed: LongTensor [m].

    Returns:
        Scalar ``1/2 tr(G W_C (A^-1_CC)^-1 W_C^T)``, through the Schur complement of the kept block.
    """
    kept = complement(removed, A.shape[-1])
    A_ck = A[..., removed, :][..., kept]
    A_kk = A[..., kept, :][..., kept]
    schur = A[..., removed, :][..., removed] - A_ck @ torch.linalg.solve(A_kk, A_ck.transpose(-1, -2))
    return 0.5 * (schur * gram[..., removed, :][..., removed]).sum()


def refit_columns(weight: Tensor, A: Tensor, kept: Tensor, factorisations: Factorisations | None = None) -> Tensor:
    """Least-squares weights on the kept columns: ``W_K + W_C A_CK A_KK^-1`` (equal to ``W A[:, K] A[K, K]^-1``).

    Args:
        weight: [..., d_out, d].
        A: damped input factor [..., d, d].
        kept: LongTensor [k]; on the CPU nobody has to wait for A's device.
        factorisations: whoever checks the solution later; None checks it here.

    Returns:
        [..., d_out, k] in A's dtype, where A is. The dense weight itself where nothing is removed.

    Raises:
        DegenerateFactorError: the kept block is not positive definite.
    """
    weight = weight.to(A)
    removed, kept = sent(complement(kept, A.shape[-1]), A.device), sent(kept, A.device)
    if len(removed) == 0:
        return weight[..., kept]
    rows = A.index_select(-2, kept)
    solving = factorisations or Factorisations()
    carried = rows.index_select(-1, removed) @ weight[..., removed].transpose(-1, -2)
    solver = Solver(rows.index_select(-1, kept), carried.shape[-1], solving.cholesky)
    # The correction is added to the dense weights because it is small: W A[:, K] A_KK^-1 would round all their digits.
    refitted = weight[..., kept] + solver.solve(carried).transpose(-1, -2)
    if factorisations is None:
        solving.check()
    return refitted


# ---------------------------------------------------------------- removing outputs (rows): the producer's side


def obd_row_prices(weight: Tensor, A: Tensor, G: Tensor) -> Tensor:
    """Prices of zeroing single rows without repair, ``1/2 G_ii w_i A w_i^T``: [..., d_out]."""
    energy = ((weight @ A) * weight).sum(dim=-1)
    return 0.5 * G.diagonal(dim1=-2, dim2=-1) * energy


def obs_row_prices(weight: Tensor, A: Tensor, G_inverse: Tensor) -> Tensor:
    """Prices of removing single rows after moving the others, ``1/2 w_i A w_i^T / (G^-1)_ii``: [..., d_out]."""
    energy = ((weight @ A) * weight).sum(dim=-1)
    return 0.5 * energy / G_inverse.diagonal(dim1=-2, dim2=-1)


def joint_refit(weight: Tensor, A: Tensor, G: Tensor, kept_rows: Tensor, kept_columns: Tensor) -> Tensor:
    """Optimal weights when rows and columns go at once: ``G_RR^-1 (G W A)_RC A_CC^-1`` over kept R and C.

    Args:
        weight: [..., d_out, d_in].
        A: damped [..., d_in, d_in].
        G: damped [..., d_out, d_out].
        kept_rows: LongTensor [r].
        kept_columns: LongTensor [k].

    Returns:
        [..., r, k].
    """
    target = (G @ weight @ A)[..., kept_rows, :][..., kept_columns]
    left = torch.linalg.solve(G[..., kept_rows, :][..., kept_rows], target)
    A_kk = A[..., kept_columns, :][..., kept_columns]
    # A_kk is symmetric, so solving for the transpose multiplies by its inverse from the right.
    return torch.linalg.solve(A_kk, left.transpose(-1, -2)).transpose(-1, -2)


def quadratic(delta: Tensor, A: Tensor, G: Tensor) -> Tensor:
    """The model itself, ``1/2 tr(G dW A dW^T)``, summed over leading dimensions: scalar."""
    return 0.5 * ((G @ delta @ A) * delta).sum()


# ---------------------------------------------------------------- helpers


def complement(indices: Tensor, extent: int) -> Tensor:
    """Indices below an extent that are not among the given ones, sorted: LongTensor."""
    mask = torch.ones(extent, dtype=torch.bool, device=indices.device)
    mask[indices] = False
    return mask.nonzero()[:, 0]


def _diagonal_blocks(matrix: Tensor, blocks: Tensor) -> Tensor:
    """[..., d, d] and [n, c] -> [..., n, c, c]."""
    return matrix[..., blocks[:, :, None], blocks[:, None, :]]
