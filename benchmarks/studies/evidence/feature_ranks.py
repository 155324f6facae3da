"""Rank correlations of features of layers with the true loss of pruning them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from benchmarks.common.columns import Column, Columns
from benchmarks.common.table import Table
from hessian.audit.rank_correlation import spearman
from prune_gym.problem.features import AMC_FEATURES, FEATURES, PLAN_FEATURES, amc_features, raw_features
from prune_gym.problem.problem import PruningProblem

SHARES = (0.25, 0.5, 0.75)

Report = Callable[[str], None]


@dataclass(frozen=True)
class Evidence:
    """Rank correlations of one feature with the true losses.

    Attributes:
        feature: its name.
        correlations: Spearman's, over the layers, for each of :data:`SHARES`.
    """

    feature: str
    correlations: tuple[float, ...]

    @property
    def strength(self) -> float:
        """Mean of the correlations' absolute values."""
        return float(np.abs(self.correlations).mean())


def true_losses(problem: PruningProblem, report: Report) -> np.ndarray:
    """KL divergence (nats) of every layer's cut at every share, after repair, float64 [L, shares]."""
    images = problem.task.reward.images
    units = problem.cost.units
    dense = _log_probabilities(problem, units)
    losses = np.empty((problem.num_layers, len(SHARES)))
    for layer, name in enumerate(problem.layer_names):
        report(f"cutting {name} ({layer + 1} of {problem.num_layers}), {len(images)} images")
        for column, share in enumerate(SHARES):
            kept = units.copy()
            kept[layer] = max(1, units[layer] - max(1, round(share * units[layer])))
            cut = _log_probabilities(problem, kept)
            losses[layer, column] = F.kl_div(cut, dense, log_target=True, reduction="batchmean").item()
    return losses


def _log_probabilities(problem: PruningProblem, kept: np.ndarray) -> torch.Tensor:
    logits = problem.evaluator.logits(kept.tolist(), problem.task.reward.images)
    return F.log_softmax(logits.double(), dim=1)


def evidence(features: Mapping[str, np.ndarray], losses: np.ndarray) -> list[Evidence]:
    """Correlations of every feature, the strongest first.

    Args:
        features: name -> [L].
        losses: [L, shares].
    """
    rows = [
        Evidence(name, tuple(_correlation(values, column) for column in losses.T)) for name, values in features.items()
    ]
    return sorted(rows, key=lambda row: -row.strength)


def _correlation(values: np.ndarray, losses: np.ndarray) -> float:
    """Spearman's correlation; a feature that is the same in all layers ranks nothing."""
    return float(np.nan_to_num(spearman(np.stack([values, losses], axis=-1))))


def all_features(problem: PruningProblem) -> dict[str, np.ndarray]:
    """Every feature that no plan changes: name -> [L]."""
    raw = raw_features(problem.hobs, problem.cost) | amc_features(problem.hobs, problem.cost)
    names = dict.fromkeys((*FEATURES, *AMC_FEATURES))
    return {name: raw[name] for name in names if name not in PLAN_FEATURES}


def evidence_table(title: str, rows: Sequence[Evidence]) -> Table:
    """Return the rows as a table."""
    columns: Columns = (
        "feature",
        *(Column(f"{share:.0%} removed", "+.2f") for share in SHARES),
        Column("mean |rho|", ".2f"),
    )
    return Table(title, columns, [[row.feature, *row.correlations, row.strength] for row in rows])
