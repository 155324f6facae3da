"""A trained agent at work on another problem: what it knows is used at once."""

import numpy as np
import pytest
import torch

from agents import RSPARAgent
from agents.interface.monitor import until
from tests.agents.synthetic import FEATURES, SyntheticPruning


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    path = tmp_path_factory.mktemp("trained") / "agent.safetensors"
    agent = RSPARAgent(8, FEATURES, hidden_dim=16, seed=1).learn(SyntheticPruning(), 30)
    return agent.save(path)


def first_action(agent, env):
    """The policy's own action in the first state."""
    return agent.predict(env.reset(seed=0)[0], deterministic=True)[0]


def apart(agent, action):
    """How far the first move was from an action, but for moving all layers alike to get onto the target."""
    return np.ptp(agent.experience.moves[0].action - action)


@pytest.mark.parametrize("layers", [8, 5])
def test_the_first_move_is_the_policys_own(trained, layers):
    agent = RSPARAgent.load(trained, num_layers=layers)
    action = first_action(agent, SyntheticPruning(num_layers=layers, seed=4))
    assert np.ptp(action) > 0.05
    agent.learn(SyntheticPruning(num_layers=layers, seed=4), 1)
    assert apart(agent, action) < 1e-6
    assert agent.history[1]["flops_reduction"] >= 0.8


def test_an_untrained_policy_has_nothing_to_say_first():
    agent = RSPARAgent(8, FEATURES, hidden_dim=16, seed=2)
    action = first_action(agent, SyntheticPruning())
    agent.learn(SyntheticPruning(), 1)
    assert apart(agent, action) > 1e-3


def test_few_plans_are_enough_on_a_similar_problem(trained):
    """The same network with its damages 30 % off: what was learned on the first one is worth evaluations."""

    class Similar(SyntheticPruning):
        def __init__(self):
            super().__init__()
            self.problem.log_curves = [curve + 0.1 for curve in self.problem.log_curves]
            self.slope = self.slope * np.linspace(0.7, 1.3, 8)

    carried = RSPARAgent.load(trained)
    carried.learn(Similar(), 100, callback=until(6))
    scratch = [RSPARAgent(8, FEATURES, hidden_dim=16, seed=seed) for seed in range(3)]
    for agent in scratch:
        agent.learn(Similar(), 100, callback=until(6))
    assert carried.best["score"] > max(agent.best["score"] for agent in scratch)
    assert len(carried.history) == 6, "plans of the other problem do not count"


def test_a_carried_over_agent_goes_on_where_it_was(trained, tmp_path):
    def world():
        return SyntheticPruning(seed=4)

    whole, env = RSPARAgent.load(trained), world()
    whole.learn(env, 6)
    whole.save(tmp_path / "agent.safetensors")
    resumed = RSPARAgent.load(tmp_path / "agent.safetensors").learn(world(), 6)
    whole.learn(env, 6)
    assert whole.history == resumed.history
    for ours, theirs in zip(whole.network.parameters(), resumed.network.parameters(), strict=True):
        assert torch.equal(ours, theirs)
