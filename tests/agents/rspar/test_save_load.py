import json

import numpy as np
import pytest
import torch

from agents import RSPARAgent
from prune_gym.support.files import load_safetensors, save_safetensors_atomic
from tests.agents.synthetic import FEATURES, IdentityEnv, SyntheticPruning


def weights(agent):
    return torch.cat([parameter.detach().ravel() for parameter in agent.network.parameters()])


def make(kind):
    if kind == "imagined":
        return RSPARAgent(8, FEATURES, hidden_dim=16, seed=1), SyntheticPruning, 10
    if kind == "many targets":
        targets = (0.7, 0.75, 0.8)
        return RSPARAgent(8, FEATURES, hidden_dim=16, seed=1), lambda: SyntheticPruning(targets=targets), 10
    agent = RSPARAgent(3, FEATURES, hidden_dim=16, n_steps=32, anneal_timesteps=200, seed=1)
    return agent, IdentityEnv, 64


@pytest.mark.parametrize("kind", ["imagined", "many targets", "plain"])
def test_interrupted_training_equals_uninterrupted_training(kind, tmp_path):
    agent, env, steps = make(kind)
    world = env()
    agent.learn(world, steps)
    agent.save(tmp_path / "agent.safetensors")
    resumed = RSPARAgent.load(tmp_path / "agent.safetensors").learn(env(), steps)
    agent.learn(world, steps)
    assert torch.equal(weights(agent), weights(resumed))
    assert agent.num_timesteps == resumed.num_timesteps == 2 * steps
    assert agent.history == resumed.history


@pytest.mark.parametrize("kind", ["imagined", "many targets"])
def test_a_call_split_in_two_equals_one_call(kind):
    whole, env, steps = make(kind)
    whole.learn(env(), 2 * steps)
    parts, world = make(kind)[0], env()
    parts.learn(world, steps).learn(world, steps)
    assert whole.history == parts.history
    assert torch.equal(weights(whole), weights(parts))


@pytest.mark.parametrize("steps", [0, 1, 2])
def test_an_agent_that_measured_next_to_nothing_is_saved(tmp_path, steps):
    agent = RSPARAgent(8, FEATURES, hidden_dim=16).learn(SyntheticPruning(), steps)
    loaded = RSPARAgent.load(agent.save(tmp_path / "a.safetensors"))
    assert len(loaded.experience.plans) == 1 + steps
    assert loaded.history == agent.history


def test_new_random_streams_keep_what_was_learned(tmp_path):
    agent = RSPARAgent(8, FEATURES, hidden_dim=16).learn(SyntheticPruning(), 6)
    path = agent.save(tmp_path / "a.safetensors")
    first, same, other = (RSPARAgent.load(path, seed=seed).learn(SyntheticPruning(), 4) for seed in (7, 7, 8))
    assert first.history == same.history != other.history
    assert first.history[:7] == agent.history


def test_the_loaded_policy_acts_the_same(tmp_path):
    agent = RSPARAgent(4, FEATURES, hidden_dim=16, seed=5)
    observations = np.random.default_rng(0).normal(size=(6, agent.observation_size)).astype(np.float32)
    loaded = RSPARAgent.load(agent.save(tmp_path / "a.safetensors"))
    assert np.array_equal(agent.predict(observations)[0], loaded.predict(observations)[0])


def test_a_policy_carries_over_to_a_network_with_other_layers(tmp_path):
    agent = RSPARAgent(8, FEATURES, hidden_dim=16).learn(SyntheticPruning(), 4)
    loaded = RSPARAgent.load(agent.save(tmp_path / "a.safetensors"), num_layers=5)
    assert torch.equal(weights(agent), weights(loaded))
    assert loaded.history == []
    action, _ = loaded.predict(np.zeros(loaded.observation_size, dtype=np.float32))
    assert action.shape == (5,)
    loaded.learn(SyntheticPruning(num_layers=5), 3)
    assert len(loaded.history) == 4


@pytest.mark.parametrize(("size", "value"), [("layer_feature_dim", 7), ("hidden_dim", 32)])
def test_other_feature_dimensions_and_widths_are_refused(size, value, tmp_path):
    path = RSPARAgent(4, FEATURES, hidden_dim=16).save(tmp_path / "a.safetensors")
    with pytest.raises(ValueError, match=rf"{size} = \d+, but {value} was expected"):
        RSPARAgent.load(path, **{size: value})


def test_a_damaged_or_missing_file_is_an_error(tmp_path):
    path = RSPARAgent(4, FEATURES, hidden_dim=16).save(tmp_path / "a.safetensors")
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match="truncated"):
        RSPARAgent.load(path)
    with pytest.raises(FileNotFoundError, match="nothing"):
        RSPARAgent.load(tmp_path / "nothing.safetensors")


def rewritten(path, change):
    """The same file with its JSON or tensors changed and signed again."""
    tensors, metadata = load_safetensors(path)
    document = json.loads(metadata["agent"])
    change(tensors, document)
    return save_safetensors_atomic(path, tensors, {"agent": json.dumps(document)})


ABSURD = {
    "width": (lambda tensors, document: document["config"].update(hidden_dim=10**9), "'config.hidden_dim'"),
    "type": (lambda tensors, document: document["config"].update(lr="fast"), "'config.lr'"),
    "missing": (lambda tensors, document: document.pop("rng"), "'rng'"),
    "history": (lambda tensors, document: document.update(history=[1]), "'history"),
    "random state": (lambda tensors, document: document.update(rng={"bit_generator": "none"}), "do not fit each other"),
    "weights": (lambda tensors, document: tensors.pop(next(iter(tensors))), "do not fit each other"),
    "nan": (
        lambda tensors, document: next(t for n, t in tensors.items() if n.startswith("network.")).fill_(torch.nan),
        "holds NaN",
    ),
}


@pytest.mark.parametrize(("change", "message"), ABSURD.values(), ids=ABSURD)
def test_an_agent_that_makes_no_sense_is_refused_whatever_its_checksum(tmp_path, change, message):
    path = RSPARAgent(3, FEATURES, hidden_dim=8).save(tmp_path / "agent.safetensors")
    with pytest.raises(ValueError, match=message):
        RSPARAgent.load(rewritten(path, change))


def test_equal_agents_are_equal_files(tmp_path):
    files = {RSPARAgent(3, FEATURES, hidden_dim=8).save(tmp_path / f"{n}.safetensors").read_bytes() for n in range(10)}
    assert len(files) == 1
