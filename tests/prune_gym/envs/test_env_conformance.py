import copy
import functools
import os
import pickle
import subprocess
import sys
import warnings
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv

import prune_gym
from prune_gym.envs.hobs_prune import HOBSPruneEnv
from prune_gym.support.files import CACHE_VARIABLE
from prune_gym.tasks import register_task
from tests.prune_gym.tiny import make_tiny_env, register_tiny, tiny_task

VARIANTS = [
    {},
    {"constraint": "hard"},
    {"fidelity": "predicted"},
    {"horizon": 3, "target_flops_reduction": [0.5, 0.7]},
    {"features": "amc", "horizon": 2},
    {"features": "cost", "reward": "latency", "fidelity": "predicted"},
    {"env_id": "HOBSPruneLayerwise-v0"},
    {"env_id": "HOBSPruneLayerwise-v0", "fidelity": "predicted", "target_flops_reduction": [0.5, 0.7]},
]


@pytest.fixture(autouse=True, scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory):
    """One curvature for all environments here, spawned processes included."""
    register_tiny()
    previous = os.environ.get(CACHE_VARIABLE)
    os.environ[CACHE_VARIABLE] = str(tmp_path_factory.mktemp("cache"))
    yield
    os.environ.pop(CACHE_VARIABLE)
    if previous is not None:
        os.environ[CACHE_VARIABLE] = previous


def trajectory(env: gym.Env, steps: int = 6) -> list:
    env.action_space.seed(7)
    observation, info = env.reset(seed=11)
    record = [(observation, 0.0, False, False, info)]
    for _ in range(steps):
        record.append(env.step(env.action_space.sample()))
        if record[-1][2]:
            record.append((*env.reset(), 0, 0, {}))
    return record


def assert_same(first: list, second: list) -> None:
    assert len(first) == len(second)
    for ours, theirs in zip(first, second, strict=True):
        for mine, other in zip(ours, theirs, strict=True):
            if isinstance(mine, dict):
                assert mine.keys() == other.keys()
                assert_same([tuple(mine.values())], [tuple(other.values())])
            else:
                np.testing.assert_array_equal(mine, other)


@pytest.mark.parametrize("render_mode", ["ansi", "rgb_array"])
@pytest.mark.parametrize("kwargs", VARIANTS)
def test_gymnasiums_checker_finds_nothing(kwargs, render_mode):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(make_tiny_env(render_mode=render_mode, **kwargs).unwrapped)


@pytest.mark.parametrize("kwargs", VARIANTS)
def test_stable_baselines_checker_finds_nothing(kwargs):
    from stable_baselines3.common.env_checker import check_env as sb3_check_env

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sb3_check_env(make_tiny_env(**kwargs))


@pytest.mark.parametrize("kwargs", VARIANTS)
def test_two_makes_give_matching_environments(kwargs):
    from gymnasium.utils.env_match import check_environments_match

    check_environments_match(make_tiny_env(**kwargs), make_tiny_env(**kwargs), num_steps=12, seed=3)


@pytest.mark.parametrize("kwargs", VARIANTS)
def test_same_seed_same_trajectory_bit_for_bit(kwargs):
    env = make_tiny_env(**kwargs)
    first = trajectory(env)
    # The second pass meets an archive: only the count of measurements may differ, and it may not grow.
    second = trajectory(env)
    fresh = trajectory(make_tiny_env(**kwargs))
    assert_same(first, fresh)
    for old, new in zip(first, second, strict=True):
        np.testing.assert_array_equal(old[0], new[0])
        assert not isinstance(old[1], float) or old[1] == new[1]


def test_spec_survives_json():
    env = make_tiny_env(horizon=3, target_flops_reduction=[0.5, 0.7], constraint="hard")
    spec = gym.envs.registration.EnvSpec.from_json(env.spec.to_json())
    assert_same(trajectory(gym.make(spec)), trajectory(env))


def test_pickles_and_deep_copies_go_on_like_the_original():
    env = make_tiny_env(horizon=4)
    fresh_copy = pickle.loads(pickle.dumps(env))
    env.reset(seed=1)
    env.step(np.full(3, 0.3, dtype=np.float32))
    deep = copy.deepcopy(env).unwrapped
    assert deep.problem is env.unwrapped.problem
    assert deep.archive is not env.unwrapped.archive
    for other in (copy.deepcopy(env), pickle.loads(pickle.dumps(env))):
        action = np.full(3, -0.3, dtype=np.float32)
        assert_same([other.step(action)], [copy.deepcopy(env).step(action)])
    assert_same(trajectory(fresh_copy), trajectory(make_tiny_env(horizon=4)))


def test_make_builds_no_more_than_the_structure():
    assert not make_tiny_env().unwrapped.problem.is_loaded


