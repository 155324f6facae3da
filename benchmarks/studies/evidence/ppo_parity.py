"""R-SPAR's PPO against Stable-Baselines3's on a standard control task, with the same steps and seeds.

    python -m benchmarks.studies.evidence.ppo_parity [--steps 100000] [--seeds 0 1 2 3 4] [--out DIR] [--json FILE]

Pendulum-v1, observed as a network of one layer (:class:`AsNetwork`). Settings are the same but for the learning rate:
R-SPAR has its own default, Stable-Baselines3 what RL Baselines3 Zoo tuned for this task. Returns are those of
deterministic episodes after training, the same for both. Every run is a file of its own in ``DIR/cells``: the same
command goes on with what is left.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from numpy.typing import NDArray
from rich.console import Console

from agents import RSPARAgent
from benchmarks.common.arguments import check_distinct, positive, writable
from benchmarks.common.columns import Column, Interval
from benchmarks.common.command import reports_errors
from benchmarks.common.provenance import versions, write_result
from benchmarks.common.signed import write_signed
from benchmarks.common.table import Table
from benchmarks.stat_tests.aggregates import interquartile_mean, probability_of_improvement, stratified_bootstrap
from benchmarks.stat_tests.samples import few_seeds_are_stated
from benchmarks.studies.engine.cells import read_object
from benchmarks.studies.engine.command import refuse_changes
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
OUT = Path("results/ppo_parity")


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


def summary(runs: Sequence[Run]) -> dict[str, Any]:
    """Interquartile means with their intervals, and how probably a run of R-SPAR is the better one."""
    returns = {agent: [run.mean_return for run in runs if run.agent == agent] for agent in TRAINERS}
    estimates = {agent: asdict(stratified_bootstrap(interquartile_mean, [found])) for agent, found in returns.items()}
    chance = stratified_bootstrap(probability_of_improvement, [returns["rspar"]], [returns["sb3"]])
    return {"iqm": estimates, "probability_rspar_is_better": asdict(chance)}


def parity_table(found: dict[str, Any], steps: int, runs: int) -> Table:
    """Return the table of what :func:`summary` found."""
    return Table(
        f"Pendulum-v1, {steps:,} steps, {runs} runs",
        ("agent", Column("return [95 %]", ".1f")),
        [[agent, Interval.of(estimate)] for agent, estimate in found["iqm"].items()],
        f"interquartile means; P(R-SPAR's is better) {found['probability_rspar_is_better']['value']:.2f}",
    )


def settings(steps: int) -> dict[str, Any]:
    """What runs that are compared have in common; JSON-able."""
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


def open_folder(folder: Path, steps: int) -> None:
    """Refuse to mix runs of other settings or versions; more seeds are welcome.

    Raises:
        ConfigError: the folder holds runs of others; what differs is named.
    """
    path, current = folder / "study.json", settings(steps)
    if path.is_file():
        stored = read_object(path)
        refuse_changes(folder, [key for key in current if stored.get(key) != current[key]], option="--out")
    write_signed(path, current)


def run_or_read(folder: Path, agent: str, seed: int, steps: int) -> tuple[Run, bool]:
    """The run of an agent and a seed, and whether it was finished before.

    Raises:
        ConfigError: its file is damaged.
    """
    path = folder / "cells" / f"{agent}-seed{seed}.json"
    if path.is_file():
        return Run(**read_object(path)), True
    finished = run(agent, seed, steps)
    write_signed(path, asdict(finished))
    return finished, False


@reports_errors(OSError, ValueError, ImportError, interrupted="interrupted: the same command goes on with the next run")
def main(argv: Sequence[str] | None = None) -> int:
    """Compare from the command line, or what is left of it.

    Args:
        argv: arguments; absent means those of the process.

    Returns:
        Exit code: 0 done, 2 bad input, 130 interrupted.
    """
    options = _parser().parse_args(argv)
    check_distinct("--seeds", options.seeds)
    torch.set_num_threads(1)
    console = Console()
    open_folder(options.out, options.steps)
    runs = []
    for seed in options.seeds:
        for agent in TRAINERS:
            found, before = run_or_read(options.out, agent, seed, options.steps)
            when = ", finished before" if before else ""
            console.print(f"{agent}, seed {seed}: {found.mean_return:.1f} in {found.seconds:.0f} s{when}")
            runs.append(found)
    with few_seeds_are_stated():
        summarised = summary(runs)
    console.print(parity_table(summarised, options.steps, len(options.seeds)).rich())
    if options.json is not None:
        write_result(options.json, {"steps": options.steps, "runs": [asdict(one) for one in runs], **summarised})
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.studies.evidence.ppo_parity", description="R-SPAR's PPO against SB3's."
    )
    add = parser.add_argument
    add("--steps", type=positive, default=100_000, help="environment steps a run (default: 100000)")
    add("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    add("--out", type=Path, default=OUT, metavar="DIR", help=f"where finished runs are kept (default: {OUT})")
    add("--json", type=writable, metavar="FILE", help="where to write the result")
    return parser


if __name__ == "__main__":
    sys.exit(main())
