"""Beliefs: how far what was taught is to be taken, and how what it misses varies from plan to plan.

Models taught on two thirds of the training networks say what they expect of plans of the last third, near the best
ones, which a search is after. A scale of their expectations and the hyper-parameters of the difference
(:class:`agents.model.covariance.Taught`) make what the surrogates of these networks say most likely, all networks
counting alike: type II maximum likelihood over tasks, as in Wang et al. (2024), "Pre-trained Gaussian processes for
Bayesian optimization".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from agents.amortised.examples import Examples
from agents.amortised.model import UNTAUGHT, AmortisedModel
from agents.interface.protocol import TOLERANCE
from agents.model.acquisition import perturbed
from agents.model.experience import damage
from agents.model.reward_model import log_odds
from benchmarks.studies.amortised.family import Family
from benchmarks.studies.amortised.teaching import teach
from prune_gym.bench.problem import BenchProblem
from prune_gym.bench.protocol import contests
from prune_gym.cost.limits import FloatArray, IntArray

FOLDS = 3
"""Parts of the training networks, each judged by a model taught on the others."""
TARGETS = (0.75, 0.85, 0.92)
"""FLOPs reductions that networks are looked at in turn."""
LOGITS = 2.0
"""Logits that a move of 1 stands for, the environments' own."""
MOVES, BEST, OTHERS, FEWEST = 160, 10, 10, 16
"""Plans made around the knapsack's and the learned plan; of them the best ones and others of the better half count,
where there are enough."""
STEPS, RATE = 100, 0.1
"""Of Adam."""


@dataclass(frozen=True)
class Judged:
    """Plans of one network on one target, relative to the knapsack's plan.

    Attributes:
        inputs: float64 [N, L + 1], of the reward model.
        losses: float64 [N, L], log-odds that layers lose by a model that was not taught on this network.
        found: float64 [N], log-odds by its surrogate.
    """

    inputs: FloatArray
    losses: FloatArray
    found: FloatArray


def beliefs(family: Family, names: Sequence[str], seed: int = 0) -> tuple[float, ...]:
    """Belief of a model that is taught on networks; seven positive numbers (:class:`AmortisedModel`).

    Args:
        family: with their measured plans and surrogates.
        names: of the networks.
        seed: of folds, weights and plans.
    """
    rng = np.random.default_rng(seed)
    folds = rng.permutation(len(names)) % FOLDS
    judged: list[Judged] = []
    for fold in range(FOLDS if len(names) >= FOLDS else 0):
        rest = [name for name, own in zip(names, folds, strict=True) if own != fold]
        model = teach("attention", Examples(family.measured(rest)), rest, seed)
        for place in np.flatnonzero(folds == fold):
            problem = family.problem(names[place])
            targets = [target for target in TARGETS if target in contests(problem)]
            if targets:
                judged += judge(problem, model, targets[place % len(targets)], rng)
    return most_likely(judged) if judged else UNTAUGHT


def judge(problem: BenchProblem, model: AmortisedModel, target: float, rng: np.random.Generator) -> list[Judged]:
    """Expectations of a model of plans near the best ones, and what they are worth; nothing where plans are few."""
    known, limits, cost = model.at(problem), problem.cost.limits(), problem.cost
    start = problem.start_plan("knapsack", target)
    origin = limits.logits(start)
    learned = np.clip((limits.logits(known.plan(target, cost, limits)) - origin) / LOGITS, -1.0, 1.0)
    moves = perturbed(np.stack([0.0 * learned, learned]).astype(np.float32), MOVES, rng)
    plans = np.unique(cost.project_logits(origin + LOGITS * moves, target, limits), axis=0)
    plans = plans[(cost.reduction(plans) <= target + TOLERANCE) & (plans != start).any(axis=1)]
    if len(plans) < FEWEST:
        return []
    order = np.argsort(-problem.surrogate_metrics(plans)[:, 1], kind="stable")
    half = order[: len(order) // 2]
    chosen = np.union1d(order[:BEST], rng.choice(half, min(OTHERS, len(half)), replace=False))
    kept: IntArray = np.concatenate([start[None], plans[chosen]])
    inputs, losses = damage(problem, kept), known.losses(kept)
    found = log_odds(problem.surrogate_metrics(kept)[:, 1])
    return [Judged(inputs - inputs[0], losses - losses[0], found - found[0])]


def most_likely(judged: Sequence[Judged]) -> tuple[float, ...]:
    """The belief under which what was found is most likely."""
    size = max(len(own.found) for own in judged)
    inner, lost, distance = (torch.zeros(len(judged), size, size, dtype=torch.float64) for _ in range(3))
    total, found, there = (torch.zeros(len(judged), size, dtype=torch.float64) for _ in range(3))
    for row, own in enumerate(judged):
        count, inputs, losses = len(own.found), torch.as_tensor(own.inputs), torch.as_tensor(own.losses)
        inner[row, :count, :count], lost[row, :count, :count] = inputs @ inputs.T, losses @ losses.T
        distance[row, :count, :count] = torch.cdist(inputs[None], inputs[None])[0]
        total[row, :count], found[row, :count], there[row, :count] = losses.sum(1), torch.as_tensor(own.found), 1.0
    logs = torch.tensor(UNTAUGHT, dtype=torch.float64).log().requires_grad_()
    optimizer = torch.optim.Adam([logs], lr=RATE)
    for _ in range(STEPS):
        optimizer.zero_grad()
        scale, apart, together, height, length, trend, noise = logs.exp()
        far = 3.0**0.5 * distance / length
        covariance = height * (1.0 + far) * torch.exp(-far) + trend * inner + 1.0
        covariance = covariance + scale**2 * (apart * lost + together * total[:, :, None] * total[:, None, :])
        loss = _surprise(covariance, (found + scale * total) * there, noise, there)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return tuple(logs.detach().exp().tolist())


def _surprise(covariance: Tensor, left: Tensor, noise: Tensor, there: Tensor) -> Tensor:
    """Negative log likelihood (nats a network) of what expectations leave [G, N], of plans that are there [G, N]."""
    both = there[:, :, None] * there[:, None, :]
    covariance = covariance * both + torch.diag_embed(there * (noise + 1e-6) + (1.0 - there))
    root = torch.linalg.cholesky(covariance)
    solved = torch.cholesky_solve(left[..., None], root)[..., 0]
    return (0.5 * (left * solved).sum(dim=1) + root.diagonal(dim1=1, dim2=2).log().sum(dim=1)).mean()
