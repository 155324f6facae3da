"""AMC's learning: stable-baselines3's DDPG with the episode's reward on every transition."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import gymnasium as gym
import numpy as np
import torch
from stable_baselines3 import DDPG
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.noise import NormalActionNoise

from baselines.amc import NOISE, NOISE_DECAY

HIDDEN = (300, 300)
TAU, BATCH_SIZE, MEMORY = 0.01, 64, 2000


def learn(
    env: gym.Env[Any, Any], episodes: int, warmup: int, lr: float, seed: int, report: Callable[[int], None]
) -> DDPG:
    """Train DDPG for a number of episodes, AMC's settings otherwise.

    Args:
        env: episodes of a fixed length, rewarded at the end.
        episodes: how many.
        warmup: of them random, before learning starts.
        lr: learning rate.
        seed: of networks, noise and actions.
        report: called with the number of finished episodes.
    """
    length = len(env.unwrapped.problem.groups)  # type: ignore[attr-defined]
    noise = NormalActionNoise(np.zeros(1), np.full(1, 2 * NOISE))  # actions span 2, AMC's ratios 1
    with torch.random.fork_rng(devices=[]):
        numpy_state = np.random.get_state()  # noqa: NPY002
        try:
            agent = DDPG(
                "MlpPolicy",
                env,
                learning_rate=lr,
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
