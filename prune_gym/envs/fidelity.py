"""Fidelities: plans are scored by running the small network, by a fitted surrogate, or from predicted loss curves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeAlias, runtime_checkable

import numpy as np

from hessian.support.names import unknown
from prune_gym.bench.problem import BenchProblem
from prune_gym.cost.limits import FloatArray, IntArray
from prune_gym.measuring.evaluation import Evaluation

if TYPE_CHECKING:
    from prune_gym.problem.problem import PruningProblem

Problem: TypeAlias = "PruningProblem | BenchProblem"

Archive = dict[tuple[int, ...], Evaluation]
"""Plans measured so far: kept units -> what they score."""


@dataclass(frozen=True)
class MeasuredFidelity:
    """Plans are repaired, run on the reward split, and remembered in an archive."""

    name = "measured"

    def evaluate(self, problem: Problem, archive: Archive, kept: IntArray) -> Evaluation:
        """Measure the scores of one plan [L]; adds them to the archive."""
        key = tuple(kept.tolist())
        if key not in archive:
            archive[key] = problem.evaluator.evaluate(key)
        return archive[key]

    def metrics(self, problem: Problem, kept: IntArray) -> FloatArray:
        """Accuracy, soft accuracy and loss of plans: kept int [B, L] -> float64 [B, 3]; equal plans are run once."""
        problem.prefetch(kept.tolist())
        evaluations = problem.evaluator.evaluate_many(kept.tolist())
        return np.array([(found.accuracy, found.soft_accuracy, found.loss) for found in evaluations])


@dataclass(frozen=True)
class PredictedFidelity:
    """Plans score what their predicted losses map to (:mod:`prune_gym.measuring.predicted`); nothing is measured."""

    name = "predicted"

    def evaluate(self, problem: Problem, archive: Archive, kept: IntArray) -> Evaluation:
        """Predict the score of one plan [L]; the archive stays as it is."""
        return Evaluation(*problem.predicted_metrics(kept).tolist())

    def metrics(self, problem: Problem, kept: IntArray) -> FloatArray:
        """Expected accuracy, soft accuracy and loss of plans: kept int [B, L] -> float64 [B, 3]."""
        return problem.predicted_metrics(kept)


@dataclass(frozen=True)
class SurrogateFidelity:
    """Plans score what the surrogate of the bench expects (:mod:`prune_gym.bench`); they count as measured ones do."""

    name = "surrogate"

    def evaluate(self, problem: Problem, archive: Archive, kept: IntArray) -> Evaluation:
        """Score one plan [L]; adds it to the archive."""
        key = tuple(kept.tolist())
        if key not in archive:
            archive[key] = Evaluation(*_of_the_bench(problem).surrogate_metrics(kept).tolist())
        return archive[key]

    def metrics(self, problem: Problem, kept: IntArray) -> FloatArray:
        """Expected accuracy, soft accuracy and loss of plans: kept int [B, L] -> float64 [B, 3]."""
        return _of_the_bench(problem).surrogate_metrics(kept)


@runtime_checkable
class Fidelity(Protocol):
    """Judge of plans, measured or predicted; an object of one's own may be given to the environments too."""

    @property
    def name(self) -> str:
        """Name, as the environment's ``fidelity`` says it."""
        ...

    def evaluate(self, problem: Problem, archive: Archive, kept: IntArray) -> Evaluation:
        """Score one plan [L], by measuring or predicting."""
        ...

    def metrics(self, problem: Problem, kept: IntArray) -> FloatArray:
        """Accuracy, soft accuracy and loss of plans: kept int [B, L] -> float64 [B, 3]."""
        ...


FIDELITIES: dict[str, Fidelity] = {
    "measured": MeasuredFidelity(),
    "surrogate": SurrogateFidelity(),
    "predicted": PredictedFidelity(),
}
"""Fidelities :func:`make_fidelity` knows by name."""

COUNTED = ("measured", "surrogate")
"""Fidelities whose plans count as measured evaluations, and are remembered in the archive."""


def make_fidelity(name: str | Fidelity) -> Fidelity:
    """A fidelity by its name (an object passes through).

    Raises:
        ValueError: unknown name; the known ones are listed.
    """
    if isinstance(name, Fidelity):
        return name
    if name not in FIDELITIES:
        raise ValueError(unknown("fidelity", name, tuple(FIDELITIES)))
    return FIDELITIES[name]


def check_fidelity(fidelity: Fidelity, problem: Problem) -> None:
    """Check that a problem's plans can be scored so.

    Raises:
        ValueError: plans of the bench at measured fidelity, or others by a surrogate.
    """
    if fidelity.name == "surrogate":
        _of_the_bench(problem)
    elif fidelity.name == "measured" and isinstance(problem, BenchProblem):
        problem.refuse("measure plans", "; its plans are scored with fidelity='surrogate'")


def counted_fidelity(problem: Problem) -> Fidelity:
    """The fidelity whose plans count: measured, or on the bench the surrogate."""
    return FIDELITIES["surrogate" if isinstance(problem, BenchProblem) else "measured"]


def _of_the_bench(problem: Problem) -> BenchProblem:
    if not isinstance(problem, BenchProblem):
        raise ValueError(f"only tasks 'bench/NAME' have a surrogate; {problem.name!r} is measured or predicted")
    return problem
