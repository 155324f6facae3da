"""Common base of agents without a policy: a history of measured plans, and the best of them as their answer."""

from __future__ import annotations

from typing import Any

import numpy as np

from agents.interface.learner import Learner
from agents.interface.monitor import Record


class PlanChooser(Learner):
    """Chooses plans without a policy: what is observed does not matter.

    Attributes:
        history: one record an episode (see :mod:`agents.interface.monitor`); the first one is the start plan.
        num_timesteps: environment steps so far.
    """

    def __init__(self) -> None:
        self.history: list[Record] = []
        self.num_timesteps = 0
        self._actions: list[np.ndarray | None] = []

    def predict(
        self, observation: np.ndarray, state: Any = None, episode_start: Any = None, deterministic: bool = False
    ) -> tuple[np.ndarray, Any]:
        """The best action found (staying, before any), whatever is observed; the signature is SB3's.

        Args:
            observation: [D] or [N, D].
            state: passed through.
            episode_start: ignored.
            deterministic: ignored, searches have no other way.

        Returns:
            (float32 actions [L] or [N, L], state).

        Raises:
            ValueError: nothing was learned yet, so the number of layers is unknown.
        """
        best = self.best
        if best is None:
            raise ValueError(f"{type(self).__name__} has measured no plan yet; call learn(env, total_timesteps) first")
        position = next(index for index, record in enumerate(self.history) if record is best)
        action = self._actions[position]
        if action is None:
            action = np.zeros(len(best["kept"]), dtype=np.float32)
        return (action if observation.ndim == 1 else np.tile(action, (len(observation), 1))), state
