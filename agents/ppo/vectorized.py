"""One view of a single environment and of a Gymnasium vector environment: N lanes stepped together.

The two differ in how they end episodes. Here a step always reports the state it really led to (for bootstrapping)
apart from the state the next action is taken in, and marks the steps that were only a reset.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode

from agents.ppo.rollout import Outcome


@dataclass(frozen=True)
class LaneStep:
    """Outcome of one step in all lanes.

    Attributes:
        outcome: for the rollout buffer.
        observations: states the next actions are taken in [N, D].
        finished: (lane, info) of every episode that ended.
    """

    outcome: Outcome
    observations: np.ndarray
    finished: list[tuple[int, Mapping[str, Any]]]


class SingleLane:
    """A plain environment as one lane."""

    num_lanes = 1

    def __init__(self, env: gym.Env) -> None:
        self._env = env

    def reset(self, seed: int | None) -> np.ndarray:
        """Observations [1, D] of fresh episodes."""
        return self._env.reset(seed=seed)[0][None]

    def step(self, actions: np.ndarray) -> LaneStep:
        """Act with actions [1, L] and reset if the episode ended."""
        observation, reward, terminated, truncated, info = self._env.step(actions[0])
        done = bool(terminated or truncated)
        outcome = Outcome(
            np.array([reward], dtype=np.float64),
            np.array([bool(terminated)]),
            np.array([bool(truncated)]),
            observation[None],
            np.array([True]),
        )
        following = self._env.reset()[0] if done else observation
        return LaneStep(outcome, following[None], [(0, info)] if done else [])


class VectorLanes:
    """A vector environment that resets its own lanes, in the same step or in the next."""

    def __init__(self, env: gym.vector.VectorEnv) -> None:
        self._env = env
        self.num_lanes = env.num_envs
        self._mode = env.metadata.get("autoreset_mode", AutoresetMode.NEXT_STEP)
        if self._mode == AutoresetMode.DISABLED:
            raise ValueError("vector environments must reset themselves: use autoreset_mode NEXT_STEP or SAME_STEP")
        self._resetting = np.zeros(self.num_lanes, dtype=bool)

    def reset(self, seed: int | None) -> np.ndarray:
        """Observations [N, D] of fresh episodes."""
        self._resetting[:] = False
        return self._env.reset(seed=seed)[0].copy()

    def step(self, actions: np.ndarray) -> LaneStep:
        """Act with actions [N, L]."""
        observations, rewards, terminated, truncated, infos = self._env.step(actions)
        done = (terminated | truncated) & ~self._resetting
        reached = observations.copy()
        final = infos
        if self._mode == AutoresetMode.SAME_STEP and done.any():
            final = infos["final_info"]
            for lane in np.flatnonzero(done):
                reached[lane] = infos["final_obs"][lane]
        outcome = Outcome(
            np.asarray(rewards, dtype=np.float64), terminated.copy(), truncated.copy(), reached, ~self._resetting
        )
        finished: list[tuple[int, Mapping[str, Any]]]
        finished = [(int(lane), _lane_info(final, int(lane))) for lane in np.flatnonzero(done)]
        self._resetting = done if self._mode == AutoresetMode.NEXT_STEP else np.zeros_like(done)
        return LaneStep(outcome, observations.copy(), finished)


def _lane_info(infos: Mapping[str, Any], lane: int) -> dict[str, Any]:
    """One lane's entries of a vector environment's info (``_key`` says which lanes have a key)."""
    return {
        key: value[lane]
        for key, value in infos.items()
        if isinstance(value, np.ndarray)
        and not key.startswith("_")
        and infos.get(f"_{key}", [False] * (lane + 1))[lane]
    }


def lanes_of(env: gym.Env | gym.vector.VectorEnv) -> SingleLane | VectorLanes:
    """The lanes of an environment."""
    return VectorLanes(env) if isinstance(env, gym.vector.VectorEnv) else SingleLane(env)


def check_spaces(env: gym.Env | gym.vector.VectorEnv, observation_size: int, num_layers: int) -> None:
    """Make sure an agent's observations and actions are the environment's.

    Args:
        env: environment.
        observation_size: length of the agent's observations.
        num_layers: L, length of the agent's actions.

    Raises:
        ValueError: the spaces are of other shapes, not Boxes, or the actions are not in [-1, 1].
    """
    if isinstance(env, gym.vector.VectorEnv):
        observation_space, action_space = env.single_observation_space, env.single_action_space
    else:
        observation_space, action_space = env.observation_space, env.action_space
    for what, space, size in (
        ("observations", observation_space, observation_size),
        ("actions", action_space, num_layers),
    ):
        if not isinstance(space, gym.spaces.Box) or space.shape != (size,):
            raise ValueError(
                f"the agent's {what} have shape ({size},), the environment's space is {space}; an agent of L layers "
                "and F features a layer takes observations of length L*F + L + 5 and gives actions of length L"
            )
    assert isinstance(action_space, gym.spaces.Box)
    if not (np.all(action_space.low == -1) and np.all(action_space.high == 1)):
        raise ValueError(
            f"the agent's actions are in [-1, 1], the environment's space is {action_space}; wrap it in "
            "gymnasium.wrappers.RescaleAction(env, -1.0, 1.0)"
        )
