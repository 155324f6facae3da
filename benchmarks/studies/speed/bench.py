"""A pruning problem on the bench: networks and candidates whose speed the environment's rows compare."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn

from hessian.support.layout import preferred_layout
from prune_gym.cost.limits import IntArray
from prune_gym.data.splits import equal_parts
from prune_gym.envs.hobs_prune import HOBSPruneEnv
from prune_gym.measuring.evaluator import CPU_BATCH_SIZE, Evaluator
from prune_gym.measuring.folding import FoldedNetwork
from prune_gym.problem.problem import PruningProblem


class EnvBench:
    """One loaded problem, its reward images cut to a number.

    Args:
        problem: a loaded problem.
        images: reward images.
        repeats: timed runs of each side.
    """

    def __init__(self, problem: PruningProblem, images: int, repeats: int) -> None:
        self.problem = problem
        self.repeats = repeats
        self.images = problem.task.reward.images[:images].to(problem.device)
        self.labels = problem.task.reward.labels[:images].to(problem.device)

    def evaluator(self, repair: str) -> Evaluator:
        """A fresh evaluator with a repair; it remembers nothing."""
        return Evaluator(self.problem.task, self.problem.hobs, repair)

    def candidates(self, target: float) -> list[IntArray]:
        """Distinct plans on the target: random moves from the knapsack plan, one more than repeats.

        Raises:
            ValueError: too few distinct plans around the start.
        """
        plans = self._around_start(target)
        if len(plans) <= self.repeats:
            raise ValueError(f"only {len(plans)} distinct plans around the start; fewer --repeats are needed")
        return plans[: self.repeats + 1]

    def searched(self, target: float, count: int) -> list[IntArray]:
        """Plans like the candidates, none of them, ``count`` at most: what a search has measured before."""
        return self._around_start(target)[self.repeats + 1 :][:count]

    def _around_start(self, target: float) -> list[IntArray]:
        env = HOBSPruneEnv(problem=self.problem, constraint="hard", target_flops_reduction=target, fidelity="predicted")
        env.reset(seed=0)
        moves = np.random.default_rng(0).uniform(-0.3, 0.3, (40 * (self.repeats + 1), self.problem.num_layers))
        return list(np.random.default_rng(1).permutation(np.unique(env.decode(moves), axis=0)))

    def dense(self) -> nn.Module:
        """A copy of the full-size network."""
        return copy.deepcopy(self.problem.task.model).eval()

    def small(self, target: float) -> nn.Module:
        """A candidate on the target, ready to run: repaired, batch norms folded, laid out."""
        return self.network(self.candidates(target)[0])

    def network(self, kept: IntArray) -> nn.Module:
        """A plan's network, ready to run: repaired, batch norms folded, laid out."""
        pruned = self.evaluator("closed_form").export(kept.tolist())
        return laid_out(FoldedNetwork(pruned, self.problem.task.example_input).model)

    def masked(self, model: nn.Module, images: Tensor) -> None:
        """One pass of a full-size network; masks multiply weights and cost nothing at this size."""
        with torch.no_grad():
            outputs = torch.cat([model(part) for part in equal_parts(images, CPU_BATCH_SIZE)])
            (outputs.argmax(dim=1) == self.labels).double().mean().item()

    def measured(self, evaluator: Evaluator, plans: Iterator[IntArray]) -> None:
        """Repair and run one plan never seen before."""
        outputs = evaluator.logits(next(plans).tolist(), self.images)
        (outputs.argmax(dim=1) == self.labels).double().mean().item()


def laid_out(model: nn.Module) -> nn.Module:
    """The network with its weights as the evaluator lays them out."""
    model.load_state_dict({name: preferred_layout(tensor) for name, tensor in model.state_dict().items()}, assign=True)
    return model
