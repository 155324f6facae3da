"""A policy that acts, remembers what came of it, and learns from it by PPO: what R-SPAR is without a reward model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from agents.ppo.networks import ActorCritic, observation_size
from agents.ppo.rollout import Batch, Decision, Outcome, RolloutBuffer
from agents.ppo.update import PPOSettings, ppo_update
from prune_gym.support.device import resolve_device

Array = np.ndarray | torch.Tensor


@dataclass(frozen=True)
class AgentConfig:
    """An agent's hyper-parameters, as saved with it; explained in :class:`agents.rspar.agent.RSPARAgent`.

    Raises:
        ValueError: a size or a rate is not positive.
    """

    num_layers: int
    layer_feature_dim: int
    hidden_dim: int
    lr: float
    gamma: float
    gae_lambda: float
    clip_range: float
    ent_coef: float
    vf_coef: float
    max_grad_norm: float
    target_kl: float | None
    anneal_timesteps: int | None
    n_steps: int
    initial_std: float
    seed: int

    def __post_init__(self) -> None:
        for name in ("num_layers", "layer_feature_dim", "hidden_dim", "n_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("lr", "initial_std"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")


class PPOAgent:
    """A policy and value network with the data they learn from.

    Args:
        config: hyper-parameters.
        device: where the networks live (see :func:`prune_gym.support.device.resolve_device`).

    Attributes:
        generator: source of weights, actions and shuffles; on the CPU, so that every device draws the same.
        num_timesteps: environment steps so far.
        num_updates: passes over data so far.
    """

    def __init__(self, config: AgentConfig, device: str | int | torch.device | None = "cpu") -> None:
        self.config = config
        self.device = resolve_device(device)
        self.generator = torch.Generator().manual_seed(config.seed)
        self.network = ActorCritic(config.layer_feature_dim, config.hidden_dim, config.initial_std, self.generator).to(
            self.device
        )
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=config.lr, eps=1e-5)
        self.settings = PPOSettings(
            config.clip_range, config.ent_coef, config.vf_coef, config.max_grad_norm, config.target_kl
        )
        self.buffer = RolloutBuffer()
        self.num_timesteps = 0
        self.num_updates = 0
        self._pending: Decision | None = None

    @property
    def num_layers(self) -> int:
        """L."""
        return self.config.num_layers

    @property
    def observation_size(self) -> int:
        """Length of an observation."""
        return observation_size(self.num_layers, self.config.layer_feature_dim)

    # Acting

    def select_action(self, state: Array, deterministic: bool = False) -> tuple[Array, Any]:
        """Choose actions; remembered for :meth:`store` unless deterministic.

        Args:
            state: one observation [D] or a batch [N, D], numpy or torch.
            deterministic: the policy's mode instead of a sample.

        Returns:
            (action, log_prob): float32 [L] in [-1, 1] and a float, or [N, L] and [N], of the kind that came in.

        Raises:
            ValueError: an observation has another length.
        """
        decision = self.decide(state, deterministic)
        self._pending = None if deterministic else decision
        actions, log_probs = np.tanh(decision.pre_squash), decision.log_probs
        if isinstance(state, torch.Tensor):
            made = torch.as_tensor(actions, device=state.device), torch.as_tensor(log_probs, device=state.device)
            return made if state.ndim == 2 else (made[0][0], made[1][0])
        return (actions, log_probs) if state.ndim == 2 else (actions[0], float(log_probs[0]))

    def predict(
        self,
        observation: Array,
        state: Any = None,
        episode_start: Any = None,
        deterministic: bool = False,
    ) -> tuple[np.ndarray, Any]:
        """Actions, with the signature of Stable-Baselines3 (its ``evaluate_policy`` works); nothing is remembered.

        Args:
            observation: [D] or [N, D].
            state: passed through (the policy is not recurrent).
            episode_start: ignored, for the same reason.
            deterministic: the policy's mode instead of a sample.

        Returns:
            (float32 actions [L] or [N, L], state).
        """
        actions = np.tanh(self.decide(observation, deterministic).pre_squash)
        return (actions if observation.ndim == 2 else actions[0]), state

    def _observations(self, state: Array) -> torch.Tensor:
        """Checked observations [N, D] on the agent's device.

        Raises:
            TypeError: neither an array nor a tensor.
            ValueError: another shape than the agent was made for.
        """
        if not isinstance(state, (np.ndarray, torch.Tensor)):
            raise TypeError(f"an observation is a numpy array or a torch tensor, got {type(state).__name__}")
        if state.ndim not in (1, 2) or state.shape[-1] != self.observation_size:
            raise ValueError(
                f"expected observations of shape ({self.observation_size},) or (N, {self.observation_size}) "
                f"(L = {self.num_layers} layers of F = {self.config.layer_feature_dim} features: L*F + L + 5), got "
                f"{tuple(state.shape)}"
            )
        return torch.as_tensor(state, dtype=torch.float32, device=self.device).reshape(-1, self.observation_size)

    @torch.no_grad()
    def decide(self, observation: Array, deterministic: bool = False) -> Decision:
        """Decide in one or N states [N, D]; the decision has all PPO needs to learn from it."""
        observations = self._observations(observation)
        policy = self.network.policy(observations)
        pre_squash = policy.mean
        if not deterministic:
            pre_squash = policy.sample(torch.randn(policy.mean.shape, generator=self.generator).to(self.device))
        return Decision(
            observations.cpu().numpy(),
            pre_squash.cpu().numpy(),
            policy.log_prob(pre_squash).cpu().numpy(),
            self.network.value(observations).cpu().numpy(),
        )

    # Learning

    def store(self, reward: Any, terminated: Any, truncated: Any, next_state: Array) -> None:
        """Tell what the last :meth:`select_action` led to.

        Args:
            reward: a number, or [N] for a batch.
            terminated: whether the episode ended by itself; a bool or [N].
            truncated: whether it was cut off; a bool or [N].
            next_state: the observation it led to, before any reset; [D] or [N, D].

        Raises:
            ValueError: no sampled action is pending, shapes differ, or a reward is not finite.
        """
        if self._pending is None:
            raise ValueError(
                "no action is pending: call select_action(state) with deterministic=False before every store"
            )
        decision, self._pending = self._pending, None
        rewards = np.atleast_1d(np.asarray(reward, dtype=np.float64))
        outcome = Outcome(
            rewards,
            np.broadcast_to(np.asarray(terminated, dtype=bool), rewards.shape),
            np.broadcast_to(np.asarray(truncated, dtype=bool), rewards.shape),
            self._observations(next_state).cpu().numpy(),
            np.ones(rewards.shape, dtype=bool),
        )
        self.buffer.add(decision, outcome)

    def update_policy(self, batch_size: int = 64, epochs: int = 10) -> dict[str, float]:
        """One PPO update from everything stored, which is then forgotten.

        Args:
            batch_size: transitions a minibatch.
            epochs: passes over the transitions.

        Returns:
            Diagnostics named as in Stable-Baselines3 (``train/approx_kl``, ``train/clip_fraction``, ...).

        Raises:
            ValueError: nothing is stored, or less than a minibatch.
        """
        if not len(self.buffer):
            raise ValueError("there is nothing to learn from yet; call select_action and store (or learn) first")
        if not 1 <= batch_size <= len(self.buffer):
            raise ValueError(
                f"batch_size must be between 1 and the {len(self.buffer)} transitions stored, got {batch_size}"
            )
        if epochs < 1:
            raise ValueError(f"epochs must be at least 1, got {epochs}")
        next_observations = self.buffer.next_observations()
        with torch.no_grad():
            next_values = self.network.value(torch.as_tensor(next_observations, device=self.device))
        batch = self.buffer.batch(
            next_values.cpu().numpy(),
            gamma=self.config.gamma,
            gae_lambda=self.config.gae_lambda,
            device=self.device,
        )
        self.buffer.clear()
        return self.update_from(batch, batch_size, epochs)

    def update_from(self, batch: Batch, batch_size: int, epochs: int) -> dict[str, float]:
        """One PPO update from a batch, measured or imagined; returns the diagnostics."""
        lr = self.config.lr
        if self.config.anneal_timesteps is not None:
            lr *= max(0.0, 1 - self.num_timesteps / self.config.anneal_timesteps)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        diagnostics = ppo_update(
            self.network,
            self.optimizer,
            batch,
            self.settings,
            batch_size=batch_size,
            epochs=epochs,
            generator=self.generator,
        )
        self.num_updates += epochs
        return diagnostics | {"train/learning_rate": lr, "train/n_updates": float(self.num_updates)}
