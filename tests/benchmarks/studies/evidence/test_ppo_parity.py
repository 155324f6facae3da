"""R-SPAR's PPO and Stable-Baselines3's on the same control task."""

import json

import numpy as np
import pytest

from benchmarks.studies.evidence import pendulum, ppo_parity
from prune_gym.envs.observation import GLOBALS

pytest.importorskip("stable_baselines3")


def test_the_task_looks_like_a_network_of_one_layer():
    env = pendulum.make_env()
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
        pendulum.AsNetwork(gym.make("CartPole-v1"))


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(pendulum, "EVALUATION_EPISODES", 2)
    monkeypatch.setattr(pendulum, "STEPS_BETWEEN_UPDATES", 32)


def compare(folder, *arguments):
    return ppo_parity.main(["--steps", "256", "--out", str(folder), "--json", str(folder / "out.json"), *arguments])


def test_both_train_and_are_compared(tmp_path, quick):
    assert compare(tmp_path, "--seeds", "0", "1") == 0
    found = json.loads((tmp_path / "out.json").read_text())
    agents_and_seeds = [(run["agent"], run["seed"]) for run in found["runs"]]
    assert agents_and_seeds == [("rspar", 0), ("sb3", 0), ("rspar", 1), ("sb3", 1)]
    assert all(-2000 < run["mean_return"] < 0 for run in found["runs"])
    assert 0 <= found["probability_rspar_is_better"]["value"] <= 1


def made_up(monkeypatch, *, interrupted_at=None):
    """Runs that cost nothing; the list of those that were made."""
    made = []

    def run(agent, seed, steps):
        if (agent, seed) == interrupted_at:
            raise KeyboardInterrupt
        made.append((agent, seed))
        return pendulum.Run(agent, seed, -100.0 - seed / 3 - len(agent), 1.0)

    monkeypatch.setattr(pendulum, "run", run)
    return made


def test_an_interrupted_comparison_goes_on_and_ends_as_an_uninterrupted_one(tmp_path, monkeypatch):
    seeds = ("--seeds", "0", "1", "2")
    made_up(monkeypatch)
    assert compare(tmp_path / "whole", *seeds) == 0
    made_up(monkeypatch, interrupted_at=("sb3", 1))
    assert compare(tmp_path / "cut", *seeds) == 130
    assert not (tmp_path / "cut" / "out.json").exists()
    made = made_up(monkeypatch)
    assert compare(tmp_path / "cut", *seeds) == 0
    assert made == [("sb3", 1), ("rspar", 2), ("sb3", 2)]
    assert (tmp_path / "cut" / "out.json").read_text() == (tmp_path / "whole" / "out.json").read_text()
    assert compare(tmp_path / "cut", *seeds, "3") == 0
    assert made[3:] == [("rspar", 3), ("sb3", 3)]


def test_runs_of_other_settings_are_not_mixed_in(tmp_path, monkeypatch, capsys):
    made = made_up(monkeypatch)
    assert compare(tmp_path, "--seeds", "0") == 0
    assert compare(tmp_path, "--seeds", "0", "--steps", "512") == 2
    assert "different: steps); choose another --out" in " ".join(capsys.readouterr().err.split())
    monkeypatch.setattr(pendulum, "versions", lambda: {"torch": "0.1"})
    assert compare(tmp_path, "--seeds", "0") == 2
    assert "different: versions" in " ".join(capsys.readouterr().err.split())
    assert made == [("rspar", 0), ("sb3", 0)]


def test_a_damaged_run_is_named(tmp_path, monkeypatch, capsys):
    made_up(monkeypatch)
    assert compare(tmp_path, "--seeds", "0") == 0
    (tmp_path / "cells" / "sb3-seed0.json").write_text("{")
    assert compare(tmp_path, "--seeds", "0") == 2
    assert "sb3-seed0.json is damaged" in " ".join(capsys.readouterr().err.split())


def test_a_seed_counts_once(tmp_path, monkeypatch, capsys):
    made_up(monkeypatch)
    assert compare(tmp_path, "--seeds", "0", "0") == 2
    assert "--seeds" in capsys.readouterr().err
