"""The vector environment is what Gymnasium makes of single ones, only faster."""

import functools
import pickle

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from prune_gym.envs.hobs_prune import HOBSPruneEnv
from prune_gym.envs.vector import HOBSPruneVectorEnv
from prune_gym.problem import PruningProblem
from tests.prune_gym.tiny import register_tiny, tiny_task


@pytest.fixture(scope="module")
def problem(tmp_path_factory: pytest.TempPathFactory) -> PruningProblem:
    return PruningProblem(tiny_task(), cache_dir=tmp_path_factory.mktemp("cache")).load()


SETTINGS = [
    {"fidelity": "predicted", "horizon": 3, "target_flops_reduction": (0.5, 0.7)},
    {"fidelity": "predicted", "constraint": "hard", "horizon": 2, "features": "amc"},
    {"fidelity": "measured", "horizon": 2, "reward": "top1_flops"},
    {"fidelity": "predicted", "constraint": "hard", "reward": "amc_flops"},
]


def assert_equal(ours, theirs, where=""):
    if isinstance(theirs, dict):
        assert ours.keys() == theirs.keys(), where
        for key in theirs:
            assert_equal(ours[key], theirs[key], f"{where}/{key}")
    elif isinstance(theirs, np.ndarray) and theirs.dtype.kind == "O":
        for mine, other in zip(ours, theirs, strict=True):
            assert (mine is None) == (other is None), where
            if other is not None:
                np.testing.assert_allclose(mine, other, rtol=1e-6, atol=1e-9, err_msg=where)
    else:
        assert np.shape(ours) == np.shape(theirs), where
        np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=1e-9, err_msg=where)


@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP])
@pytest.mark.parametrize("settings", SETTINGS)
def test_every_copy_is_an_environment_of_its_own(problem, settings, mode):
    ours = HOBSPruneVectorEnv(3, autoreset_mode=mode, problem=problem, **settings)
    makers = [functools.partial(HOBSPruneEnv, problem=problem, **settings)] * 3
    theirs = SyncVectorEnv(makers, autoreset_mode=mode)
    assert ours.observation_space == theirs.observation_space
    assert ours.action_space == theirs.action_space
    for left, right in zip(ours.reset(seed=4), theirs.reset(seed=4), strict=True):
        assert_equal(left, right, "reset")
    actions = np.random.default_rng(0).uniform(-1, 1, (8, *ours.action_space.shape)).astype(np.float32)
    for step, action in enumerate(actions):
        mine, other = ours.step(action), theirs.step(action)
        for part, (left, right) in enumerate(zip(mine, other, strict=True)):
            assert_equal(left, right, f"step {step}, part {part}")


def test_make_vec_builds_it_and_its_spec_survives(problem):
    register_tiny()
    vector = gym.make_vec("HOBSPrune-v0", num_envs=2, task="tiny", fidelity="predicted")
    assert isinstance(vector.unwrapped, HOBSPruneVectorEnv)
    assert vector.metadata["autoreset_mode"] is AutoresetMode.NEXT_STEP
    again = gym.make_vec(gym.envs.registration.EnvSpec.from_json(vector.spec.to_json()))
    np.testing.assert_array_equal(vector.reset(seed=0)[0], again.reset(seed=0)[0])


@pytest.mark.parametrize(
    ("env_id", "mode", "kind"),
    [
        ("HOBSPrune-v0", None, HOBSPruneVectorEnv),
        ("HOBSPrune-v0", "vector_entry_point", HOBSPruneVectorEnv),
        ("HOBSPrune-v0", "sync", SyncVectorEnv),
        ("HOBSPruneLayerwise-v0", None, SyncVectorEnv),
        ("HOBSPruneLayerwise-v0", "sync", SyncVectorEnv),
    ],
)
def test_make_vec_in_every_mode(env_id, mode, kind):
    register_tiny()
    vector = gym.make_vec(env_id, num_envs=2, vectorization_mode=mode, task="tiny", fidelity="predicted")
    assert isinstance(vector.unwrapped, kind)
    observations, _ = vector.reset(seed=0)
    assert observations.shape == vector.observation_space.shape
    assert vector.step(vector.action_space.sample())[1].shape == (2,)


def test_a_plan_several_copies_reach_is_measured_once(problem, monkeypatch):
    vector = HOBSPruneVectorEnv(4, problem=problem)
    vector.reset(seed=0)
    measured = []
    real = problem.evaluator._measure
    monkeypatch.setattr(problem.evaluator, "_measure", lambda kept: measured.append(kept) or real(kept))
    vector.step(np.tile(np.array([0.31, -0.42, 0.23], dtype=np.float32), (4, 1)))
    assert len(measured) <= 1


def test_disabled_autoreset_resets_what_the_mask_says(problem):
    vector = HOBSPruneVectorEnv(2, autoreset_mode="Disabled", problem=problem, fidelity="predicted")
    vector.reset(seed=0)
    vector.step(np.zeros((2, 3), dtype=np.float32))
    with pytest.raises(RuntimeError, match="reset_mask"):
        vector.step(np.zeros((2, 3), dtype=np.float32))
    vector.reset(options={"reset_mask": np.array([True, True])})
    assert vector.step(np.zeros((2, 3), dtype=np.float32))[2].all()


def test_what_is_handed_out_are_copies_and_it_pickles(problem):
    vector = HOBSPruneVectorEnv(2, problem=problem, fidelity="predicted", horizon=3)
    observations, info = vector.reset(seed=0)
    info["kept"][:] = 0
    observations[:] = 0
    clone = pickle.loads(pickle.dumps(vector))
    action = np.full((2, 3), 0.2, dtype=np.float32)
    np.testing.assert_array_equal(vector.step(action)[0], clone.step(action)[0])
    assert vector.kept.min() >= 1


@pytest.mark.parametrize("render_mode", ["ansi", "rgb_array"])
def test_every_copy_is_rendered(problem, render_mode):
    vector = HOBSPruneVectorEnv(2, problem=problem, fidelity="predicted", render_mode=render_mode)
    vector.reset(seed=0)
    assert len(vector.render()) == 2


def test_bad_use_is_explained(problem):
    with pytest.raises(ValueError, match="at least 1"):
        HOBSPruneVectorEnv(0, problem=problem)
    with pytest.raises(ValueError, match="unknown fidelity"):
        HOBSPruneVectorEnv(2, problem=problem, fidelity="measure")
    vector = HOBSPruneVectorEnv(2, problem=problem, fidelity="predicted")
    with pytest.raises(RuntimeError, match=r"call reset\(\) first"):
        vector.step(np.zeros((2, 3)))
    with pytest.raises(ValueError, match="one seed an environment"):
        vector.reset(seed=[1])
    with pytest.raises(ValueError, match="reset_mask"):
        vector.reset(options={"reset_mask": np.zeros(2, dtype=bool)})
    vector.reset(seed=0)
    with pytest.raises(ValueError, match=r"shape \(2, 3\)"):
        vector.step(np.zeros(3))
    with pytest.raises(ValueError, match="finite numbers"):
        vector.step(np.full((2, 3), np.nan))
