"""Stable-Baselines3's algorithms with R-SPAR's interface, set up for 100 to 500 measured evaluations.

    agent = make_agent("sac", env, seed=0)
    agent.learn(env, total_timesteps=400, callback=until(128))
    agent.best  # record of the best measured plan

Needs the extra ``sb3``; nothing is imported before an agent is made.
"""

from __future__ import annotations

import copy
import json
import os
import random
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np
import torch

from agents.interface.learner import Environment, Learner
from agents.interface.monitor import Monitor, Record
from agents.interface.protocol import finite_reward
from hessian.support.names import unknown
from prune_gym.support.files import sha256_of, write_json_atomic

if TYPE_CHECKING:
    from stable_baselines3.common.base_class import BaseAlgorithm

HISTORY_SUFFIX = ".history.json"
INITIAL_STD = 0.2
"""First actions stay near the start plan: an action of 1 moves a layer by two logits."""

_ON_POLICY = {"policy_kwargs": {"net_arch": [64, 64], "log_std_init": float(np.log(INITIAL_STD))}}
_OFF_POLICY = {
    "learning_rate": 1e-3,
    "buffer_size": 10_000,
    "learning_starts": 8,
    "batch_size": 32,
    "gradient_steps": 4,
    "train_freq": 1,
    "policy_kwargs": {"net_arch": [64, 64]},
}
DEFAULTS: dict[str, dict[str, Any]] = {
    "ppo": {"n_steps": 16, "batch_size": 16, "n_epochs": 10, "learning_rate": 1e-3, "gamma": 0.99, **_ON_POLICY},
    "a2c": {"n_steps": 8, "learning_rate": 1e-3, "gamma": 0.99, **_ON_POLICY},
    "sac": {**_OFF_POLICY, "ent_coef": 1e-3},
    "td3": {**_OFF_POLICY, "action_noise": INITIAL_STD},
    "ddpg": {**_OFF_POLICY, "action_noise": INITIAL_STD},
}
"""Keyword arguments of every algorithm; an ``action_noise`` that is a number is the deviation of normal noise."""

PRESETS: dict[str, tuple[str, dict[str, Any]]] = {
    "amc": (
        "ddpg",
        {
            "learning_rate": 1e-3,
            "buffer_size": 2000,
            "learning_starts": 100,
            "batch_size": 64,
            "tau": 0.01,
            "gamma": 1.0,
            "action_noise": 1.0,
            "train_freq": (1, "episode"),
            "gradient_steps": -1,
            "policy_kwargs": {"net_arch": [300, 300]},
        },
    )
}
"""Settings made after published ones: name -> (algorithm, keyword arguments).

``amc``: the DDPG of He et al. (ECCV 2018), made for one layer a step (``HOBSPruneLayerwise-v0``). Its noise of 0.5 in
the ratio is 1.0 in actions of [-1, 1]. The noise does not decay, the reward stays on an episode's last step, actor and
critic share one learning rate, and warm-up counts steps; :mod:`baselines.methods.amc` is the method with all of it.
"""


def make_agent(name: str, env: gym.Env, seed: int = 0, **kwargs: Any) -> SB3Agent:
    """An algorithm of Stable-Baselines3, ready to learn.

    Args:
        name: ``"ppo"``, ``"a2c"``, ``"sac"``, ``"td3"``, ``"ddpg"``, or a preset of :data:`PRESETS` such as ``"amc"``.
        env: gives the spaces.
        seed: of networks, noise and actions.
        **kwargs: arguments of the algorithm's constructor that replace the defaults.

    Raises:
        ImportError: stable-baselines3 is not installed.
        ValueError: unknown name.
        TypeError: an argument the algorithm does not have.
    """
    kind, defaults = _settings(name)
    settings = {"device": "cpu", **copy.deepcopy(dict(defaults)), **kwargs}  # SB3 writes into nested ones
    randomness = Randomness()
    with randomness:
        model = _algorithm(kind)("MlpPolicy", env, seed=seed, **_with_noise(env, settings))
    return SB3Agent(name, model, randomness)


