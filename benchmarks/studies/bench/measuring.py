"""Measuring one network of the bench: its structure, its analysis, and what its plans score on both splits."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from benchmarks.studies.bench.sampling import PLANS, Proposal, Sampler
from benchmarks.studies.engine.study import Result
from prune_gym.data.splits import TensorSplit
from prune_gym.measuring.evaluator import Evaluator
from prune_gym.measuring.grading import Evaluation, make_grader
from prune_gym.problem.features import FEATURES, raw_features
from prune_gym.problem.problem import PruningProblem
from prune_gym.tasks.family.draws import HELD_OUT, Draw, kind_of, split_of
from prune_gym.tasks.family.networks import design_of
from prune_gym.tasks.family.tasks import RECIPES
from prune_gym.tasks.task import PruningTask

RECONSTRUCTED = ("plain-00", "residual-10", "depthwise-12", "inverted-01", "dense-00", "branches-00")
"""Networks of which some plans are measured after reconstruction too."""

BATCH_SIZE = 512
"""Images a forward pass: the networks are so small that calls cost more than caches gain."""

RECONSTRUCTED_PLANS = 20
"""Plans of each of them, spread over all."""


def measure_network(problem: PruningProblem, name: str, plans: int = PLANS) -> Result:
    """Measure a network of the family: everything that a row or a network of the bench is made of.

    Args:
        problem: of the task ``family/NAME``.
        name: of the network.
        plans: distinct plans to measure.
    """
    started = time.process_time()
    problem.load()
    loaded = time.process_time()
    meter = Meter(problem.task, problem.evaluator)
    seed = Draw(f"prune-gym bench {name}").between(0, 2**31 - 1)
    measured: dict[Proposal, tuple[Evaluation, Evaluation, list[float]]] = {}
    for proposal in Sampler(problem, seed, plans).proposals(lambda known: measured[known][0].soft_accuracy):
        reward, test = meter.scores(proposal.kept)
        measured[proposal] = reward, test, meter.layer_errors
    done = time.process_time()
    return {
        **describe(problem, name),
        "dense": [number for scores in meter.scores(problem.cost.units.tolist()) for number in _numbers(scores)],
        "plans": _columns(problem, measured),
        "reconstructed": _reconstructed(problem, list(measured)) if name in RECONSTRUCTED else None,
        "cpu_seconds": {"analysis": loaded - started, "plans": done - loaded},
    }


class Meter:
    """Scores plans on the reward and on the test split, after one repair.

    Args:
        task: with a test split.
        evaluator: repairs.
    """

    def __init__(self, task: PruningTask, evaluator: Evaluator) -> None:
        assert isinstance(task.test, TensorSplit)
        self._evaluator = evaluator
        self._reward, self._test = (make_grader(task, BATCH_SIZE, split) for split in (task.reward, task.test))

    def scores(self, kept: Sequence[int]) -> tuple[Evaluation, Evaluation]:
        """Scores on the reward split and on the test split."""
        with self._evaluator.candidate(kept) as model:
            return self._reward(model), self._test(model)

    @property
    def layer_errors(self) -> list[float]:
        """Of the plan scored last; see :attr:`prune_gym.measuring.evaluator.Evaluator.layer_errors`."""
        errors = self._evaluator.layer_errors
        return [] if errors is None else errors.tolist()


def describe(problem: PruningProblem, name: str) -> Result:
    """Return what is known of a network without its plans."""
    design, cost = design_of(name), problem.cost
    features = raw_features(problem.hobs, cost)
    return {
        "name": name,
        "kind": kind_of(name),
        "split": split_of(name),
        "held_out_kind": kind_of(name) in HELD_OUT,
        "dataset": "digits" if design.dataset == "digits" else f"fashion-mnist-{design.size}",
        "input_shape": list(problem.task.example_input.shape[1:]),
        "layer_names": problem.layer_names,
        "default_target": problem.default_target,
        "recipe": {"design": asdict(design), "training": asdict(RECIPES[design.dataset])},
        "units": cost.units.tolist(),
        "curves": [curve.tolist() for curve in problem.curves],
        "features": np.stack([features[feature] for feature in FEATURES], axis=-1).tolist(),
        "flops_form": _form(cost.flops_form),
        "params_form": _form(cost.params_form),
        "network_key": problem.network_key,
    }


def _form(form: Any) -> dict[str, Any]:
    return {"constant": form.constant, "linear": form.linear.tolist(), "pairwise": form.pairwise.tolist()}


def _columns(problem: PruningProblem, measured: dict[Proposal, tuple[Evaluation, Evaluation, list[float]]]) -> Result:
    """The plans as columns."""
    kept = np.array([proposal.kept for proposal in measured])
    cost = problem.cost
    return {
        "kept": kept.tolist(),
        "source": [proposal.source for proposal in measured],
        "target": [proposal.target for proposal in measured],
        "flops_reduction": cost.reduction(kept).tolist(),
        "params_reduction": cost.params_cost.reduction(kept).tolist(),
        "reward": [_numbers(reward) for reward, _, _ in measured.values()],
        "test": [_numbers(test) for _, test, _ in measured.values()],
        "layer_errors": [errors for _, _, errors in measured.values()],
    }


def _reconstructed(problem: PruningProblem, proposals: list[Proposal]) -> Result:
    """Scores of some plans after a short reconstruction, by their places among all."""
    rows = np.unique(np.linspace(0, len(proposals) - 1, RECONSTRUCTED_PLANS).round().astype(int)).tolist()
    meter = Meter(problem.task, Evaluator(problem.task, problem.hobs, "reconstructed"))
    scores = [meter.scores(proposals[row].kept) for row in rows]
    return {"rows": rows, "reward": [_numbers(r) for r, _ in scores], "test": [_numbers(t) for _, t in scores]}


def _numbers(scores: Evaluation) -> list[float]:
    return [scores.accuracy, scores.soft_accuracy, scores.loss]
