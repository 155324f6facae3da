"""Measured metrics from predicted losses: a monotone map fitted to a few measured plans.

Summed loss curves rank plans well but are off by orders of magnitude on confident networks. Isotonic regression
(Barlow et al., 1972) against the log predicted loss keeps the ranking and sets the scale.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import isotonic_regression

from hessian import HOBSSensitivityAnalyzer
from hessian.audit.rank_correlation import spearman
from hessian.support.progress import Progress
from prune_gym.allocation.knapsack import knapsack
from prune_gym.cost.limits import CountLimits, FloatArray, IntArray
from prune_gym.cost.model import CostModel
from prune_gym.measuring.evaluator import Evaluator
from prune_gym.support.cache import Metadata, Tensors

METRICS = ("accuracy", "soft_accuracy", "loss")
"""Columns of a prediction: the fields of :class:`prune_gym.measuring.evaluator.Evaluation`."""

_INCREASING = (False, False, True)
_TAIL = 4.0
"""Distance, in log predicted loss, over which predictions beyond the worst measured plan go on changing."""


@dataclass(frozen=True, eq=False)
class PredictedMetrics:
    """Piecewise linear monotone maps from log predicted loss to the three metrics.

    Attributes:
        knots: float64 [K], ascending log predicted losses.
        values: float64 [K, 3], metrics at the knots, columns as in :data:`METRICS`.
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
        measured: float [N, 3], what the plans measured, columns as in :data:`METRICS`.

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


def fit_to_measurements(
    evaluator: Evaluator, losses: LossTable, cost: CostModel, progress: Progress | None = None
) -> PredictedMetrics:
    """Measure the unpruned network and about 20 plans, and fit the maps to them.

    Args:
        evaluator: measures plans.
        losses: predicts their losses.
        cost: the network's cost model.
        progress: called with (description, done, total).
    """
    plans = [cost.units, *probe_plans(losses.curves, cost, cost.limits())]
    measured = []
    for done, plan in enumerate(plans, start=1):
        measured.append(dataclasses.astuple(evaluator.evaluate(plan.tolist())))
        if progress is not None:
            progress("fitting predictions", done, len(plans))
    return fit(losses.log_of_plans(np.array(plans)), np.array(measured))


def isotonic(x: FloatArray, y: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Non-decreasing least-squares fit, one point a block.

    Args:
        x: float64 [N], ascending.
        y: float64 [N].

    Returns:
        Centre and mean of every block [M], M <= N. Means strictly ascend, so a line through them has no flat piece.
    """
    means, block, counts = np.unique(isotonic_regression(y).x, return_inverse=True, return_counts=True)
    return np.bincount(block, weights=x) / counts, means


def probe_plans(
    curves: Sequence[FloatArray], cost: CostModel, limits: CountLimits, count: int = 20, seed: int = 0
) -> list[IntArray]:
    """Plans that cover the range of reductions: half of them knapsack solutions, half those with every ratio jittered.

    The remaining FLOPs fall geometrically from 80 % to the least reachable, since accuracy falls at deep cuts.

    Args:
        curves: predicted loss curves, as for :func:`prune_gym.allocation.knapsack.knapsack`.
        cost: the network's cost model.
        limits: legal counts.
        count: number of plans (rounded up to even; duplicates are dropped).
        seed: seed of the jitter.
    """
    generator = np.random.default_rng(seed)
    least = max(1.0 - cost.largest_reduction(limits), 1e-3)
    remaining = np.geomspace(max(0.8, least), least, (count + 1) // 2)
    plans = []
    for target in np.minimum(1.0 - remaining, cost.largest_reduction(limits)):
        plan = knapsack(curves, cost, float(target), limits=limits)
        jitter = generator.normal(scale=0.7, size=len(plan))
        plans += [plan, cost.project_logits(limits.logits(plan) + jitter, float(target), limits)]
    return [np.array(plan) for plan in dict.fromkeys(tuple(plan.tolist()) for plan in plans)]


class LossTable:
    """Predicted losses of plans, nats.

    Args:
        curves: a float64 array [num_units] a layer: predicted loss increase after removing the first k units.

    Attributes:
        curves: the same, non-decreasing.
        log_curves: their logarithms, finite: losses below a thousandth of the median layer's at 50 % count alike.
    """

    def __init__(self, curves: Sequence[FloatArray]) -> None:
        self.curves = [np.maximum.accumulate(curve) for curve in curves]
        middle = np.median([curve[len(curve) // 2] for curve in self.curves])
        self._floor = max(1e-3 * float(middle), 1e-12)
        self.log_curves = [np.log(curve + self._floor) for curve in self.curves]
        # One table for all layers: the entry at offset + kept is the loss of a layer that keeps so many units.
        self._table = np.concatenate([np.append(np.nan, curve[::-1]) for curve in self.curves])
        self._offsets = np.cumsum([0, *(len(curve) + 1 for curve in self.curves[:-1])])

    @classmethod
    def of_analysis(cls, hobs: HOBSSensitivityAnalyzer) -> LossTable:
        """The table of a finished analysis, layers in its order."""
        return cls([hobs.curves[group.name].double().cpu().numpy() for group in hobs.groups])

    def of_layers(self, kept: IntArray) -> FloatArray:
        """Predicted loss increase of every layer, nats: kept int [..., L] -> float64 [..., L]."""
        return self._table[self._offsets + kept]

    def of_plans(self, kept: IntArray) -> FloatArray:
        """Predicted loss increase of plans, nats, summed over layers: kept int [..., L] -> float64 [...]."""
        return self.of_layers(kept).sum(axis=-1)

    def log_of_plans(self, kept: IntArray) -> FloatArray:
        """Finite logarithm of :meth:`of_plans`, float64 [...]."""
        return np.log(self.of_plans(kept) + self._floor)
