"""Controls: searches with R-SPAR's interface and its way of counting measured evaluations."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

from agents.experience import Experience, fingerprint
from agents.imagination import Imagination
from agents.monitor import Callback, Monitor, Record, best_feasible
from agents.protocol import PlannableEnv, plannable
from agents.reward_model import RewardModel


class Search(ABC):
    """A way to choose plans without a policy.

    Attributes:
        history: one record an episode (see :mod:`agents.monitor`); the first one is the start plan.
        num_timesteps: environment steps so far.
    """

    def __init__(self) -> None:
        self.history: list[Record] = []
        self.num_timesteps = 0
        self._actions: list[np.ndarray | None] = []

    @property
    def best(self) -> Record | None:
        """Record of the best measured plan that meets the latest target; None before any."""
        return best_feasible(self.history)

    @abstractmethod
    def learn(
        self,
        env: gym.Env,
        total_timesteps: int,
        callback: Callback | None = None,
        progress_bar: bool = False,
        log_dir: str | Path | None = None,
    ) -> Search:
        """Search; the arguments are those of :meth:`agents.rspar.RSPARAgent.learn`."""

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


class StartPlanSearch(Search):
    """No search: the plan an environment with this start begins at, measured once."""

    start: str

    def learn(
        self,
        env: gym.Env,
        total_timesteps: int = 0,
        callback: Callback | None = None,
        progress_bar: bool = False,
        log_dir: str | Path | None = None,
    ) -> StartPlanSearch:
        """Measure the plan in `env`'s archive; `total_timesteps` is not used.

        Raises:
            TypeError: `env` is no pruning environment.
        """
        with Monitor(self.history, 1, callback, progress_bar, log_dir) as monitor:
            _, info = plannable(env).fork(start=self.start).reset(seed=0)
            self._actions.append(None)
            monitor.episode(0.0, info, self.num_timesteps)
            monitor.advance()
        return self


class KnapsackSearch(StartPlanSearch):
    """The plan of least summed predicted loss (:mod:`prune_gym.knapsack`)."""

    start = "knapsack"


class UniformSearch(StartPlanSearch):
    """Equal pruning ratios in all layers."""

    start = "uniform"


class RandomSearch(Search):
    """Random moves from the start plan, each brought onto the target; the best measured one is kept.

    Args:
        std: standard deviation of an action's entries before they are brought onto the target.
        seed: of the moves.
    """

    def __init__(self, std: float = 0.1, seed: int = 0) -> None:
        super().__init__()
        if not std > 0:
            raise ValueError(f"std must be positive, got {std}")
        self.std = std
        self.seed = seed
        self.rng = np.random.default_rng(seed)

    def learn(
        self,
        env: gym.Env,
        total_timesteps: int,
        callback: Callback | None = None,
        progress_bar: bool = False,
        log_dir: str | Path | None = None,
    ) -> RandomSearch:
        """Measure a new plan in each of `total_timesteps` steps; may be called again to go on.

        Raises:
            TypeError: `env` is no pruning environment.
        """
        plans = plannable(env)
        with Monitor(self.history, total_timesteps, callback, progress_bar, log_dir) as monitor:
            _, info = env.reset(seed=self.seed if self.num_timesteps == 0 else None)
            if not self.history:
                self._actions.append(None)
                monitor.episode(0.0, info, self.num_timesteps)
            episode_return, over = 0.0, False
            for _ in range(total_timesteps):
                if monitor.stopped:
                    break
                if over:
                    _, info = env.reset()
                    episode_return = 0.0
                action = self._move(plans, info)
                _, reward, terminated, truncated, info = env.step(action)
                episode_return += float(reward)
                self.num_timesteps += 1
                monitor.advance()
                over = terminated or truncated
                if over:
                    self._actions.append(action)
                    monitor.episode(episode_return, info, self.num_timesteps)
        return self

    def _move(self, plans: PlannableEnv, info: dict[str, Any]) -> np.ndarray:
        """A random action whose plan meets the target and is new, where a few attempts find one."""
        experience = Experience(fingerprint(plans), RewardModel(), dict(plans.archive))
        imagination = Imagination(plans, experience, info["kept"], float(info["target_flops_reduction"]))
        actions = self.rng.normal(0.0, self.std, (ATTEMPTS, len(info["kept"])))
        moves = imagination.on_target(np.clip(actions, -1.0, 1.0))
        good = imagination.meets_target(moves.reductions) & imagination.is_new(moves)
        return moves.actions[int(good.argmax())]


ATTEMPTS = 16
"""Random actions drawn for a step, of which the first suitable one is taken."""
