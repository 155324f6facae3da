"""Pendulum-v1 as a network of one layer, and the two implementations of PPO that learn it with the same settings.

Settings are the same but for the learning rate: R-SPAR has its own default, Stable-Baselines3 what RL Baselines3 Zoo
tuned for this task. Returns are those of deterministic episodes after training, the same for both.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from numpy.typing import NDArray

from agents import RSPARAgent
from benchmarks.common.provenance import versions
from prune_gym.envs.observation import GLOBALS

LANES = 4
STEPS_BETWEEN_UPDATES = 256
"""Of every lane."""
WIDTH = 64
GAMMA = 0.9
"""Lanes, steps and discount are those of RL Baselines3 Zoo for this task."""
LEARNING_RATE = {"rspar": 3e-4, "sb3": 1e-3}
"""With one layer, R-SPAR's encoder carries the same signal on three paths (its own and both poolings), and a step of
its weights moves the policy further than one of a plain network: at the Zoo's rate seed 0 ended at a return of -606,
at R-SPAR's default at -140."""
REWARD_SCALE = 0.1
EVALUATION_EPISODES = 20
EVALUATION_SEED = 10_000


class AsNetwork(gym.Wrapper):
    """A control task with one action, observed as a network of one layer: ``[features | last action | zeros]``.

    Args:
        env: observations [D], one action.
    """

    def __init__(self, env: gym.Env) -> None:
        shape = env.observation_space.shape
        if env.action_space.shape != (1,) or shape is None or len(shape) != 1:
            raise ValueError(f"one action and flat observations are needed, got {env.action_space}")
        super().__init__(gym.wrappers.RescaleAction(env, np.float32(-1.0), np.float32(1.0)))
        self.feature_dim = shape[0]
        self.observation_space = gym.spaces.Box(-np.inf, np.inf, (self.feature_dim + 1 + len(GLOBALS),), np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Start an episode."""
        observation, info = self.env.reset(seed=seed, options=options)
        return self._observe(observation, 0.0), info

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Act; rewards are scaled for both agents alike."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        return self._observe(observation, float(action[0])), REWARD_SCALE * float(reward), terminated, truncated, info

    def _observe(self, observation: NDArray[np.float32], action: float) -> NDArray[np.float32]:
        ratio = (1 + action) / 2
        return np.concatenate([observation, [ratio], np.zeros(len(GLOBALS))]).astype(np.float32)


def make_env() -> AsNetwork:
    """Pendulum-v1 as a network of one layer."""
    return AsNetwork(gym.make("Pendulum-v1"))


def train_rspar(seed: int, steps: int) -> Any:
    """R-SPAR without imagination, which is plain PPO."""
    lanes = SyncVectorEnv([make_env] * LANES, autoreset_mode=AutoresetMode.SAME_STEP)
    agent = RSPARAgent(
        num_layers=1,
        layer_feature_dim=make_env().feature_dim,
        hidden_dim=WIDTH,
        lr=LEARNING_RATE["rspar"],
        gamma=GAMMA,
        n_steps=STEPS_BETWEEN_UPDATES,
        initial_std=1.0,
        target_kl=None,
        imagination=None,
        seed=seed,
    )
    return agent.learn(lanes, steps)


def train_sb3(seed: int, steps: int) -> Any:
    """Stable-Baselines3's PPO with the same settings."""
    from stable_baselines3 import PPO
    from stable_baselines3.common.vec_env import DummyVecEnv

    model = PPO(
        "MlpPolicy",
        DummyVecEnv([make_env] * LANES),
        learning_rate=LEARNING_RATE["sb3"],
        n_steps=STEPS_BETWEEN_UPDATES,
        batch_size=64,
        n_epochs=10,
        gamma=GAMMA,
        gae_lambda=0.95,
        clip_range=0.2,
        ent_coef=0.0,
        policy_kwargs={"net_arch": [WIDTH, WIDTH]},
        seed=seed,
        device="cpu",
    )
    return model.learn(steps)


TRAINERS: dict[str, Callable[[int, int], Any]] = {"rspar": train_rspar, "sb3": train_sb3}


@dataclass(frozen=True)
class Run:
    """One training.

    Attributes:
        agent: a key of :data:`TRAINERS`.
        seed: of everything in it.
        mean_return: of deterministic episodes after training, unscaled.
        seconds: wall time of training (s).
    """

    agent: str
    seed: int
    mean_return: float
    seconds: float


def run(agent: str, seed: int, steps: int) -> Run:
    """Train an agent and see what it has learned."""
    started = time.perf_counter()
    trained = TRAINERS[agent](seed, steps)
    return Run(agent, seed, evaluate(trained), time.perf_counter() - started)


def evaluate(agent: Any) -> float:
    """Mean unscaled return of deterministic episodes, the same ones for every agent."""
    env, returns = make_env(), []
    for episode in range(EVALUATION_EPISODES):
        observation, _ = env.reset(seed=EVALUATION_SEED + episode)
        total, over = 0.0, False
        while not over:
            action, _ = agent.predict(observation, deterministic=True)
            observation, reward, terminated, truncated, _ = env.step(action)
            total += reward / REWARD_SCALE
            over = terminated or truncated
        returns.append(total)
    return float(np.mean(returns))


def settings(steps: int) -> dict[str, Any]:
    """Settings that compared runs have in common; JSON-able."""
    return {
        "steps": steps,
        "lanes": LANES,
        "steps_between_updates": STEPS_BETWEEN_UPDATES,
        "width": WIDTH,
        "gamma": GAMMA,
        "learning_rate": LEARNING_RATE,
        "reward_scale": REWARD_SCALE,
        "evaluation_episodes": EVALUATION_EPISODES,
        "versions": {**versions(), "stable-baselines3": metadata.version("stable-baselines3")},
    }
