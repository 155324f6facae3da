import gymnasium as gym
import numpy as np
import pytest

from agents import RandomSearch, RSPARAgent
from tests.agents.synthetic import FEATURES, IdentityEnv, SyntheticPruning


@pytest.fixture
def agent():
    return RSPARAgent(3, FEATURES, hidden_dim=8, n_steps=8)


def observation(agent):
    return np.zeros(agent.observation_size, dtype=np.float32)


def test_spaces_that_do_not_fit_name_both_shapes(agent):
    with pytest.raises(ValueError, match=r"\(14,\).*\(20,\)"):
        agent.learn(IdentityEnv(num_layers=5), 8)
    scaled = gym.wrappers.RescaleAction(IdentityEnv(), np.float32(0), np.float32(2))
    with pytest.raises(ValueError, match="RescaleAction"):
        agent.learn(scaled, 8)


def test_an_observation_of_another_length_names_both(agent):
    with pytest.raises(ValueError, match=r"\(14,\).*\(9,\)"):
        agent.select_action(np.zeros(9, dtype=np.float32))
    with pytest.raises(TypeError, match="list"):
        agent.select_action([0.0] * 14)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_rewards_that_are_no_numbers_are_refused(agent, bad):
    agent.select_action(observation(agent))
    with pytest.raises(ValueError, match="reward must be finite"):
        agent.store(bad, False, False, observation(agent))

    class Broken(SyntheticPruning):
        def step(self, action):
            observation, _, *rest = super().step(action)
            return observation, bad, *rest

    with pytest.raises(ValueError, match="reward must be finite"):
        RSPARAgent(8, FEATURES, hidden_dim=8).learn(Broken(), 2)


def test_updating_before_any_data(agent):
    with pytest.raises(ValueError, match="nothing to learn from"):
        agent.update_policy()


def test_a_batch_larger_than_the_buffer(agent):
    agent.select_action(observation(agent))
    agent.store(0.0, False, True, observation(agent))
    with pytest.raises(ValueError, match="between 1 and the 1 transitions stored, got 64"):
        agent.update_policy()
    assert agent.update_policy(batch_size=1, epochs=1)


def test_store_needs_a_sampled_action(agent):
    with pytest.raises(ValueError, match="no action is pending"):
        agent.store(0.0, False, False, observation(agent))
    agent.select_action(observation(agent), deterministic=True)
    with pytest.raises(ValueError, match="no action is pending"):
        agent.store(0.0, False, False, observation(agent))


def test_store_needs_one_reward_an_action(agent):
    agent.select_action(np.tile(observation(agent), (4, 1)))
    with pytest.raises(ValueError, match="one reward for each of the 4"):
        agent.store([0.0, 1.0], False, False, np.tile(observation(agent), (2, 1)))


@pytest.mark.parametrize("size", ["num_layers", "layer_feature_dim", "hidden_dim", "n_steps"])
def test_sizes_are_positive(size):
    with pytest.raises(ValueError, match=f"{size} must be at least 1, got 0"):
        RSPARAgent(**({"num_layers": 3} | {size: 0}))


def test_settings_are_positive():
    with pytest.raises(ValueError, match="lr must be positive"):
        RSPARAgent(3, lr=0.0)
    with pytest.raises(ValueError, match="std must be positive"):
        RandomSearch(std=0)
    with pytest.raises(ValueError, match="total_timesteps"):
        RSPARAgent(3, FEATURES).learn(IdentityEnv(), -1)


def test_predicting_with_an_empty_search():
    with pytest.raises(ValueError, match="measured no plan yet"):
        RandomSearch().predict(np.zeros(14))


def test_vector_environments_must_reset_themselves(agent):
    mode = gym.vector.AutoresetMode.DISABLED
    env = gym.vector.SyncVectorEnv([IdentityEnv] * 2, autoreset_mode=mode)
    with pytest.raises(ValueError, match="NEXT_STEP or SAME_STEP"):
        agent.learn(env, 8)
