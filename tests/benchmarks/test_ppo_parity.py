"""R-SPAR's PPO and Stable-Baselines3's on the same control task."""

import json

import numpy as np
import pytest

from benchmarks import ppo_parity
from prune_gym.observation import GLOBALS

pytest.importorskip("stable_baselines3")


def test_the_task_looks_like_a_network_of_one_layer():
    env = ppo_parity.make_env()
    observation, _ = env.reset(seed=0)
    assert env.observation_space.contains(observation)
    assert len(observation) == 3 + 1 + len(GLOBALS)
    following, *_ = env.step(np.array([0.5], dtype=np.float32))
    assert following[3] == 0.75
    raw = env.unwrapped
    assert raw.last_u == pytest.approx(0.5 * raw.max_torque)


def test_other_tasks_are_refused():
    import gymnasium as gym

    with pytest.raises(ValueError, match="one action"):
        ppo_parity.AsNetwork(gym.make("CartPole-v1"))


def test_both_train_and_are_compared(tmp_path, monkeypatch):
    monkeypatch.setattr(ppo_parity, "EVALUATION_EPISODES", 2)
    monkeypatch.setattr(ppo_parity, "STEPS_BETWEEN_UPDATES", 32)
    assert ppo_parity.main(["--steps", "256", "--seeds", "0", "1", "--json", str(tmp_path / "out.json")]) == 0
    found = json.loads((tmp_path / "out.json").read_text())
    agents_and_seeds = [(run["agent"], run["seed"]) for run in found["runs"]]
    assert agents_and_seeds == [("rspar", 0), ("sb3", 0), ("rspar", 1), ("sb3", 1)]
    assert all(-2000 < run["mean_return"] < 0 for run in found["runs"])
    assert 0 <= found["probability_rspar_is_better"]["value"] <= 1
