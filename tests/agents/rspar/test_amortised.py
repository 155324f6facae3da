"""R-SPAR with an amortised model: its first plan comes from it, its beliefs begin there, and it goes on from a file."""

import gymnasium as gym
import numpy as np
import pytest
import torch

import prune_gym  # noqa: F401  registers the environments
from agents import RSPARAgent
from agents.amortised.storage import save_model
from agents.model.experience import damage
from agents.registry import create
from agents.rspar.state import ImaginationSettings
from tests.agents.amortised import family
from tests.agents.synthetic import FEATURES, SyntheticPruning

FAST = ImaginationSettings(moves=32, batch_size=32, epochs=1, proposals=16, broad=16)


def world(constraint="soft"):
    return gym.make(
        "HOBSPrune-v0",
        problem=family.problem(),
        target_flops_reduction=0.8,
        fidelity="surrogate",
        constraint=constraint,
        disable_env_checker=True,
    )


@pytest.fixture(scope="module")
def agent(tmp_path_factory):
    path = save_model(family.trained(16), tmp_path_factory.mktemp("model") / "model.safetensors")

    def made():
        layout = world().unwrapped.layout
        return RSPARAgent.pretrained(layout.num_layers, layout.feature_dim, path=path, hidden_dim=8, imagination=FAST)

    return made


@pytest.mark.parametrize("constraint", ["soft", "hard"])
def test_the_first_plan_is_the_models(agent, constraint):
    env = world(constraint)
    found = agent().learn(env, 1)
    plan = family.trained(16).at(family.problem()).plan(0.8, env.unwrapped.cost, env.unwrapped.limits)
    # A move is at most two logits, which is short of leaving a layer whole.
    np.testing.assert_allclose(found.history[1]["kept"], plan, atol=2)
    assert found.history[1]["score"] > found.history[0]["score"]


def test_plans_are_believed_as_the_model_ranks_them_before_anything_else_is_known(agent):
    found = agent()
    found.learn(world(), 1)
    problem, kept = family.problem(), family.plans(family.network(100), seed=5)[0]
    believed = found.experience.expected(problem, kept)
    expected = found.known.expected(damage(problem, kept), kept)
    np.testing.assert_allclose(believed - expected, (believed - expected)[0], atol=0.3)


def test_a_saved_agent_goes_on_as_if_it_had_not_stopped(agent, tmp_path):
    whole, env = agent(), world()
    whole.learn(env, 5)
    whole.save(tmp_path / "agent.safetensors")
    resumed = RSPARAgent.load(tmp_path / "agent.safetensors").learn(world(), 3)
    whole.learn(env, 3)
    assert [record["kept"] for record in whole.history] == [record["kept"] for record in resumed.history]
    for ours, theirs in zip(whole.network.parameters(), resumed.network.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_the_shipped_model_is_one_of_small_networks_and_is_found_by_name():
    found = create("rspar_pretrained", world(), seed=3, hidden_dim=8, imagination=FAST)
    assert found.amortised.parameter_count <= 200_000
    assert len(found.amortised.trained_on["networks"]) == 60
    assert found.learn(world(), 2).history[1]["measured_evaluations"] == 2


def test_an_environment_that_does_not_describe_its_network_is_refused():
    agent = RSPARAgent(8, FEATURES, hidden_dim=8, amortised=family.trained())
    with pytest.raises(TypeError, match="does not describe its network"):
        agent.learn(SyntheticPruning(), 1)
