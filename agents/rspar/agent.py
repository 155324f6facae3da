"""R-SPAR: proximal policy optimisation that imagines most of its episodes.

On any Gymnasium environment of the right shapes it is plain PPO. On an environment that can say where a move leads
(:class:`agents.interface.protocol.PlannableEnv`) every measured plan teaches a reward model, the policy practises on
thousands of moves scored by that model, and the model's uncertainty decides which plan is measured next. Learning from
a model of the reward in this way follows DyNA-PPO (Angermueller et al. 2020).
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, TypeGuard

import gymnasium as gym
import torch

from agents.amortised.model import AmortisedModel
from agents.amortised.storage import load_model
from agents.interface.learner import Environment, Learner
from agents.interface.monitor import Monitor
from agents.interface.protocol import PlannableEnv
from agents.model.acquisition import ExpectedImprovement, Proposer
from agents.ppo.agent import AgentConfig
from agents.ppo.vectorized import check_spaces
from agents.rspar.checkpoint import read_document, restore, write_checkpoint
from agents.rspar.learning import learn_from_rollouts, learn_with_imagination
from agents.rspar.state import DEFAULT_IMAGINATION, ImaginationSettings, LearnerState


class RSPARAgent(LearnerState, Learner):
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
        amortised: what is known of plans for any network (:mod:`agents.amortised`), where the reward model begins and
            the first move comes from; None: nothing.
        seed: of the weights, the actions and the candidates; the global generators are neither seeded nor used.
        device: where the networks live (see :func:`prune_gym.support.device.resolve_device`).

    Attributes:
        history: one record an episode (see :mod:`agents.interface.monitor`).
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
        amortised: AmortisedModel | None = None,
        seed: int = 0,
        device: str | int | torch.device | None = "cpu",
    ) -> None:
        config = AgentConfig(
            num_layers=num_layers,
            layer_feature_dim=layer_feature_dim,
            hidden_dim=hidden_dim,
            lr=lr,
            gamma=gamma,
            gae_lambda=gae_lambda,
            clip_range=clip_range,
            ent_coef=ent_coef,
            vf_coef=vf_coef,
            max_grad_norm=max_grad_norm,
            target_kl=target_kl,
            anneal_timesteps=anneal_timesteps,
            n_steps=n_steps,
            initial_std=initial_std,
            seed=seed,
        )
        super().__init__(config, imagination, proposer or Proposer(ExpectedImprovement()), amortised, device)

    # Learning

    def _meet(self, env: Environment, batch_size: int) -> None:
        check_spaces(env, self.observation_size, self.num_layers)
        self.begin(env)

    def _run(self, env: Environment, total_timesteps: int, monitor: Monitor, batch_size: int) -> None:
        """Learn with the reward model on a single pruning environment at measured fidelity, else by plain PPO.

        Every call starts with a reset, the first one seeded. Where moves are imagined, every step measures a new plan,
        and a larger batch is another, less informed search.
        """
        if self.imagination is not None and _can_be_imagined(env):
            learn_with_imagination(self, self.imagination, env, total_timesteps, monitor, batch_size)
        else:
            learn_from_rollouts(self, env, total_timesteps, monitor)

    # Persistence

    @classmethod
    def pretrained(
        cls,
        num_layers: int,
        layer_feature_dim: int = 3,
        *,
        path: str | os.PathLike[str] | None = None,
        **settings: Any,
    ) -> RSPARAgent:
        """An agent that knows networks: it was taught on a family of small ones, and asks for a good plan at once.

        Its first move needs nothing measured, and its reward model begins with what the family taught, so that only the
        difference to the network at hand is left to learn.

        Args:
            num_layers: L.
            layer_feature_dim: F.
            path: file of :func:`agents.amortised.storage.save_model`; None: the one that comes with the package.
            **settings: other arguments of the constructor.

        Raises:
            FileNotFoundError: no such file.
            ValueError: it holds no such model.
        """
        return cls(num_layers, layer_feature_dim, amortised=load_model(path), **settings)

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
        lr: float | None = None,
        gamma: float | None = None,
        proposer: Proposer | None = None,
        seed: int | None = None,
        device: str | int | torch.device | None = "cpu",
    ) -> RSPARAgent:
        """Restore an agent; training goes on as if it had never stopped.

        On another problem its policy's own plan is measured first, and where the network has as many layers, what the
        reward model learned is what it expects there (see :mod:`agents.model.reward_model`).

        Args:
            path: what :meth:`save` wrote.
            num_layers: act on a network of this many layers instead. Measurements and history belong to the old
                network and stay behind.
            layer_feature_dim: what the caller's observations have; checked against the file.
            hidden_dim: what the caller expects; checked against the file.
            lr: go on with this learning rate instead of the file's.
            gamma: go on with this discount instead of the file's.
            proposer: as in the constructor; not part of the file.
            seed: draw from new random streams instead of going on with those of the file.
            device: where the networks go.

        Raises:
            FileNotFoundError: no such file.
            ValueError: damaged, not an agent's, or of other feature dimensions or widths.
        """
        expected = {"layer_feature_dim": layer_feature_dim, "hidden_dim": hidden_dim}
        tensors, document = read_document(path, expected)
        changed = {"num_layers": num_layers, "lr": lr, "gamma": gamma}
        config = document["config"] | {key: value for key, value in changed.items() if value is not None}
        sizes = document["imagination"]
        try:
            imagination = None if sizes is None else ImaginationSettings(**sizes)
        except TypeError as error:
            raise ValueError(f"{path} cannot be an agent that was saved: {error}") from None
        agent = cls(**config, imagination=imagination, proposer=proposer, device=device)
        restore(agent, tensors, document)
        if seed is not None:
            agent.reseed(seed)
        return agent


def _can_be_imagined(env: Environment) -> TypeGuard[gym.Env]:
    """Return whether this is a single pruning environment whose steps measure plans, or stand for measuring them."""
    if isinstance(env, gym.vector.VectorEnv) or not isinstance(env.unwrapped, PlannableEnv):
        return False
    return env.unwrapped.fidelity in ("measured", "surrogate")
