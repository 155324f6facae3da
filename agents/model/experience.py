"""Experience of an agent: the plans it has measured, and what its reward model sees of a plan."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import astuple, dataclass, field

import numpy as np

from agents.interface.protocol import PlannableEnv, Problem
from agents.model.reward_model import Prediction, RewardModel
from prune_gym.measuring.evaluation import Evaluation

Plan = tuple[int, ...]

SOFTENING = 3.0
"""Added to predicted losses before the logarithm, in units of the median layer's loss at half its units removed."""


def as_plan(kept: np.ndarray) -> Plan:
    """Hashable form of kept units [L]."""
    return tuple(int(count) for count in kept)


def damage(problem: Problem, kept: np.ndarray) -> np.ndarray:
    """Inputs of the reward model for plans: the log of every layer's predicted loss, and of their sum.

    Differences between small predicted losses do not matter. A plain logarithm would spread exactly these apart, so a
    constant is added first.

    Args:
        problem: the task.
        kept: kept units [..., L].

    Returns:
        [..., L + 1].
    """
    kept = np.asarray(kept)
    floor = np.log(SOFTENING) + np.median([curve[len(curve) // 2] for curve in problem.log_curves])
    layers = [curve[len(curve) - kept[..., layer]] for layer, curve in enumerate(problem.log_curves)]
    # The curves are logarithms already: log(loss + constant) without leaving them, however small a loss is.
    softened = np.logaddexp(np.stack(layers, axis=-1), floor)
    return np.concatenate([softened, np.logaddexp.reduce(softened, axis=-1, keepdims=True)], axis=-1)


def fingerprint(env: PlannableEnv) -> str:
    """Identity of what is measured: a digest of the predicted loss curves and the metric."""
    digest = hashlib.sha256(env.reward.metric.encode())
    for curve in env.problem.log_curves:
        digest.update(np.ascontiguousarray(curve, dtype=np.float64).tobytes())
        digest.update(b"|")
    return digest.hexdigest()


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
        fingerprint: what was measured (see :func:`fingerprint`).
        model: reward model, fitted to the plans.
        plans: kept units -> evaluation, in the order measured.
        moves: the actions that led there.
    """

    fingerprint: str
    model: RewardModel
    plans: dict[Plan, Evaluation] = field(default_factory=dict)
    moves: list[Move] = field(default_factory=list)

    def absorb(self, env: PlannableEnv) -> None:
        """Learn from the plans in the environment's archive that are new."""
        for plan in [plan for plan in env.archive if plan not in self.plans]:
            evaluation = env.archive[plan]
            self.plans[plan] = evaluation
            kept = np.array(plan)
            self.model.add(damage(env.problem, kept), getattr(evaluation, env.reward.metric), kept)

    def expected(self, problem: Problem, kept: np.ndarray) -> np.ndarray:
        """Log-odds [N] of the accuracy that plans [N, L] are believed to have."""
        return self.model.expected(damage(problem, kept), kept)

    def predict(self, problem: Problem, kept: np.ndarray) -> Prediction:
        """Beliefs about plans [N, L]."""
        return self.model.predict(damage(problem, kept), kept)

    def restore_archive(self, env: PlannableEnv) -> bool:
        """Give an environment the plans it does not know yet, which it then need not measure again.

        Returns:
            Whether there were any.
        """
        missing = {plan: evaluation for plan, evaluation in self.plans.items() if plan not in env.archive}
        env.archive.update(missing)
        return len(missing) > 0

    def state(self) -> dict[str, np.ndarray]:
        """Plans, moves and reward model as arrays."""
        arrays = {
            "plans": np.array(list(self.plans), dtype=np.int64),
            "evaluations": np.array([astuple(evaluation) for evaluation in self.plans.values()]),
            "move_starts": np.array([move.start for move in self.moves], dtype=np.int64),
            "move_actions": np.array([move.action for move in self.moves], dtype=np.float32),
            "move_kept": np.array([move.kept for move in self.moves], dtype=np.int64),
        }
        return arrays | {f"model.{name}": array for name, array in self.model.state().items()}

    def load_state(self, state: Mapping[str, np.ndarray]) -> None:
        """Go on from :meth:`state`."""
        evaluations = [Evaluation(*map(float, row)) for row in state["evaluations"]]
        self.plans = dict(zip(map(as_plan, state["plans"]), evaluations, strict=True))
        rows = zip(state["move_starts"], state["move_actions"], state["move_kept"], strict=True)
        self.moves = [Move(as_plan(start), action, as_plan(kept)) for start, action, kept in rows]
        prefix = "model."
        self.model.load_state({key[len(prefix) :]: array for key, array in state.items() if key.startswith(prefix)})
