import runpy

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from prune_gym.bench.networks import load_networks
from prune_gym.bench.problem import BenchProblem
from prune_gym.bench.protocol import THRESHOLDS, contests
from tests.pages import ROOT


def make(bench_file, **arguments):
    return gym.make("HOBSPruneFamily-v0", path=str(bench_file), **arguments)


def test_gymnasiums_checker_passes(bench_file):
    check_env(make(bench_file).unwrapped, skip_render_check=True)


def test_episodes_are_of_the_splits_networks_at_their_contests(bench_file):
    env = make(bench_file, split="test")
    env.reset(seed=0)
    seen = {(info["network"], info["target_reduction"]) for info in (env.reset()[1] for _ in range(100))}
    expected = {
        (name, target)
        for name, network in load_networks(bench_file).items()
        if network.split == "test"
        for target in contests(BenchProblem(network))
    }
    assert seen == expected


def test_padding_is_masked_and_ignored(bench_file):
    env = make(bench_file, horizon=2)
    observation, info = env.reset(seed=0, options={"network": "plain-01", "target": 0.75})
    layout, layers = env.unwrapped.layout, 4
    assert layout.feature(observation, "present").tolist() == [1.0] * layers + [0.0] * (layout.num_layers - layers)
    own = env.unwrapped.pruning
    inner = own._look_at(own._current.kept)
    np.testing.assert_array_equal(layout.features(observation)[:layers, :-1], own.layout.features(inner))
    np.testing.assert_array_equal(observation[layout.slices["ratios"]][:layers], inner[own.layout.slices["ratios"]])
    np.testing.assert_array_equal(observation[layout.slices["globals"]], inner[own.layout.slices["globals"]])
    assert (layout.features(observation)[layers:] == 0).all()
    assert (info["kept"][layers:] == 0).all()
    action = np.zeros(layout.num_layers, dtype=np.float32)
    action[layers:] = 1.0
    assert env.step(action)[1] == 0.0


def test_the_return_is_the_normalised_score(bench_file):
    env = make(bench_file)
    env.action_space.seed(0)
    for target in (0.75, 0.85):
        env.reset(seed=0, options={"network": "plain-01", "target": target})
        _, reward, over, _, info = env.step(env.action_space.sample())
        scale = contests(env.unwrapped.pruning.problem)[target]
        assert reward == pytest.approx(scale(info["soft_accuracy"]))
        assert over
        best = env.unwrapped.pruning.problem.network.references[target]
        assert scale(env.unwrapped.pruning.problem.surrogate_metrics(best)[1]) == pytest.approx(1.0)


def test_same_seed_same_episodes(bench_file):
    def run(env):
        env.action_space.seed(3)
        seen = []
        for episode in range(20):
            _, info = env.reset(seed=5 if episode == 0 else None)
            observation, reward, *_ = env.step(env.action_space.sample())
            seen.append((info["network"], info["target_reduction"], reward, observation.tobytes()))
        return seen

    env = make(bench_file, constraint="soft", normalised=False)
    assert run(env) == run(env) == run(make(bench_file, constraint="soft", normalised=False))


def test_copies_run_side_by_side(bench_file):
    envs = gym.make_vec("HOBSPruneFamily-v0", num_envs=3, path=str(bench_file))
    _, infos = envs.reset(seed=0)
    assert len(infos["network"]) == 3
    for _ in range(4):
        observations, rewards, *_ = envs.step(envs.action_space.sample())
    assert observations.shape == envs.observation_space.shape
    assert np.isfinite(rewards).all()


def test_the_reward_threshold_is_the_protocols():
    assert gym.spec("HOBSPruneFamily-v0").reward_threshold == THRESHOLDS["medium"]


def test_wrong_names_are_told(bench_file):
    with pytest.raises(ValueError, match="did you mean 'train'"):
        make(bench_file, split="trian")
    with pytest.raises(ValueError, match="did you mean 'residual-00'"):
        make(bench_file, networks=["residual-0"])
    env = make(bench_file)
    with pytest.raises(ValueError, match="did you mean 'network'"):
        env.reset(options={"netwrk": "plain-00"})
    with pytest.raises(ValueError, match=r"no contest at target 0.5, only at 0\.6"):
        env.reset(options={"network": "plain-01", "target": 0.5})
    with pytest.raises(ValueError, match="none of these networks has a contest"):
        make(bench_file, networks=["plain-00"]).reset(seed=0)
    free = make(bench_file, normalised=False)
    assert free.reset(options={"network": "plain-00", "target": 0.5})[1]["target_reduction"] == 0.5


def test_the_example_trains_an_sb3_agent_on_the_family(bench_file):
    pytest.importorskip("stable_baselines3")
    example = runpy.run_path(str(ROOT / "docs" / "examples" / "family_ppo.py"))
    model = example["train"](steps=512, copies=2, path=str(bench_file))
    scores = example["scores"](model, "test", episodes=6, path=str(bench_file))
    assert np.isfinite(scores).all()
    assert len(scores) == 6
