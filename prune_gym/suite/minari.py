"""Episodes as a Minari dataset, for agents that learn without acting."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np

if TYPE_CHECKING:
    from minari import MinariDataset

Policy = Callable[[Any], Any]
"""Choice of an action for an observation."""


def to_minari(
    env: gym.Env,
    name: str,
    episodes: int,
    policy: Policy | None = None,
    *,
    seed: int = 0,
    algorithm: str | None = None,
    author: str | None = None,
) -> MinariDataset:
    """Play episodes and keep them as a Minari dataset, in ``$MINARI_DATASETS_PATH`` or Minari's own folder.

    The dataset holds the environment's specification, so that ``dataset.recover_environment()`` makes it anew.

    Args:
        env: from ``gymnasium.make``; it is left open.
        name: of the dataset, for example ``"prune/family-random-v0"``.
        episodes: number of them.
        policy: chooses the actions; None draws them from the action space.
        seed: of the episodes and of actions that are drawn.
        algorithm: said of the policy in the dataset.
        author: said of the dataset.

    Raises:
        ImportError: Minari is missing.
        ValueError: fewer than one episode, or a dataset of this name exists.
    """
    if episodes < 1:
        raise ValueError(f"a dataset has at least one episode; got {episodes}")
    try:
        import minari
        from minari.data_collector import EpisodeBuffer
    except ImportError as error:
        raise ImportError("episodes are exported with Minari: pip install 'prune-gym[minari]'") from error
    env.action_space.seed(seed)
    played = [_play(env, policy, seed if episode == 0 else None) for episode in range(episodes)]
    return minari.create_dataset_from_buffers(
        name,
        [EpisodeBuffer(id=index, **episode) for index, episode in enumerate(played)],
        env=env,
        eval_env=env.spec,
        algorithm_name=algorithm or ("random" if policy is None else "policy"),
        author=author,
        description="How many channels every layer of a trained network should lose: episodes of prune-gym.",
        requirements=["prune-gym"],
    )


def _play(env: gym.Env, policy: Policy | None, seed: int | None) -> dict[str, Any]:
    """Steps of one episode, as a Minari buffer names them."""
    observation, _ = env.reset(seed=seed)
    steps: dict[str, list[Any]] = {key: [] for key in ("actions", "rewards", "terminations", "truncations")}
    observations = [observation]
    over = False
    while not over:
        action = env.action_space.sample() if policy is None else np.asarray(policy(observation))
        observation, reward, terminated, truncated, _ = env.step(action)
        observations.append(observation)
        for key, value in zip(steps, (action, reward, terminated, truncated), strict=True):
            steps[key].append(value)
        over = terminated or truncated
    return {"seed": seed, "observations": observations, **steps}
