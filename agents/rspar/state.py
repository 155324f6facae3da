"""State that R-SPAR's learning and its files act on: the policy, what was measured, where its random streams stand."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
import torch

from agents.amortised.model import AmortisedModel, KnownNetwork
from agents.interface.learner import Environment
from agents.interface.monitor import Record
from agents.model.acquisition import Proposer
from agents.model.experience import Experience
from agents.ppo.agent import AgentConfig, PPOAgent


@dataclass(frozen=True)
class ImaginationSettings:
    """Sizes of the imagined part.

    Attributes:
        moves: imagined moves for every measured plan.
        batch_size: of them a minibatch.
        other_targets: where episodes ask for several targets, imagined moves are shared between the current state and
            so many first states at other targets.
        epochs: passes over them.
        proposals: policy samples considered for measuring.
        broad: normal moves as wide as the first ones, considered as well where all episodes ask for one target: a
            policy that has learned proposes much of the same. Over many targets a budget is too small for exploring.
        refit_every: measurements between two fits of the reward model's hyper-parameters.
    """

    moves: int = 512
    batch_size: int = 512
    other_targets: int = 7
    epochs: int = 8
    proposals: int = 256
    broad: int = 256
    refit_every: int = 8


DEFAULT_IMAGINATION = ImaginationSettings()


class LearnerState(PPOAgent):
    """A policy with the measurements it learned from.

    Args:
        config: hyper-parameters.
        imagination: sizes of the imagined part; None: plain PPO on every environment.
        proposer: how the next plan to measure is chosen.
        amortised: what is known of plans for any network; None: nothing.
        device: where the networks live.

    Attributes:
        rng: source of candidates, beside the policy's own generator.
        known: how the amortised model looks at the problem at hand; None without one, or before any problem.
        experience: what was measured of the problem at hand; None before any.
        history: one record an episode.
        reset_seed: seed of the next reset that starts a call of ``learn``; None goes on with the environment's stream.
    """

    def __init__(
        self,
        config: AgentConfig,
        imagination: ImaginationSettings | None,
        proposer: Proposer,
        amortised: AmortisedModel | None = None,
        device: str | int | torch.device | None = "cpu",
    ) -> None:
        super().__init__(config, device)
        self.rng = np.random.default_rng(config.seed)
        self.imagination = imagination
        self.proposer = proposer
        self.amortised = amortised
        self.known: KnownNetwork | None = None
        self.experience: Experience | None = None
        self.history: list[Record] = []
        self.reset_seed: int | None = config.seed
        self._env: Environment | None = None
        self._env_state: Mapping[str, Any] | None = None

    def begin(self, env: Environment) -> None:
        """Decide how the next reset of `env` is seeded.

        A new environment is seeded, the one learned on before goes on with its own stream, and after a restart a new
        one goes on with the stream of the old.
        """
        self.reset_seed = None if env is self._env else self.config.seed + self.num_timesteps
        if isinstance(env, gym.Env) and self._env_state is not None:
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

    def reseed(self, seed: int) -> None:
        """Begin new random streams; what was learned stays."""
        self.config = dataclasses.replace(self.config, seed=seed)
        self.generator.manual_seed(seed)
        self.rng = np.random.default_rng(seed)
        self._env, self._env_state = None, None
