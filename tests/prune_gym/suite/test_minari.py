import gymnasium as gym
import numpy as np
import pytest

from prune_gym.suite.minari import to_minari


def test_episodes_are_kept_with_their_environment(bench_file, tmp_path, monkeypatch):
    pytest.importorskip("minari")
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    env = gym.make("HOBSPruneFamily-v0", path=str(bench_file), horizon=2)
    dataset = to_minari(env, "prune/family-random-v0", 5, seed=3)
    assert dataset.total_episodes == 5
    again = dataset.recover_environment()
    observation, _ = again.reset(seed=3)
    for index, episode in enumerate(dataset.iterate_episodes()):
        if index:
            observation, _ = again.reset()
        np.testing.assert_array_equal(episode.observations[0], observation)
        for step, action in enumerate(episode.actions):
            observation, reward, *_ = again.step(action)
            assert reward == pytest.approx(episode.rewards[step])
            np.testing.assert_array_equal(episode.observations[step + 1], observation)
        assert episode.terminations[-1]


def test_a_policy_chooses_the_actions(bench_file, tmp_path, monkeypatch):
    pytest.importorskip("minari")
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    env = gym.make("HOBSPruneFamily-v0", path=str(bench_file))
    staying = np.zeros(env.action_space.shape, dtype=np.float32)
    dataset = to_minari(env, "prune/family-staying-v0", 2, lambda _: staying)
    assert all(episode.rewards.sum() == 0.0 for episode in dataset.iterate_episodes())


def test_no_episode_is_no_dataset(bench_file):
    with pytest.raises(ValueError, match="at least one episode"):
        to_minari(gym.make("HOBSPruneFamily-v0", path=str(bench_file)), "prune/none-v0", 0)