def test_info_has_the_same_keys_and_plain_types_everywhere():
    env = make_tiny_env(horizon=2)
    infos = [env.reset(seed=0)[1], env.step(env.action_space.sample())[4], env.step(env.action_space.sample())[4]]
    types = {
        "accuracy": float,
        "soft_accuracy": float,
        "loss": float,
        "flops_reduction": float,
        "target_flops_reduction": float,
        "reduction": float,
        "target_reduction": float,
        "violation": float,
        "score": float,
        "lambda": float,
        "is_success": bool,
        "measured_evaluations": int,
        "kept": np.ndarray,
        "rewards": dict,
    }
    for info in infos:
        assert {key: type(value) for key, value in info.items()} == types
        assert {key: type(value) for key, value in info["rewards"].items()} == {"accuracy": float, "violation": float}
        assert info["kept"].dtype == np.int64
    _, reward, terminated, truncated, _ = (env.reset(), env.step(env.action_space.sample()))[1]
    assert (type(reward), type(terminated), type(truncated)) == (float, bool, bool)


def test_what_is_handed_out_are_copies():
    env = make_tiny_env(horizon=3)
    observation, info = env.reset(seed=0)
    before = observation.copy()
    info["kept"][:] = 0
    following = env.step(env.action_space.sample())[0]
    np.testing.assert_array_equal(observation, before)
    following[:] = 0
    again, info = env.reset(seed=0)
    np.testing.assert_array_equal(again, before)
    assert info["kept"].min() >= 1


@pytest.mark.parametrize("mode", [AutoresetMode.SAME_STEP, AutoresetMode.NEXT_STEP])
def test_vector_environments_equal_single_ones(mode):
    makers = [functools.partial(make_tiny_env, horizon=2, constraint="hard")] * 2
    vector = SyncVectorEnv(makers, autoreset_mode=mode)
    single = make_tiny_env(horizon=2, constraint="hard")
    observations, infos = vector.reset(seed=[5, 6])
    np.testing.assert_array_equal(observations[0], single.reset(seed=5)[0])
    assert infos["kept"].shape == (2, 3)
    for step in range(2):
        action = np.full((2, 3), 0.2 * (step + 1), dtype=np.float32)
        observations, rewards, terminated, _, infos = vector.step(action)
        expected = single.step(action[0])
        assert rewards[0] == expected[1]
    assert terminated.all()
    if mode is AutoresetMode.SAME_STEP:
        np.testing.assert_array_equal(infos["final_obs"][0], expected[0])
        np.testing.assert_array_equal(observations[0], single.reset()[0])
    else:
        np.testing.assert_array_equal(observations[0], expected[0])


@pytest.mark.parametrize("env_id", ["HOBSPrune-v0", "HOBSPruneLayerwise-v0"])
def test_make_vec_in_a_spawned_process(env_id):
    """By the module-qualified id, on the package's own task: a spawned process knows no other."""
    vector = gym.make_vec(
        f"prune_gym:{env_id}",
        num_envs=1,
        vectorization_mode="async",
        vector_kwargs={"context": "spawn"},
        task="digits-resnet20",
        fidelity="predicted",
    )
    vector.close()


@pytest.mark.parametrize("algorithm", ["PPO", "A2C", "SAC", "TD3", "DDPG"])
@pytest.mark.parametrize("env_id", ["HOBSPrune-v0", "HOBSPruneLayerwise-v0"])
def test_stable_baselines_agents_train(env_id, algorithm):
    import stable_baselines3

    env = make_tiny_env(env_id=env_id, fidelity="predicted")
    options = {"n_steps": 8} if algorithm in ("PPO", "A2C") else {"learning_starts": 8}
    options |= {"batch_size": 8} if algorithm == "PPO" else {}
    model = getattr(stable_baselines3, algorithm)("MlpPolicy", env, seed=0, **options)
    before = [parameter.clone() for parameter in model.policy.parameters()]
    model.learn(total_timesteps=24)
    after = list(model.policy.parameters())
    assert any(not torch.equal(old, new) for old, new in zip(before, after, strict=True))
    action, _ = model.predict(env.reset(seed=0)[0], deterministic=True)
    assert env.action_space.contains(action)


# ---------------------------------------------------------------------- what can go wrong outside


def test_a_factory_that_fails_is_heard_and_can_be_mended(tmp_path):
    def broken():
        raise FileNotFoundError("images are at another place")

    register_task("broken", broken, structure=lambda: structure_of_tiny(), default_target=0.7, overwrite=True)
    env = gym.make("HOBSPrune-v0", task="broken", cache_dir=str(tmp_path))
    with pytest.raises(FileNotFoundError, match="another place"):
        env.reset(seed=0)
    with pytest.raises(RuntimeError, match=r"call reset\(\) first"):
        env.step(env.action_space.sample())
    register_task("broken", tiny_task, structure=lambda: structure_of_tiny(), default_target=0.7, overwrite=True)
    assert env.reset(seed=0)[1]["target_flops_reduction"] == 0.7


