"""PPO in one screen. It knows Gymnasium's vector interface and nothing about pruning."""

import gymnasium as gym
import numpy as np
import torch
from torch import nn


def network(inputs: int, outputs: int) -> nn.Sequential:
    """A two-layer perceptron."""
    return nn.Sequential(nn.Linear(inputs, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, outputs))


def train(envs: gym.vector.VectorEnv, iterations: int, steps: int = 2, epochs: int = 10, seed: int = 0) -> list[float]:
    """Train, and return the mean reward of every iteration.

    With NEXT_STEP autoreset the step after an episode's end only resets; it is left out of the losses.
    """
    torch.manual_seed(seed)
    inputs, outputs = envs.single_observation_space.shape[0], envs.single_action_space.shape[0]
    actor, critic = network(inputs, outputs), network(inputs, 1)
    nn.init.zeros_(actor[-1].weight)
    log_std = nn.Parameter(torch.full((outputs,), -1.0))
    optimizer = torch.optim.Adam([*actor.parameters(), *critic.parameters(), log_std], lr=1e-3, eps=1e-5)
    observation, done = torch.as_tensor(envs.reset(seed=seed)[0]), torch.zeros(envs.num_envs)
    history = []
    for _ in range(iterations):
        batch: list[tuple[torch.Tensor, ...]] = []
        for _ in range(steps):
            with torch.no_grad():
                policy = torch.distributions.Normal(actor(observation), log_std.exp())
                action = policy.sample()
                value, log_prob = critic(observation)[:, 0], policy.log_prob(action).sum(1)
            following, reward, terminated, truncated, _ = envs.step(action.clamp(-1, 1).numpy())
            ended = torch.as_tensor(terminated | truncated, dtype=torch.float32)
            reward = torch.as_tensor(reward, dtype=torch.float32)
            batch.append((observation, action, log_prob, value, reward, ended, 1 - done))
            observation, done = torch.as_tensor(following), ended
        with torch.no_grad():
            following_value, advantage, advantages = critic(observation)[:, 0], torch.zeros(envs.num_envs), []
            for _, _, _, value, reward, ended, _ in reversed(batch):
                delta = reward + 0.99 * following_value * (1 - ended) - value
                advantage = delta + 0.99 * 0.95 * (1 - ended) * advantage
                following_value = value
                advantages.insert(0, advantage)
        observations, actions, log_probs, values, rewards, _, used = (
            torch.cat(part) for part in zip(*batch, strict=True)
        )
        advantage = torch.cat(advantages)
        returns, keep = advantage + values, used > 0
        advantage = (advantage - advantage[keep].mean()) / (advantage[keep].std() + 1e-8)
        for _ in range(epochs):
            policy = torch.distributions.Normal(actor(observations), log_std.exp())
            ratio = (policy.log_prob(actions).sum(1) - log_probs).exp()
            gain = torch.minimum(ratio * advantage, ratio.clamp(0.8, 1.2) * advantage)[keep].mean()
            error = (critic(observations)[:, 0] - returns)[keep].square().mean()
            optimizer.zero_grad()
            (0.5 * error - gain).backward()
            nn.utils.clip_grad_norm_([*actor.parameters(), *critic.parameters(), log_std], 0.5)
            optimizer.step()
        history.append(float(rewards[keep].mean()))
    return history


if __name__ == "__main__":
    vector = gym.make_vec("prune_gym:HOBSPrune-v0", num_envs=64, fidelity="predicted", start="uniform")
    rewards = train(vector, iterations=60)
    print(f"mean reward: first 5 iterations {np.mean(rewards[:5]):+.4f}, last 5 {np.mean(rewards[-5:]):+.4f}")  # noqa: T201
