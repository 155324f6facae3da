"""Every agent as its users see it: it learns on an environment and answers with the best plan it measured."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import TypeVar

import gymnasium as gym

from agents.interface.monitor import Callback, Monitor, Record, best_feasible
from agents.interface.protocol import check_batch_size

Self = TypeVar("Self", bound="Learner")
Environment = gym.Env | gym.vector.VectorEnv


class Learner(ABC):
    """Base of all agents.

    Attributes:
        history: one record an episode (see :mod:`agents.interface.monitor`).
    """

    history: list[Record]

    @property
    def best(self) -> Record | None:
        """Record of the best measured plan that meets the latest target; None before any."""
        return best_feasible(self.history)

    def learn(
        self: Self,
        env: Environment,
        total_timesteps: int,
        callback: Callback | None = None,
        progress_bar: bool = False,
        log_dir: str | Path | None = None,
        *,
        batch_size: int = 1,
    ) -> Self:
        """Learn on an environment; may be called again to go on.

        Args:
            env: what to learn on.
            total_timesteps: environment steps of this call.
            callback: called with every new record of :attr:`history`; returning False ends the training.
            progress_bar: draw one.
            log_dir: folder for TensorBoard files.
            batch_size: plans chosen before the first of them is measured, where an episode is one move; measured side
                by side where the problem has a pool (:mod:`prune_gym.problem.plan_pool`). With a pool or without one
                it comes out the same.

        Returns:
            The agent.

        Raises:
            TypeError: the agent prunes only, and the environment does not.
            ValueError: a batch size below 1 or above what the agent can do, spaces that do not fit, or a reward that
                is not finite.
        """
        check_batch_size(batch_size)
        self._meet(env, batch_size)
        with Monitor(self.history, total_timesteps, callback, progress_bar, log_dir) as monitor:
            self._run(env, total_timesteps, monitor, batch_size)
        return self

    @abstractmethod
    def _meet(self, env: Environment, batch_size: int) -> None:
        """Refuse what cannot be learned on, and prepare for the rest."""

    @abstractmethod
    def _run(self, env: Environment, total_timesteps: int, monitor: Monitor, batch_size: int) -> None:
        """Take the steps and tell the monitor of every episode."""
