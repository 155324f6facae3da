import gymnasium as gym
import numpy as np
import pytest

from agents import RSPARAgent
from tests.agents.synthetic import FEATURES, IdentityEnv


def error_of(agent, episodes=200):
    env = IdentityEnv()
    observation, _ = env.reset(seed=9)
    errors = []
    for _ in range(episodes):
        action, _ = agent.predict(observation, deterministic=True)
        errors.append(np.square(action - env.wanted).mean())
        observation, _ = env.reset()
    return float(np.mean(errors))


def make():
    return RSPARAgent(3, FEATURES, hidden_dim=32, lr=1e-3, n_steps=64, initial_std=0.3, gamma=0.0)


def test_the_identity_task_is_solved_in_a_few_thousand_steps():
    agent = make()
    before = error_of(agent)
    agent.learn(IdentityEnv(), 4096)
    assert before > 0.15
    assert error_of(agent) < 0.03


@pytest.mark.parametrize("mode", ["NextStep", "SameStep"])
def test_vector_environments_teach_the_same(mode):
    mode = gym.vector.AutoresetMode(mode)
    env = gym.vector.SyncVectorEnv([lambda: IdentityEnv(length=4)] * 4, autoreset_mode=mode)
    agent = make().learn(env, 6144)
    assert error_of(agent) < 0.05
    assert agent.num_timesteps == 6144


def test_steps_that_only_reset_a_lane_are_not_learned_from():
    mode = gym.vector.AutoresetMode.NEXT_STEP
    env = gym.vector.SyncVectorEnv([lambda: IdentityEnv(length=3)] * 2, autoreset_mode=mode)
    seen = []
    agent = make()
    update = agent.update_from
    agent.update_from = lambda batch, *rest: seen.append(len(batch)) or update(batch, *rest)
    agent.learn(env, 2 * 64)
    assert seen == [2 * 48]


def test_driving_by_hand_equals_learn():
    by_hand, learned = make(), make()
    env = IdentityEnv()
    observation, _ = env.reset(seed=0)
    for _ in range(3):
        for _ in range(64):
            action, _ = by_hand.select_action(observation)
            following, reward, terminated, truncated, _ = env.step(action)
            by_hand.store(reward, terminated, truncated, following)
            observation = env.reset()[0] if terminated or truncated else following
        by_hand.update_policy(batch_size=64, epochs=10)
    learned.learn(IdentityEnv(), 192)
    probe = np.ones(by_hand.observation_size, dtype=np.float32)
    assert np.array_equal(by_hand.predict(probe, deterministic=True)[0], learned.predict(probe, deterministic=True)[0])


def test_diagnostics_are_named_as_in_stable_baselines3():
    agent = make()
    env = IdentityEnv()
    observation, _ = env.reset(seed=0)
    for _ in range(64):
        action, _ = agent.select_action(observation)
        observation, reward, terminated, truncated, _ = env.step(action)
        agent.store(reward, terminated, truncated, observation)
    diagnostics = agent.update_policy(batch_size=32, epochs=2)
    names = {"approx_kl", "clip_fraction", "clip_range", "entropy_loss", "explained_variance", "learning_rate", "loss"}
    names |= {"n_updates", "policy_gradient_loss", "std", "value_loss"}
    assert set(diagnostics) == {f"train/{name}" for name in names}
    assert diagnostics["train/n_updates"] == 2


def test_a_large_divergence_stops_the_update_early():
    def final_kl(target):
        agent = RSPARAgent(3, FEATURES, hidden_dim=32, lr=1e-2, n_steps=64, target_kl=target)
        return agent, agent.learn(IdentityEnv(), 64)

    free, _ = final_kl(None)
    stopped, _ = final_kl(1e-3)
    start = RSPARAgent(3, FEATURES, hidden_dim=32, lr=1e-2, n_steps=64)

    def moved(agent):
        pairs = zip(agent.network.parameters(), start.network.parameters(), strict=True)
        return sum(float((one - two).square().sum().detach()) for one, two in pairs)

    assert 0 < moved(stopped) < 0.5 * moved(free)
