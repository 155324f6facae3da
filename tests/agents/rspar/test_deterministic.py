import numpy as np
import torch

from agents import RSPARAgent
from tests.agents.synthetic import FEATURES, IdentityEnv, SyntheticPruning


def trained(seed):
    agent = RSPARAgent(8, FEATURES, hidden_dim=16, seed=seed)
    return agent.learn(SyntheticPruning(), 12)


def test_same_seed_same_history_and_weights():
    first, second, other = trained(3), trained(3), trained(4)
    assert first.history == second.history
    assert first.history != other.history
    for one, two in zip(first.network.parameters(), second.network.parameters(), strict=True):
        assert torch.equal(one, two)


def test_global_generators_are_neither_used_nor_needed():
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002
    before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    trained(0)
    RSPARAgent(3, FEATURES, hidden_dim=8, n_steps=16).learn(IdentityEnv(), 32)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.array_equal(np.random.get_state()[1], before[1])  # noqa: NPY002


def test_deterministic_actions_do_not_depend_on_what_was_sampled_before():
    agent = RSPARAgent(3, FEATURES, hidden_dim=16)
    observation = np.linspace(-1, 1, agent.observation_size, dtype=np.float32)
    first, _ = agent.predict(observation, deterministic=True)
    agent.select_action(observation)
    second, _ = agent.select_action(observation, deterministic=True)
    assert np.array_equal(first, second)


def test_actions_come_back_as_they_went_in():
    agent = RSPARAgent(3, FEATURES, hidden_dim=16)
    single = np.zeros(agent.observation_size, dtype=np.float32)
    batch = torch.zeros(4, agent.observation_size)
    action, log_prob = agent.select_action(single)
    assert action.shape == (3,)
    assert action.dtype == np.float32
    assert isinstance(log_prob, float)
    actions, log_probs = agent.select_action(batch)
    assert isinstance(actions, torch.Tensor)
    assert actions.shape == (4, 3)
    assert log_probs.shape == (4,)
    assert np.abs(action).max() <= 1
