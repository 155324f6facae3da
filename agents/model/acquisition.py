"""Choice of the plan to measure next: candidates, and what measuring one is worth."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from agents.model.imagination import Imagination, Moves


class Acquisition(Protocol):
    """Values candidate moves."""

    def __call__(self, imagination: Imagination, moves: Moves) -> np.ndarray:
        """Worth [N] of measuring each of N moves."""
        ...


@dataclass(frozen=True)
class ExpectedImprovement:
    """Expected gain over the best measured feasible plan (Mockus 1975).

    A score is any function of accuracy and FLOPs, so the expectation is taken by Gauss-Hermite quadrature over the
    accuracy's log-odds.

    Attributes:
        nodes: quadrature nodes.
    """

    nodes: int = 16

    def __call__(self, imagination: Imagination, moves: Moves) -> np.ndarray:
        """Expected improvements [N]."""
        points, weights = np.polynomial.hermite_e.hermegauss(self.nodes)
        gains = imagination.score_quantiles(moves, points) - imagination.best_score()
        # The weights belong to exp(-x^2 / 2) and sum to sqrt(2 pi); an expectation wants them to sum to 1.
        return weights @ np.maximum(gains, 0.0) / weights.sum()


def perturbed(actions: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Variations of actions: some layers moved a little, few of them far.

    Args:
        actions: [K, L].
        count: how many variations.
        rng: source of randomness.

    Returns:
        float32 [count, L].
    """
    chosen = actions[rng.integers(len(actions), size=count)]
    num_layers = actions.shape[1]
    share = rng.uniform(1 / num_layers, 1.0, size=(count, 1))
    moved = rng.random((count, num_layers)) < share
    # A variation that moves no layer is no new plan.
    moved[np.arange(count), rng.integers(num_layers, size=count)] = True
    # Log-uniform: fine steps near a good plan as often as coarse ones.
    scale = np.exp(rng.uniform(np.log(0.02), np.log(0.5), size=(count, 1)))
    noise = rng.standard_normal((count, num_layers)) * scale
    return np.clip(chosen + moved * noise, -1.0, 1.0).astype(np.float32)


@dataclass(frozen=True)
class Proposer:
    """Picks the next move to execute.

    Attributes:
        acquisition: what is maximised.
        candidates: variations of the incumbents considered beside the policy's samples.
        incumbents: best measured moves that are varied.
        refinements: rounds in which the best candidates are varied again.
    """

    acquisition: Acquisition
    candidates: int = 512
    incumbents: int = 5
    refinements: int = 2

    def propose(self, imagination: Imagination, policy_actions: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """The most valuable action [L] that leads to a new feasible plan.

        Where there is none (every plan in reach was measured), the best measured move.
        """
        incumbents = imagination.incumbents(self.incumbents)
        pool = np.concatenate([policy_actions, perturbed(incumbents, self.candidates, rng)])
        best_action, best_value = incumbents[0], -np.inf
        for _ in range(self.refinements + 1):
            moves = eligible(imagination, pool)
            if not len(moves):
                break
            values = self.acquisition(imagination, moves)
            order = np.argsort(-values, kind="stable")
            if values[order[0]] > best_value:
                best_action, best_value = moves.actions[order[0]], values[order[0]]
            pool = perturbed(moves.actions[order[:16]], self.candidates, rng)
        return best_action


def eligible(imagination: Imagination, actions: np.ndarray) -> Moves:
    """The moves, brought onto the target, that are feasible and new."""
    moves = imagination.on_target(actions)
    return moves.select(imagination.meets_target(moves.reductions) & imagination.is_new(moves))
