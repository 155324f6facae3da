"""What an agent has measured, and imagination: what it believes about everything it has not."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

import numpy as np

from agents.protocol import PlannableEnv, Problem
from agents.reward_model import RewardModel

Plan = tuple[int, ...]

SOFTENING = 3.0
"""Added to predicted losses before the logarithm, in units of the median layer's loss at half its units removed."""


def damage(problem: Problem, kept: np.ndarray) -> np.ndarray:
    """What the reward model sees of plans: the log of every layer's predicted loss, and of their sum.

    Below a certain predicted loss differences do not matter any more; without softening the logarithm would spread exactly
    these apart.

    Args:
        problem: the task.
        kept: kept units [..., L].

    Returns:
        [..., L + 1].
    """
    kept = np.asarray(kept)
    floor = np.log(SOFTENING) + np.median([curve[len(curve) // 2] for curve in problem.log_curves])
    layers = [curve[len(curve) - kept[..., layer]] for layer, curve in enumerate(problem.log_curves)]
    softened = np.logaddexp(np.stack(layers, axis=-1), floor)
    return np.concatenate([softened, np.logaddexp.reduce(softened, axis=-1, keepdims=True)], axis=-1)


@dataclass(frozen=True)
class Move:
    """An action that was executed.

    Attributes:
        start: kept units before, L entries.
        action: float32 [L].
        kept: kept units after, L entries.
    """

    start: Plan
    action: np.ndarray
    kept: Plan


@dataclass
class Experience:
    """Every measured plan of one problem.

    Attributes:
        fingerprint: identifies the problem.
        model: reward model fitted to the plans.
        plans: kept units -> soft accuracy, in the order measured.
        moves: the actions that led there.
    """

    fingerprint: str
    model: RewardModel
    plans: dict[Plan, float] = field(default_factory=dict)
    moves: list[Move] = field(default_factory=list)

    def add(self, problem: Problem, kept: np.ndarray, soft_accuracy: float) -> None:
        """Remember a measured plan; a revisit teaches nothing new."""
        plan = as_plan(kept)
        if plan not in self.plans:
            self.plans[plan] = soft_accuracy
            self.model.add(damage(problem, kept), soft_accuracy)

    def state(self) -> dict[str, np.ndarray]:
        """Plans, moves and reward model as arrays."""
        arrays = {
            "plans": np.array(list(self.plans), dtype=np.int64),
            "soft_accuracies": np.array(list(self.plans.values())),
            "move_starts": np.array([move.start for move in self.moves], dtype=np.int64),
            "move_actions": np.array([move.action for move in self.moves], dtype=np.float32),
            "move_kept": np.array([move.kept for move in self.moves], dtype=np.int64),
        }
        return arrays | {f"model.{name}": array for name, array in self.model.state().items()}

    def load_state(self, state: dict[str, np.ndarray]) -> None:
        """Go on from :meth:`state`."""
        self.plans = dict(zip(map(as_plan, state["plans"]), map(float, state["soft_accuracies"]), strict=True))
        rows = zip(state["move_starts"], state["move_actions"], state["move_kept"], strict=True)
        self.moves = [Move(as_plan(start), action, as_plan(kept)) for start, action, kept in rows]
        prefix = "model."
        self.model.load_state({key[len(prefix) :]: array for key, array in state.items() if key.startswith(prefix)})


def as_plan(kept: np.ndarray) -> Plan:
    """Hashable form of kept units [L]."""
    return tuple(int(count) for count in kept)


def fingerprint(problem: Problem) -> str:
    """Identity of a problem for its measurements: a digest of its predicted loss curves."""
    digest = hashlib.sha256()
    for curve in problem.log_curves:
        digest.update(np.ascontiguousarray(curve, dtype=np.float64).tobytes())
        digest.update(b"|")
    return digest.hexdigest()


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
    """Moves from the environment's current plan, decoded and scored without measuring anything.

    Args:
        env: where the moves start.
        experience: what was measured.
        start: kept units now [L].
        target: FLOPs reduction asked for (fraction).
    """

    def __init__(self, env: PlannableEnv, experience: Experience, start: np.ndarray, target: float) -> None:
        self.env = env
        self.experience = experience
        self.target = target
        self.start = np.asarray(start)

    def moves(self, actions: np.ndarray) -> Moves:
        """Where `actions` [N, L] would lead."""
        actions = np.asarray(actions, dtype=np.float32)
        kept = self.env.decode(actions, self.start)
        return Moves(actions, kept, self.env.problem.cost.reduction(kept))

    def scores(self, moves: Moves, deviations: np.ndarray | float = 0.0) -> np.ndarray:
        """Believed scores of moves.

        Args:
            moves: N moves.
            deviations: standard deviations above the mean, a number or [K].

        Returns:
            [N], or [K, N].
        """
        prediction = self.experience.model.predict(damage(self.env.problem, moves.kept))
        deviations = np.asarray(deviations, dtype=np.float64)
        accuracies = prediction.soft_accuracy(deviations[..., None])
        scores = [self.env.score_of(row, moves.reductions) for row in np.atleast_2d(accuracies)]
        return np.stack(scores) if deviations.ndim else np.asarray(scores[0])

    def is_feasible(self, reductions: np.ndarray) -> np.ndarray:
        """Whether reductions [...] reach the target."""
        return reductions >= self.target - 1e-12

    def is_new(self, moves: Moves) -> np.ndarray:
        """Which moves [N] lead to a plan that was not measured yet (of equal ones, the first)."""
        first = np.zeros(len(moves), dtype=bool)
        first[np.unique(moves.kept, axis=0, return_index=True)[1]] = True
        fresh = np.array([as_plan(kept) not in self.experience.plans for kept in moves.kept], dtype=bool)
        return first & fresh

    def on_target(self, actions: np.ndarray, slack: float = 0.002, halvings: int = 12) -> Moves:
        """Shift every layer of an action by the same amount until the plan just reaches the target.

        A larger action removes more everywhere, so the smallest sufficient shift is found by bisection; actions within `slack` above
        the target stay as they are. Actions that cannot reach the target end at 1 everywhere.
        """
        moves = self.moves(actions)
        off = ~self.is_feasible(moves.reductions) | (moves.reductions > self.target + slack)
        if not off.any():
            return moves
        wrong = moves.actions[off]
        low, high = np.full((len(wrong), 1), -2.0), np.full((len(wrong), 1), 2.0)
        for _ in range(halvings):
            middle = (low + high) / 2
            kept = self.env.decode(_shifted(wrong, middle), self.start)
            enough = self.is_feasible(self.env.problem.cost.reduction(kept))[:, None]
            low, high = np.where(enough, low, middle), np.where(enough, middle, high)
        shifted = moves.actions.copy()
        shifted[off] = _shifted(wrong, high)
        return self.moves(shifted)

    def best_score(self) -> float:
        """Highest score of a measured feasible plan; minus infinity if there is none."""
        plans = np.array(list(self.experience.plans))
        reductions = self.env.problem.cost.reduction(plans)
        scores = self.env.score_of(np.array(list(self.experience.plans.values())), reductions)
        return float(np.max(scores, where=self.is_feasible(reductions), initial=-np.inf))

    def incumbents(self, count: int) -> np.ndarray:
        """Actions [<= count, L] of the best measured moves from here, best first; staying (zeros) is one of them."""
        start = as_plan(self.start)
        actions = {start: np.zeros(len(start), dtype=np.float32)}
        actions |= {move.kept: move.action for move in self.experience.moves if move.start == start}
        plans = np.array(list(actions))
        reductions = self.env.problem.cost.reduction(plans)
        soft_accuracies = np.array([self.experience.plans[plan] for plan in actions])
        scores = self.env.score_of(soft_accuracies, reductions)
        scores = np.where(self.is_feasible(reductions), scores, -np.inf)
        order = np.argsort(-scores, kind="stable")[:count]
        return np.array(list(actions.values()))[order]


def _shifted(actions: np.ndarray, shift: np.ndarray) -> np.ndarray:
    return np.clip(actions + shift, -1.0, 1.0).astype(np.float32)