def structure_of_tiny():
    task = tiny_task()
    return task.model, task.example_input


def test_damaged_caches_are_computed_again_with_a_warning(tmp_path, caplog):
    first = make_tiny_env(cache_dir=str(tmp_path), fidelity="predicted")
    observation, _ = first.reset(seed=0)
    files = sorted(tmp_path.glob("*.safetensors"))
    assert {"curvature", "predictor"} <= {part for file in files for part in file.name.split("-")}
    for file in files:
        data = bytearray(file.read_bytes())
        data[-3] ^= 0xFF
        file.write_bytes(bytes(data))
    again, _ = make_tiny_env(cache_dir=str(tmp_path), fidelity="predicted").reset(seed=0)
    np.testing.assert_array_equal(again, observation)
    assert caplog.text.count("computed again") == len(files)


def test_two_processes_fill_one_cache(tmp_path):
    code = (
        "from tests.prune_gym.tiny import make_tiny_env; import sys; "
        "env = make_tiny_env(cache_dir=sys.argv[1], fidelity='predicted'); print(env.reset(seed=0)[0].tobytes().hex())"
    )
    root = Path(prune_gym.__file__).parent.parent
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path)], cwd=root, env=environment, stdout=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    outputs = [process.communicate(timeout=240)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert outputs[0] == outputs[1]
    assert not [file for file in tmp_path.iterdir() if file.suffix != ".safetensors"]


@pytest.mark.parametrize(
    ("kwargs", "mode", "count"),
    [
        ({"constraint": "hard"}, AutoresetMode.SAME_STEP, 2),
        ({"env_id": "HOBSPruneLayerwise-v0"}, AutoresetMode.NEXT_STEP, 1),
    ],
    ids=["v0", "layerwise"],
)
def test_spawned_environments_equal_those_of_this_process(kwargs, mode, count):
    """Until after the end of an episode; at measured fidelity."""
    makers = [functools.partial(make_tiny_env, **kwargs)] * count
    spawned, here = (
        AsyncVectorEnv(makers, context="spawn", autoreset_mode=mode),
        SyncVectorEnv(makers, autoreset_mode=mode),
    )
    action = np.full(here.action_space.shape, 0.4, dtype=np.float32)
    try:
        np.testing.assert_array_equal(spawned.reset(seed=1)[0], here.reset(seed=1)[0])
        ends = 0
        for _ in range(4):
            theirs, ours = spawned.step(action), here.step(action)
            for left, right in zip(theirs[:4], ours[:4], strict=True):
                np.testing.assert_array_equal(left, right)
            ends += ours[2].all()
        assert ends
    finally:
        spawned.close()


def test_registering_twice_changes_nothing():
    prune_gym.register_envs()
    gym.register_envs(prune_gym)
    assert gym.spec("HOBSPrune-v0").entry_point == "prune_gym.prune_gym:HOBSPruneEnv"
    assert gym.spec("HOBSPruneLayerwise-v0").entry_point == "prune_gym.prune_gym:HOBSPruneLayerwiseEnv"
    assert prune_gym.HOBSPruneEnv is HOBSPruneEnv


def test_public_names_are_importable_and_unknown_ones_are_not():
    for name in prune_gym.__all__:
        assert getattr(prune_gym, name) is not None
    assert set(prune_gym.__all__) <= set(dir(prune_gym))
    with pytest.raises(AttributeError, match="no attribute 'HOBSPrunEnv'"):
        _ = prune_gym.HOBSPrunEnv


def test_import_is_clean_and_light():
    heavy = ["stable_baselines3", "matplotlib", "torchvision", "sklearn", "torch_pruning"]
    code = f"import sys, prune_gym; found = [name for name in {heavy} if name in sys.modules]; assert not found, found"
    root = Path(prune_gym.__file__).parent.parent
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, cwd=root, timeout=120)


def test_an_episode_raises_no_warning():
    code = (
        "from tests.prune_gym.tiny import make_tiny_env\n"
        "for env_id in ('HOBSPrune-v0', 'HOBSPruneLayerwise-v0'):\n"
        "    env = make_tiny_env(env_id, render_mode='rgb_array'); env.reset(seed=0)\n"
        "    env.step(env.action_space.sample()); env.render(); env.close()"
    )
    root = Path(prune_gym.__file__).parent.parent
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, cwd=root, timeout=240)
