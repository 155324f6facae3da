"""R-SPAR: proximal policy optimisation that imagines most of its episodes.

On any Gymnasium environment of the right shapes it is plain PPO. On an environment that can say where a move leads
(:class:`agents.protocol.PlannableEnv`) every measured plan teaches a reward model, the policy practises on thousands
of moves scored by that model, and the model's uncertainty decides which plan is measured next. Learning from a model
of the reward in this way follows DyNA-PPO (Angermueller et al. 2020).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

import gymnasium as gym
import numpy as np
import torch

from agents.acquisition import ExpectedImprovement, Proposer
from agents.checkpoint import read_document, restore, write_checkpoint
from agents.experience import Experience
from agents.lanes import check_spaces
from agents.learning import (
    DEFAULT_IMAGINATION,
    ImaginationSettings,
    learn_from_rollouts,
    learn_with_imagination,
)
from agents.monitor import Callback, Monitor, Record, best_feasible
from agents.networks import ActorCritic, observation_size
from agents.ppo import PPOSettings, ppo_update
from agents.protocol import PlannableEnv
from agents.rollout import Batch, Decision, Outcome, RolloutBuffer
from prune_gym.device import resolve_device

Array = np.ndarray | torch.Tensor


@dataclass(frozen=True)
class _Config:
    """Constructor arguments of an agent, as saved with it."""

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


class RSPARAgent:
    """A policy over pruning budgets.

    Observations are ``[layer features L*F | current ratios L | 5 globals]``, actions (L,) in [-1, 1]. The networks
    are shared over layers, so their weights do not depend on L.

    Args:
        num_layers: L, prunable layers of the network.
        layer_feature_dim: F, features a layer.
        hidden_dim: width of the networks.
        lr: learning rate of Adam.
        gamma: discount.
        gae_lambda: lambda of generalised advantage estimation.
        clip_range: PPO's clip range.
        ent_coef: weight of the entropy bonus.
        vf_coef: weight of the value loss.
        max_grad_norm: gradient norm clip.
        target_kl: early stop of an update at 1.5 times this KL divergence (nats); None: never.
        anneal_timesteps: the learning rate falls linearly to 0 over this many timesteps; None: constant.
        n_steps: steps of every environment between two updates (plain PPO).
        initial_std: pre-squash standard deviation of the first actions.
        imagination: sizes of the imagined part; None: plain PPO on every environment.
        proposer: how the next plan to measure is chosen; None: the default.
        seed: of the weights, the actions and the candidates; the global generators are neither seeded nor used.
        device: where the networks live (see :func:`prune_gym.device.resolve_device`).

    Attributes:
        history: one record an episode (see :mod:`agents.monitor`).
        num_timesteps: environment steps so far.
        reset_seed: seed of the next reset that starts a call of :meth:`learn`; None goes on with the environment's
            stream.

    Raises:
        ValueError: a size is not positive.
    """

    def __init__(
        self,
        num_layers: int,
        layer_feature_dim: int = 3,
        hidden_dim: int = 256,
        lr: float = 3e-4,
        gamma: float = 0.99,
        *,
        gae_lambda: float = 0.95,
        clip_range: float = 0.2,
        ent_coef: float = 0.0,
        vf_coef: float = 0.5,
        max_grad_norm: float = 0.5,
        target_kl: float | None = 0.05,
        anneal_timesteps: int | None = None,
        n_steps: int = 256,
        initial_std: float = 0.2,
        imagination: ImaginationSettings | None = DEFAULT_IMAGINATION,
        proposer: Proposer | None = None,
        seed: int = 0,
        device: str | int | torch.device | None = "cpu",
    ) -> None:
        for name, value in (
            ("num_layers", num_layers),
            ("layer_feature_dim", layer_feature_dim),
            ("hidden_dim", hidden_dim),
            ("n_steps", n_steps),
        ):
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        for name, size in (("lr", lr), ("initial_std", initial_std)):
            if not size > 0:
                raise ValueError(f"{name} must be positive, got {size}")
        self.config = _Config(
            num_layers,
            layer_feature_dim,
            hidden_dim,
            lr,
            gamma,
            gae_lambda,
            clip_range,
            ent_coef,
            vf_coef,
            max_grad_norm,
            target_kl,
            anneal_timesteps,
            n_steps,
            initial_std,
            seed,
        )
        self.device = resolve_device(device)
        self.generator = torch.Generator().manual_seed(seed)
        self.rng = np.random.default_rng(seed)
        self.network = ActorCritic(layer_feature_dim, hidden_dim, initial_std, self.generator).to(self.device)
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=lr, eps=1e-5)
        self.settings = PPOSettings(clip_range, ent_coef, vf_coef, max_grad_norm, target_kl)
        self.imagination = imagination
        self.proposer = proposer or Proposer(ExpectedImprovement())
        self.buffer = RolloutBuffer()
        self.experience: Experience | None = None
        self.history: list[Record] = []
        self.num_timesteps = 0
        self.num_updates = 0
        self._pending: Decision | None = None
        self.reset_seed: int | None = seed
        self._env: gym.Env | gym.vector.VectorEnv | None = None
        self._env_state: Mapping[str, Any] | None = None

    @property
    def num_layers(self) -> int:
        """L."""
        return self.config.num_layers

    @property
    def observation_size(self) -> int:
        """Length of an observation."""
        return observation_size(self.num_layers, self.config.layer_feature_dim)

    @property
    def best(self) -> Record | None:
        """Record of the best feasible measured plan for the latest target; None before any."""
        return best_feasible(self.history)

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
        """Checked observations [N, D] on the agent's device."""
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
        """What the policy does in one or N states [N, D], with all PPO needs to learn from it."""
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

    def learn(
        self,
        env: gym.Env | gym.vector.VectorEnv,
        total_timesteps: int,
        callback: Callback | None = None,
        progress_bar: bool = False,
        log_dir: str | Path | None = None,
    ) -> RSPARAgent:
        """Train on an environment; may be called again to go on.

        A single pruning environment at measured fidelity is learned with the reward model, any other environment (and
        any vector environment) by plain PPO. Every call starts with a reset, the first one seeded.

        Args:
            env: observations and actions of this agent's shapes.
            total_timesteps: environment steps of this call. Where moves are imagined, every step measures a new plan.
            callback: called with every new record of :attr:`history`; returning False ends the training.
            progress_bar: draw one.
            log_dir: folder for TensorBoard files.

        Returns:
            The agent.

        Raises:
            ValueError: the spaces do not fit, or a reward is not finite.
        """
        check_spaces(env, self.observation_size, self.num_layers)
        self._meet(env)
        with Monitor(self.history, total_timesteps, callback, progress_bar, log_dir) as monitor:
            if self.imagination is not None and _can_be_imagined(env):
                learn_with_imagination(self, self.imagination, env, total_timesteps, monitor)
            else:
                learn_from_rollouts(self, env, total_timesteps, monitor)
        return self

    def _meet(self, env: gym.Env | gym.vector.VectorEnv) -> None:
        """Decide how the next reset of `env` is seeded.

        A new environment is seeded, the one learned on before goes on with its own stream, and after a restart a new
        one goes on with the stream of the old.
        """
        single = isinstance(env, gym.Env)
        self.reset_seed = None if env is self._env else self.config.seed + self.num_timesteps
        if single and self._env_state is not None:
            generator = np.random.default_rng()
            generator.bit_generator.state = self._env_state
            env.unwrapped.np_random = generator
            self.reset_seed = None
        self._env, self._env_state = env, None

    @property
    def environment_state(self) -> Mapping[str, Any] | None:
        """Random state of the environment last learned on, if it is a single one."""
        if isinstance(self._env, gym.Env):
            return self._env.unwrapped.np_random.bit_generator.state
        return self._env_state

    @environment_state.setter
    def environment_state(self, state: Mapping[str, Any] | None) -> None:
        self._env_state = state

    # Persistence

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write weights, optimizer, random state, counters, history and measurements to one safetensors file.

        The file is written atomically and holds no code. Transitions stored but not yet learned from are not part of
        it.
        """
        return write_checkpoint(self, path)

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        num_layers: int | None = None,
        *,
        layer_feature_dim: int | None = None,
        hidden_dim: int | None = None,
        proposer: Proposer | None = None,
        device: str | int | torch.device | None = "cpu",
    ) -> RSPARAgent:
        """Restore an agent; training goes on as if it had never stopped.

        Args:
            path: what :meth:`save` wrote.
            num_layers: act on a network of this many layers instead. Measurements and history belong to the old
                network and stay behind.
            layer_feature_dim: what the caller's observations have; checked against the file.
            hidden_dim: what the caller expects; checked against the file.
            proposer: as in the constructor; not part of the file.
            device: where the networks go.

        Raises:
            FileNotFoundError: no such file.
            ValueError: damaged, not an agent's, or of other feature dimensions or widths.
        """
        expected = {"layer_feature_dim": layer_feature_dim, "hidden_dim": hidden_dim}
        tensors, document = read_document(path, expected)
        config = dict(document["config"])
        if num_layers is not None:
            config["num_layers"] = num_layers
        sizes = document["imagination"]
        imagination = None if sizes is None else ImaginationSettings(**sizes)
        agent = cls(**config, imagination=imagination, proposer=proposer, device=device)
        restore(agent, tensors, document)
        return agent


def _can_be_imagined(env: gym.Env | gym.vector.VectorEnv) -> TypeGuard[gym.Env]:
    """Whether this is a single pruning environment whose steps measure plans."""
    if isinstance(env, gym.vector.VectorEnv) or not isinstance(env.unwrapped, PlannableEnv):
        return False
    return env.unwrapped.fidelity == "measured"
