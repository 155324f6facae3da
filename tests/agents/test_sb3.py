"""SB3's algorithms with R-SPAR's interface."""

import subprocess
import sys

import numpy as np
import pytest
import torch

from agents.interface.monitor import until
from agents.sb3 import DEFAULTS, PRESETS, SB3Agent, make_agent
from tests.agents.synthetic import SyntheticPruning
from tests.prune_gym.tiny import make_tiny_env

pytest.importorskip("stable_baselines3")


@pytest.mark.parametrize("name", DEFAULTS)
def test_every_algorithm_learns_within_a_budget_and_keeps_its_best_plan(name):
    env = SyntheticPruning()
    agent = make_agent(name, env, seed=1).learn(env, 1000, callback=until(20))
    assert len(env.archive) == 20
    assert agent.history[0]["episode"] == 0
    assert agent.history[-1]["measured_evaluations"] == 20
    feasible = [row["score"] for row in agent.history if 0 <= row["flops_reduction"] - 0.8 <= 0.02]
    assert agent.best["score"] == max(feasible)
    observation, _ = env.reset()
    action, _ = agent.predict(observation, deterministic=True)
    assert action.shape == (8,)
    assert np.abs(action).max() <= 1


@pytest.mark.parametrize("name", ["ppo", "sac"])
def test_same_seed_same_run_whatever_the_global_generators(name):
    def run(seed):
        env = SyntheticPruning()
        return make_agent(name, env, seed=seed).learn(env, 40).history

    first = run(1)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    assert run(1) == first
    assert run(2) != first
    assert torch.equal(before, torch.get_rng_state())


def test_the_environment_of_the_package_is_learned_on():
    env = make_tiny_env()
    agent = make_agent("ppo", env).learn(env, 6)
    assert [row["episode"] for row in agent.history] == list(range(7))
    assert agent.num_timesteps == 6


def test_amc_is_ddpg_as_published_one_layer_a_step():
    env = make_tiny_env("HOBSPruneLayerwise-v0", fidelity="predicted")
    agent = make_agent("amc", env, learning_starts=8).learn(env, 24)
    assert type(agent.model).__name__ == "DDPG"
    assert agent.model.gamma == PRESETS["amc"][1]["gamma"] == 1.0
    assert agent.model.policy.net_arch == [300, 300]
    assert len(agent.history) >= 6


def test_saved_and_loaded_it_acts_the_same_and_goes_on(tmp_path):
    env = SyntheticPruning()
    agent = make_agent("a2c", env).learn(env, 16)
    path = agent.save(tmp_path / "agent")
    again = SB3Agent.load(path, env)
    assert again.history == agent.history
    assert again.name == "a2c"
    observation, _ = env.reset()
    assert np.array_equal(*(one.predict(observation, deterministic=True)[0] for one in (agent, again)))
    again.learn(env, 8)
    assert len(again.history) == len(agent.history) + 8
    (tmp_path / "agent.history.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"agent\.history\.json"):
        SB3Agent.load(path)


def test_a_name_with_a_dot_names_its_own_file(tmp_path):
    agent = make_agent("ppo", SyntheticPruning())
    assert [agent.save(tmp_path / name).name for name in ("run-0.9", "run-0.94.zip")] == ["run-0.9.zip", "run-0.94.zip"]
    assert SB3Agent.load(tmp_path / "run-0.9").name == "ppo"


def test_loading_draws_no_random_numbers_of_others(tmp_path):
    path = make_agent("ppo", SyntheticPruning()).save(tmp_path / "agent")
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    SB3Agent.load(path, SyntheticPruning())
    assert torch.equal(torch.rand(1), expected)


def test_bad_input():
    env = SyntheticPruning()
    with pytest.raises(ValueError, match="unknown agent 'ppoo'; did you mean 'ppo'"):
        make_agent("ppoo", env)
    with pytest.raises(TypeError, match="n_stepss"):
        make_agent("ppo", env, n_stepss=3)
    with pytest.raises(ValueError, match="total_timesteps"):
        make_agent("ppo", env).learn(env, -1)
    with pytest.raises(ValueError, match="spaces do not match"):
        make_agent("ppo", env).learn(SyntheticPruning(num_layers=5), 8)

    class Broken(SyntheticPruning):
        def step(self, action):
            observation, _, *rest = super().step(action)
            return observation, float("nan"), *rest

    with pytest.raises(ValueError, match="reward must be finite"):
        make_agent("sac", Broken()).learn(Broken(), 4)


def test_nothing_of_sb3_is_imported_before_an_agent_is_made():
    code = "import agents, agents.sb3, agents.registry, sys; print('stable_baselines3' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "False"
