"""Stable-Baselines3's PPO on the family of networks: trained on some, judged on others that it never saw.

``python docs/examples/family_ppo.py`` prints the mean normalised score on unseen networks: 0 is the knapsack's plan, 1
the best one known. Nothing is measured there: the plan is the policy's first answer.
"""

from __future__ import annotations

import sys
from typing import Any

import gymnasium as gym
import numpy as np
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env

import prune_gym  # noqa: F401  (registers the environments)


def train(steps: int = 300_000, copies: int = 8, seed: int = 0, **arguments: Any) -> PPO:
    """Train on the training networks, one move an episode."""
    envs = make_vec_env("HOBSPruneFamily-v0", copies, seed=seed, env_kwargs={"split": "train", **arguments})
    policy = {"net_arch": [128, 128], "log_std_init": -1.0}
    model = PPO("MlpPolicy", envs, n_steps=256, batch_size=256, gamma=0.0, policy_kwargs=policy, seed=seed)
    return model.learn(steps)


def scores(model: PPO, split: str, episodes: int = 300, **arguments: Any) -> np.ndarray:
    """Normalised scores of the policy's answers."""
    env = gym.make("HOBSPruneFamily-v0", split=split, **arguments)
    found = []
    for episode in range(episodes):
        observation, _ = env.reset(seed=42 if episode == 0 else None)
        action, _ = model.predict(observation, deterministic=True)
        found.append(env.step(action)[1])
    return np.array(found)


if __name__ == "__main__":
    trained = train()
    for split in ("train", "validation", "test"):
        found = scores(trained, split)
        sys.stdout.write(f"{split}: {found.mean():.2f} +- {found.std() / len(found) ** 0.5:.2f}\n")
