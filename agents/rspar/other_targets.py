"""States to practise in: where episodes of other targets would start, without measuring them.

A plan's accuracy does not depend on the target it was made for, so the reward model can judge plans for targets that no
episode asked for. A policy that practises on them knows what to do between the targets it met.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from agents.interface.protocol import PlannableEnv
from agents.model.experience import Experience
from agents.model.imagination import Imagination
from agents.model.reward_model import from_log_odds
from prune_gym.measuring.evaluation import Evaluation

GRID = 32
"""Targets are drawn from so many equal steps of the range met, so that their start plans are computed once."""


@dataclass(frozen=True)
class State:
    """Starting point of an imagined move.

    Attributes:
        observation: [D].
        imagination: of moves from there.
        score: of the plan there, measured or believed.
    """

    observation: np.ndarray
    imagination: Imagination
    score: float


@dataclass(frozen=True)
class ImaginedFidelity:
    """Plans score what the reward model expects; nothing is measured (a :class:`prune_gym.envs.fidelity.Fidelity`).

    Attributes:
        experience: what the model has learned from.
    """

    experience: Experience
    name = "imagined"

    def evaluate(self, problem: Any, archive: Any, kept: np.ndarray) -> Evaluation:
        """Return the score that one plan [L] is believed to have; the archive stays as it is."""
        return Evaluation(*self.metrics(problem, kept[None])[0].tolist())

    def metrics(self, problem: Any, kept: np.ndarray) -> np.ndarray:
        """Beliefs [B, 3] about plans [B, L]; the reward's metric stands for both accuracies."""
        accuracies = from_log_odds(self.experience.expected(problem, kept))
        return np.stack([accuracies, accuracies, -np.log(accuracies)], axis=-1)


def states_at_other_targets(
    env: PlannableEnv, experience: Experience, met: Sequence[float], count: int, rng: np.random.Generator
) -> list[State]:
    """First states of episodes at random targets within the range of those met.

    Args:
        env: the environment; neither it nor its archive is changed.
        experience: what was measured.
        met: FLOPs reductions that episodes asked for (fractions).
        count: how many states.
        rng: source of the targets.

    Returns:
        `count` states, none where all episodes asked for the same target.
    """
    low, high = min(met), max(met)
    if low == high or not count:
        return []
    states = []
    for step in rng.integers(GRID + 1, size=count):
        target = low + (high - low) * int(step) / GRID
        imagined: Any = env.fork(fidelity=ImaginedFidelity(experience))
        observation, info = imagined.reset(options={"target": target})
        imagination = Imagination(imagined, experience, info["kept"], target)
        states.append(State(observation, imagination, float(info["score"])))
    return states
