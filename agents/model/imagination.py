"""Moves decoded and scored without measuring anything."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import numpy as np

from agents.interface.protocol import TOLERANCE, PlannableEnv, projects
from agents.model.experience import Experience, Move, as_plan, damage
from agents.model.reward_model import from_log_odds
from prune_gym.measuring.evaluation import Evaluation


@dataclass(frozen=True)
class Moves:
    """N moves and where they would lead.

    Attributes:
        actions: float32 [N, L].
        kept: int [N, L].
        reductions: FLOPs reductions [N].
    """

    actions: np.ndarray
    kept: np.ndarray
    reductions: np.ndarray

    def __len__(self) -> int:
        return len(self.actions)

    def select(self, index: np.ndarray) -> Moves:
        """The moves at `index` (positions or a mask)."""
        return Moves(self.actions[index], self.kept[index], self.reductions[index])


class Imagination:
    """Moves from one plan of the environment, and what the reward model believes about them.

    Args:
        env: the environment.
        experience: what was measured.
        start: kept units the moves start from [L].
        target: FLOPs reduction asked for (fraction).
    """

    def __init__(self, env: PlannableEnv, experience: Experience, start: np.ndarray, target: float) -> None:
        self.env = env
        self.experience = experience
        self.start = np.asarray(start)
        self.target = target

    def moves(self, actions: np.ndarray) -> Moves:
        """Plans that `actions` [N, L] would lead to."""
        actions = np.asarray(actions, dtype=np.float32)
        kept = self.env.decode(actions, self.start)
        return Moves(actions, kept, self.env.cost.reduction(kept))

    def fantasize(self, action: np.ndarray) -> Imagination:
        """The same after a fantasy observation: the plan of an action [L] is known, at the score expected of it.

        The mean stands in for the measurement (kriging believer). The experience is copied; nothing is measured.
        """
        moves = self.moves(action[None])
        expected = float(from_log_odds(self.experience.expected(self.env.problem, moves.kept))[0])
        experience = copy.deepcopy(self.experience)
        plan = as_plan(moves.kept[0])
        experience.plans[plan] = Evaluation(expected, expected, 0.0)
        experience.moves.append(Move(as_plan(self.start), action, plan))
        experience.model.add(damage(self.env.problem, moves.kept[0]), expected, moves.kept[0])
        return Imagination(self.env, experience, self.start, self.target)

    def scores(self, moves: Moves) -> np.ndarray:
        """Scores [N] of moves at the expected accuracy."""
        accuracies = from_log_odds(self.experience.expected(self.env.problem, moves.kept))
        return self.env.score_of(accuracies, moves.reductions, moves.kept)

    def score_quantiles(self, moves: Moves, deviations: np.ndarray) -> np.ndarray:
        """Scores [K, N] of moves at each of K `deviations` from the expected accuracy."""
        prediction = self.experience.predict(self.env.problem, moves.kept)
        accuracies = prediction.accuracy(deviations[:, None])
        return self.env.score_of(accuracies, np.broadcast_to(moves.reductions, accuracies.shape), moves.kept)

    def meets_target(self, reductions: np.ndarray) -> np.ndarray:
        """Return whether reductions [...] reach the target without passing it by more than the tolerance."""
        return (reductions >= self.target) & (reductions <= self.target + TOLERANCE)

    def is_new(self, moves: Moves) -> np.ndarray:
        """Return for every move [N] whether its plan was not measured yet (of equal ones, the first)."""
        first = np.zeros(len(moves), dtype=bool)
        first[np.unique(moves.kept, axis=0, return_index=True)[1]] = True
        plans = map(tuple, moves.kept.tolist())
        return first & np.array([plan not in self.experience.plans for plan in plans], dtype=bool)

    def on_target(self, actions: np.ndarray, slack: float = 0.002, halvings: int = 12) -> Moves:
        """Shift all layers of an action by the same amount so that the plan just reaches the target.

        A larger action removes more everywhere, so the smallest sufficient shift is found by bisection. Actions within
        `slack` above the target stay as they are; those that cannot reach it end at 1 everywhere. Where the environment
        projects plans onto the target itself, a shift would be undone, and none is looked for.
        """
        moves = self.moves(actions)
        if projects(self.env):
            return moves
        off = (moves.reductions < self.target) | (moves.reductions > self.target + slack)
        if not off.any():
            return moves
        wrong = moves.actions[off]
        # Actions lie in [-1, 1], so a shift of 2 takes any of them to either end.
        low, high = np.full((len(wrong), 1), -2.0), np.full((len(wrong), 1), 2.0)
        for _ in range(halvings):
            middle = (low + high) / 2
            kept = self.env.decode(_shifted(wrong, middle), self.start)
            enough = (self.env.cost.reduction(kept) >= self.target)[:, None]
            low, high = np.where(enough, low, middle), np.where(enough, middle, high)
        shifted = moves.actions.copy()
        # The upper end is the one that reaches the target, where anything does.
        shifted[off] = _shifted(wrong, high)
        return self.moves(shifted)

    def best_score(self) -> float:
        """Highest score of a measured plan that meets the target; minus infinity if there is none."""
        return float(np.max(self.measured_scores(list(self.experience.plans)), initial=-np.inf))

    def incumbents(self, count: int) -> np.ndarray:
        """Actions [<= count, L] of the best measured moves from here, best first; staying (zeros) is one of them."""
        actions = {as_plan(self.start): np.zeros(len(self.start), dtype=np.float32)}
        here = as_plan(self.start)
        actions |= {move.kept: move.action for move in self.experience.moves if move.start == here}
        order = np.argsort(-self.measured_scores(list(actions)), kind="stable")[:count]
        return np.array(list(actions.values()))[order]

    def measured_scores(self, plans: list[tuple[int, ...]]) -> np.ndarray:
        """Scores of measured plans under the current target; minus infinity where they do not meet it."""
        metric = self.env.reward.metric
        qualities = np.array([getattr(self.experience.plans[plan], metric) for plan in plans])
        reductions = self.env.cost.reduction(np.array(plans))
        return np.where(
            self.meets_target(reductions), self.env.score_of(qualities, reductions, np.array(plans)), -np.inf
        )


def _shifted(actions: np.ndarray, shift: np.ndarray) -> np.ndarray:
    return np.clip(actions + shift, -1.0, 1.0).astype(np.float32)