class SB3Agent(Learner):
    """An algorithm, the history of its episodes and the best measured plan.

    Attributes:
        name: what :func:`make_agent` was asked for.
        model: the algorithm.
        history: one record an episode (see :mod:`agents.interface.monitor`); the first one is the start plan.
    """

    def __init__(self, name: str, model: BaseAlgorithm, randomness: Randomness | None = None) -> None:
        self.name = name
        self.model = model
        self._randomness = randomness or Randomness()
        self.history: list[Record] = []

    @property
    def num_timesteps(self) -> int:
        """Environment steps so far."""
        return int(self.model.num_timesteps)

    def _meet(self, env: Environment, batch_size: int) -> None:
        if not isinstance(env, gym.Env):
            raise TypeError(f"an agent of stable-baselines3 learns on one environment; got {type(env).__name__}")
        if batch_size > 1:
            raise ValueError(f"an agent of stable-baselines3 measures one plan at a time; got batch_size={batch_size}")

    def _run(self, env: Environment, total_timesteps: int, monitor: Monitor, batch_size: int) -> None:
        """Train; a rollout that the last step cuts short is not learned from.

        A step that leads to a plan measured before is free, so a budget of evaluations is set with
        ``callback=agents.until(evaluations)`` and enough `total_timesteps`.
        """
        with self._randomness:
            assert isinstance(env, gym.Env)
            lanes: Any = self.model.get_env()
            if lanes is None or lanes.unwrapped.envs[0].unwrapped is not env.unwrapped:
                self.model.set_env(env)
            if total_timesteps:
                self.model.learn(
                    total_timesteps,
                    callback=_reporter(monitor, self.num_timesteps + total_timesteps),
                    reset_num_timesteps=False,
                )

    def predict(
        self, observation: np.ndarray, state: Any = None, episode_start: Any = None, deterministic: bool = False
    ) -> tuple[np.ndarray, Any]:
        """The policy's action; see :meth:`stable_baselines3.common.base_class.BaseAlgorithm.predict`."""
        with self._randomness:
            return self.model.predict(observation, state, episode_start, deterministic)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the algorithm (SB3's zip) and, beside it, the name and the history (JSON); returns the zip's path.

        Replay buffers are not kept, as SB3 has it.
        """
        path, beside = _files(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.stem}.tmp.zip")
        try:
            self.model.save(temporary)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
        document = json.loads(json.dumps({"name": self.name, "history": self.history}))
        write_json_atomic(beside, {**document, "sha256": sha256_of(document)})
        return path

    @classmethod
    def load(cls, path: str | os.PathLike[str], env: gym.Env | None = None) -> SB3Agent:
        """Restore what :meth:`save` wrote.

        SB3's zip holds pickled objects: load only files you trust.

        Args:
            path: the zip.
            env: environment to go on with.

        Raises:
            FileNotFoundError: no such file, or no history beside it.
            ValueError: the environment's spaces are others.
        """
        path, beside = _files(path)
        for file in (path, beside):
            if not file.is_file():
                raise FileNotFoundError(f"no file {file}; SB3Agent.save writes {path.name} and {beside.name}")
        document = _history(beside)
        randomness = Randomness()
        with randomness:  # restoring seeds the global generators
            model = _algorithm(_settings(document["name"])[0]).load(path, env=env, device="cpu")
        agent = cls(document["name"], model, randomness)
        agent.history.extend(document["history"])
        return agent


def _history(path: Path) -> dict[str, Any]:
    """Name and history of an agent, verified.

    Raises:
        ValueError: damaged, or changed since it was saved.
    """
    try:
        document = json.loads(path.read_bytes())
        digest = document.pop("sha256", None)
        fine = isinstance(document["name"], str) and isinstance(document["history"], list)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{path} is damaged ({error}); save the agent again") from None
    if not fine or digest not in (None, sha256_of(document)):
        raise ValueError(f"{path} does not match its checksum: it was changed or damaged; save the agent again")
    return document


def _files(path: str | os.PathLike[str]) -> tuple[Path, Path]:
    """The zip and the history beside it; only ``.zip`` counts as a suffix, so that ``run-0.9`` stays ``run-0.9``."""
    path = Path(path)
    stem = path.name.removesuffix(".zip")
    return path.with_name(stem + ".zip"), path.with_name(stem + HISTORY_SUFFIX)


def _settings(name: str) -> tuple[str, Mapping[str, Any]]:
    """Algorithm and defaults of a name.

    Raises:
        ValueError: no algorithm or preset has this name.
    """
    if name in PRESETS:
        return PRESETS[name]
    if name in DEFAULTS:
        return name, DEFAULTS[name]
    raise ValueError(unknown("agent", name, (*DEFAULTS, *PRESETS), "agents"))


def _algorithm(kind: str) -> Any:
    try:
        import stable_baselines3
    except ImportError as error:
        raise ImportError(f"{kind} needs stable-baselines3: pip install 'prune-gym[sb3]'") from error
    return getattr(stable_baselines3, kind.upper())


def _with_noise(env: gym.Env, settings: dict[str, Any]) -> dict[str, Any]:
    """Settings whose numeric ``action_noise`` became a noise process."""
    noise = settings.get("action_noise")
    if not isinstance(noise, (int, float)):
        return settings
    from stable_baselines3.common.noise import NormalActionNoise

    assert env.action_space.shape is not None
    size = env.action_space.shape[0]
    return {**settings, "action_noise": NormalActionNoise(np.zeros(size), np.full(size, float(noise)))}


def _reporter(monitor: Monitor, last: int) -> Any:
    """A callback of SB3: finished episodes become records; it stops at the last step or when the monitor says so."""
    from stable_baselines3.common.callbacks import BaseCallback

    class Reporter(BaseCallback):
        def __init__(self) -> None:
            super().__init__()
            self._return = 0.0

        def _on_training_start(self) -> None:
            start = self.training_env.reset_infos[0]
            if not monitor.history and "kept" in start:
                monitor.episode(0.0, start, self.num_timesteps)

        def _on_step(self) -> bool:
            self._return += finite_reward(self.locals["rewards"][0])
            monitor.advance()
            if self.locals["dones"][0]:
                monitor.episode(self._return, self.locals["infos"][0], self.num_timesteps)
                self._return = 0.0
            return not monitor.stopped and self.num_timesteps < last

    return Reporter()


class Randomness:
    """The global random state an algorithm of SB3 lives on, kept apart from everybody else's.

    SB3 seeds and uses the global generators; inside this context they are the agent's, afterwards as they were.
    """

    def __init__(self) -> None:
        self._inside: tuple[Any, ...] | None = None

    def __enter__(self) -> None:
        self._outside = _global_state()
        if self._inside is not None:
            _set_global_state(self._inside)

    def __exit__(self, *error: object) -> None:
        self._inside = _global_state()
        _set_global_state(self._outside)


def _global_state() -> tuple[Any, ...]:
    return random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002


def _set_global_state(state: tuple[Any, ...]) -> None:
    random.setstate(state[0])
    np.random.set_state(state[1])  # noqa: NPY002
    torch.set_rng_state(state[2])
