"""A monotone map from predicted losses to metrics, fitted to measured plans.

Summed loss curves rank plans well but are off by orders of magnitude on confident networks. Isotonic regression
(Barlow et al., 1972) against the log predicted loss keeps the ranking and sets the scale.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from hessian.audit.rank_correlation import spearman
from prune_gym.cost.limits import FloatArray

if TYPE_CHECKING:
    from prune_gym.support.cache import Metadata, Tensors

_INCREASING = (False, False, True)
_TAIL = 4.0
"""Distance, in log predicted loss, over which predictions beyond the worst measured plan go on changing."""


@dataclass(frozen=True, eq=False)
class PredictedMetrics:
    """Piecewise linear monotone maps from log predicted loss to the three metrics.

    Attributes:
        knots: float64 [K], ascending log predicted losses.
        values: float64 [K, 3], metrics at the knots, columns as in :data:`prune_gym.measuring.evaluation.METRICS`.
        rank_correlation: Spearman correlation of minus the log predicted loss with the measured soft accuracy over the
            fitted plans; 0 where all measured the same.
        num_measured: plans measured for the fit.
    """

    knots: FloatArray
    values: FloatArray
    rank_correlation: float
    num_measured: int

    def __call__(self, log_losses: FloatArray) -> FloatArray:
        """Metrics [..., 3] at log predicted losses [...]; constant outside the knots."""
        clipped = np.minimum(np.maximum(log_losses, self.knots[0]), self.knots[-1])
        right = np.minimum(np.maximum(np.searchsorted(self.knots, clipped), 1), len(self.knots) - 1)
        start, end = self.knots[right - 1], self.knots[right]
        weight = np.asarray((clipped - start) / (end - start))[..., None]
        return self.values[right - 1] * (1.0 - weight) + self.values[right] * weight

    def tensors(self) -> tuple[Tensors, Metadata]:
        """The maps as tensors and text, for a file."""
        import torch  # here: who only asks the map needs no PyTorch

        tensors = {"knots": torch.from_numpy(self.knots), "values": torch.from_numpy(self.values)}
        return tensors, {"rank_correlation": repr(self.rank_correlation), "num_measured": str(self.num_measured)}

    @classmethod
    def restore(cls, tensors: Tensors, metadata: Metadata) -> PredictedMetrics:
        """The maps back from :meth:`tensors`.

        Raises:
            KeyError: an entry is missing.
        """
        knots, values = tensors["knots"].numpy(), tensors["values"].numpy()
        return cls(knots, values, float(metadata["rank_correlation"]), int(metadata["num_measured"]))


def fit(log_losses: FloatArray, measured: FloatArray) -> PredictedMetrics:
    """Fit the maps to measured plans.

    Args:
        log_losses: float [N], log predicted losses, the unpruned network's among them.
        measured: float [N, 3], what the plans measured, columns as in :data:`prune_gym.measuring.evaluation.METRICS`.

    Returns:
        Maps that fall (accuracies) or rise (loss) with the predicted loss, strictly so wherever the measurements do.

    Raises:
        ValueError: fewer than two plans, or values that are not finite.
    """
    log_losses, measured = np.asarray(log_losses, dtype=np.float64), np.asarray(measured, dtype=np.float64)
    if len(log_losses) < 2 or not (np.isfinite(log_losses).all() and np.isfinite(measured).all()):
        raise ValueError("the map needs at least two plans with finite predicted losses and measurements")
    order = np.argsort(log_losses, kind="stable")
    x, y = log_losses[order], measured[order]
    curves = []
    for column, increasing in enumerate(_INCREASING):
        centres, means = isotonic(x, y[:, column] if increasing else -y[:, column])
        means = means if increasing else -means
        tail = means[-1] * (1.5 if increasing else 0.5)
        curves.append((np.append(centres, centres[-1] + _TAIL), np.append(means, tail)))
    knots = np.unique(np.concatenate([centres for centres, _ in curves]))
    values = np.stack([np.interp(knots, *curve) for curve in curves], axis=-1)
    correlation = float(np.nan_to_num(spearman(np.stack([-x, y[:, 1]], axis=-1))))
    return PredictedMetrics(knots, values, correlation, len(x) - 1)


def isotonic(x: FloatArray, y: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Non-decreasing least-squares fit, one point a block.

    Args:
        x: float64 [N], ascending.
        y: float64 [N].

    Returns:
        Centre and mean of every block [M], M <= N. Means strictly ascend, so a line through them has no flat piece.
    """
    from scipy.optimize import isotonic_regression  # here: only fitting needs it

    means, block, counts = np.unique(isotonic_regression(y).x, return_inverse=True, return_counts=True)
    return np.bincount(block, weights=x) / counts, means
