"""AMC's learning: stable-baselines3's DDPG with the episode's reward on every transition."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import gymnasium as gym
import numpy as np
import torch
from stable_baselines3 import DDPG
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.noise import NormalActionNoise
from stable_baselines3.common.utils import update_learning_rate
from torch.optim import Optimizer

HIDDEN = (300, 300)
TAU, BATCH_SIZE, MEMORY = 0.01, 64, 2000
NOISE, NOISE_DECAY = 0.5, 0.95
"""Deviation of the noise at first and its factor an episode, as in the authors' code."""


@dataclass(frozen=True)
class LearningRates:
    """Learning rates of DDPG's two networks.

    Attributes:
        actor: of the policy.
        critic: of the value.
    """

    actor: float
    critic: float


class TwoRateDDPG(DDPG):
    """DDPG whose actor and critic each have a learning rate; stable-baselines3's has one for both.

    Args:
        policy: class of both networks, or its name.
        env: where it learns.
        rates: of the two.
        **options: of :class:`stable_baselines3.DDPG`.
    """

    def __init__(self, policy: str, env: gym.Env[Any, Any], rates: LearningRates, **options: Any) -> None:
        self._rates = rates
        super().__init__(policy, env, learning_rate=rates.critic, **options)

    def _update_learning_rate(self, optimizers: list[Optimizer] | Optimizer) -> None:
        """Called by :meth:`train` before its first step, where the schedule would set one rate for both."""
        update_learning_rate(self.actor.optimizer, self._rates.actor)
        update_learning_rate(self.critic.optimizer, self._rates.critic)


def learn(
    env: gym.Env[Any, Any], episodes: int, warmup: int, rates: LearningRates, seed: int, report: Callable[[int], None]
) -> DDPG:
    """Train DDPG for a number of episodes, otherwise with the settings of AMC's code but for the replay memory's size.

    Args:
        env: episodes of a fixed length, rewarded at the end.
        episodes: how many.
        warmup: of them random, before learning starts.
        rates: learning rates.
        seed: of networks, noise and actions.
        report: called with the number of finished episodes.
    """
    length = len(env.unwrapped.problem.groups)  # type: ignore[attr-defined]
    noise = NormalActionNoise(np.zeros(1), np.full(1, 2 * NOISE))  # actions span 2, AMC's ratios 1
    with torch.random.fork_rng(devices=[]):
        numpy_state = np.random.get_state()  # noqa: NPY002
        try:
            agent = TwoRateDDPG(
                "MlpPolicy",
                env,
                rates=rates,
                buffer_size=MEMORY,
                learning_starts=max(1, warmup * length),
                batch_size=BATCH_SIZE,
                tau=TAU,
                gamma=1.0,
                train_freq=(1, "episode"),
                gradient_steps=length,
                action_noise=noise,
                policy_kwargs={"net_arch": list(HIDDEN)},
                seed=seed,
                device="cpu",
            )
            agent.learn(episodes * length, callback=_Episodes(noise, warmup, report))
        finally:
            np.random.set_state(numpy_state)  # noqa: NPY002
    return agent


class _Episodes(BaseCallback):
    """After an episode: its reward on all its transitions, as AMC has it, and less noise."""

    def __init__(self, noise: NormalActionNoise, warmup: int, report: Callable[[int], None]) -> None:
        super().__init__()
        self._noise, self._warmup, self._report = noise, warmup, report
        self._count = self._start = 0

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        buffer = cast(DDPG, self.model).replay_buffer
        assert buffer is not None
        steps = np.arange(self._start, self.num_timesteps) % buffer.buffer_size
        buffer.rewards[steps] = buffer.rewards[steps[-1]]
        self._start = self.num_timesteps
        self._count += 1
        if self._count > self._warmup:
            self._noise._sigma = self._noise._sigma * NOISE_DECAY
        self._report(self._count)
