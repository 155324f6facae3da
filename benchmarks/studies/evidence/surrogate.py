"""A stand-in for measuring, learned from plans that were measured: for experiments that need thousands of runs.

What agents see is a smooth function of the layers' log predicted losses plus noise that belongs to the plan. So an
agent can be fooled by a lucky plan as on the real reward split, but here it is known: :meth:`SurrogateFidelity.truth`
is the score without the luck.
"""

from __future__ import annotations

import csv
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import spearmanr

from agents.model.reward_model import from_log_odds, log_odds
from prune_gym.measuring.evaluator import Evaluation
from prune_gym.problem.problem import PruningProblem

FOLDS = 5
LUCK = 0.017
"""What 2,000 reward images leave to chance between two good plans of ``fashion-resnet20`` at 91 %: standard error of
the mean difference of an image's score (0.0034 over 28 pairs), over the square root of 2, in log-odds at 0.83."""
HIDDEN = (64, 64)


@dataclass(frozen=True)
class Fit:
    """How well the function predicts plans it was not fitted to.

    Attributes:
        plans: how many were measured.
        spearman: rank correlation with what was measured, the parts left out in turn.
        r_squared: of the log-odds, the same.
        residual_std: standard deviation of the difference in log-odds.
    """

    plans: int
    spearman: float
    r_squared: float
    residual_std: float


class SurrogateFidelity:
    """Scores plans by a network of two layers fitted to measured ones; a fidelity of the environments.

    Args:
        problem: whose plans these are, loaded.
        kept: measured plans, int [N, L].
        soft_accuracy: what they scored [N].
        luck: standard deviation of the luck, in log-odds of the soft accuracy.
        luck_seed: of the luck of every plan.

    Attributes:
        name: ``"measured"``, since agents treat it as such.
        fit: how far it can be trusted.

    Raises:
        ValueError: fewer than 100 plans, or of another number of layers.
    """

    name = "measured"

    def __init__(
        self,
        problem: PruningProblem,
        kept: NDArray[np.int64],
        soft_accuracy: NDArray[np.float64],
        luck: float = LUCK,
        luck_seed: int = 0,
    ) -> None:
        if kept.ndim != 2 or kept.shape[1] != problem.num_layers or len(kept) < 100:
            raise ValueError(f"at least 100 plans of {problem.num_layers} layers are needed, got shape {kept.shape}")
        inputs, outputs = self._inputs(problem, kept), log_odds(soft_accuracy)
        left_out = _cross_validated(inputs, outputs)
        residuals = outputs - left_out
        self.fit = Fit(
            plans=len(kept),
            spearman=float(spearmanr(left_out, outputs).statistic),
            r_squared=float(1 - residuals.var() / outputs.var()),
            residual_std=float(residuals.std()),
        )
        self._model = _network().fit(inputs, outputs)
        self._luck_std, self._luck_seed = luck, luck_seed

    @staticmethod
    def _inputs(problem: PruningProblem, kept: NDArray[np.int64]) -> NDArray[np.float64]:
        return np.log(problem.layer_losses(kept) + 1e-6)

    def truth(self, problem: PruningProblem, kept: NDArray[np.int64]) -> NDArray[np.float64]:
        """Soft accuracies [N] of plans [N, L] without luck."""
        return from_log_odds(self._model.predict(self._inputs(problem, kept)))

    def metrics(self, problem: PruningProblem, kept: NDArray[np.int64]) -> NDArray[np.float64]:
        """Accuracy, soft accuracy and loss of plans: kept int [B, L] -> float64 [B, 3]."""
        lucks = [self._luck(tuple(plan)) for plan in kept.tolist()]
        soft = from_log_odds(log_odds(self.truth(problem, kept)) + self._luck_std * np.array(lucks))
        return np.stack([soft, soft, -np.log(soft)], axis=1)

    def evaluate(
        self, problem: PruningProblem, archive: dict[tuple[int, ...], Evaluation], kept: NDArray[np.int64]
    ) -> Evaluation:
        """What one plan [L] scores; adds it to the archive."""
        key = tuple(kept.tolist())
        if key not in archive:
            archive[key] = Evaluation(*self.metrics(problem, kept[None])[0].tolist())
        return archive[key]

    def _luck(self, plan: tuple[int, ...]) -> float:
        seed = zlib.crc32(np.array(plan, dtype=np.int64).tobytes())
        return float(np.random.default_rng((self._luck_seed, seed)).standard_normal())


def read_plans(path: Path, task: str) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Distinct plans of a task in an ``evaluations.csv`` of a comparison of agents: kept [N, L], soft accuracy [N].

    Raises:
        FileNotFoundError: no such file.
        ValueError: it holds no plans of the task, or is another table.
    """
    with open(path, newline="") as file:
        rows = list(csv.DictReader(file))
    try:
        found = {
            tuple(map(int, row["kept"].split())): float(row["soft_accuracy"]) for row in rows if row["task"] == task
        }
    except (KeyError, ValueError) as error:
        raise ValueError(f"{path} is no table of evaluations (evaluations.csv of a comparison of agents)") from error
    if not found:
        raise ValueError(f"{path} holds no plans of task {task!r}")
    return np.array(list(found), dtype=np.int64), np.array(list(found.values()))


def _network() -> Any:
    from sklearn.neural_network import MLPRegressor
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    network = MLPRegressor(
        hidden_layer_sizes=HIDDEN, activation="tanh", alpha=1e-2, max_iter=400, random_state=0, early_stopping=True
    )
    return make_pipeline(StandardScaler(), network)


def _cross_validated(inputs: NDArray[np.float64], outputs: NDArray[np.float64]) -> NDArray[np.float64]:
    from sklearn.model_selection import KFold, cross_val_predict

    return cross_val_predict(_network(), inputs, outputs, cv=KFold(FOLDS, shuffle=True, random_state=0))
