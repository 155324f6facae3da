"""Fidelities: plans are scored by running the small network, or from the predicted loss curves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np

from hessian.support.names import unknown
from prune_gym.cost.limits import FloatArray, IntArray
from prune_gym.measuring.evaluation import Evaluation

if TYPE_CHECKING:
    from prune_gym.problem.problem import PruningProblem

Archive = dict[tuple[int, ...], Evaluation]
"""Plans measured so far: kept units -> what they score."""


@dataclass(frozen=True)
class MeasuredFidelity:
    """Plans are repaired, run on the reward split, and remembered in an archive."""

    name = "measured"

    def evaluate(self, problem: PruningProblem, archive: Archive, kept: IntArray) -> Evaluation:
        """Measure the scores of one plan [L]; adds them to the archive."""
        key = tuple(kept.tolist())
        if key not in archive:
            archive[key] = problem.evaluator.evaluate(key)
        return archive[key]

    def metrics(self, problem: PruningProblem, kept: IntArray) -> FloatArray:
        """Accuracy, soft accuracy and loss of plans: kept int [B, L] -> float64 [B, 3]; equal plans are run once."""
        problem.prefetch(kept.tolist())
        evaluations = problem.evaluator.evaluate_many(kept.tolist())
        return np.array([(found.accuracy, found.soft_accuracy, found.loss) for found in evaluations])


@dataclass(frozen=True)
class PredictedFidelity:
    """Plans score what their predicted losses map to (:mod:`prune_gym.measuring.predicted`); nothing is measured."""

    name = "predicted"

    def evaluate(self, problem: PruningProblem, archive: Archive, kept: IntArray) -> Evaluation:
        """Predict the score of one plan [L]; the archive stays as it is."""
        return Evaluation(*problem.predicted_metrics(kept).tolist())

    def metrics(self, problem: PruningProblem, kept: IntArray) -> FloatArray:
        """Expected accuracy, soft accuracy and loss of plans: kept int [B, L] -> float64 [B, 3]."""
        return problem.predicted_metrics(kept)


@runtime_checkable
class Fidelity(Protocol):
    """Judge of plans, measured or predicted; an object of one's own may be given to the environments too."""

    @property
    def name(self) -> str:
        """Name, as the environment's ``fidelity`` says it."""
        ...

    def evaluate(self, problem: PruningProblem, archive: Archive, kept: IntArray) -> Evaluation:
        """Score one plan [L], by measuring or predicting."""
        ...

    def metrics(self, problem: PruningProblem, kept: IntArray) -> FloatArray:
        """Accuracy, soft accuracy and loss of plans: kept int [B, L] -> float64 [B, 3]."""
        ...


FIDELITY_NAMES = ("measured", "predicted")
"""Fidelities :func:`make_fidelity` knows by name."""


def make_fidelity(name: str | Fidelity) -> Fidelity:
    """A fidelity by its name (an object passes through).

    Raises:
        ValueError: unknown name; the known ones are listed.
    """
    if isinstance(name, Fidelity):
        return name
    if name not in FIDELITY_NAMES:
        raise ValueError(unknown("fidelity", name, FIDELITY_NAMES))
    return MeasuredFidelity() if name == "measured" else PredictedFidelity()
