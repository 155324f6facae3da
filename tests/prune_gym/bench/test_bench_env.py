import subprocess
import sys

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from prune_gym.bench.problem import BenchProblem
from prune_gym.envs.hobs_prune import HOBSPruneEnv


def make(bench_file, name="plain-01", env="HOBSPrune-v0", **arguments):
    options = {"task": f"bench/{name}", "fidelity": "surrogate", "task_options": {"path": str(bench_file)}}
    return gym.make(env, **{**options, **arguments})


@pytest.mark.parametrize("env", ["HOBSPrune-v0", "HOBSPruneLayerwise-v0"])
@pytest.mark.filterwarnings("ignore:.*For Box action spaces.*")
def test_gymnasiums_checker_passes(bench_file, env):
    check_env(make(bench_file, env=env).unwrapped, skip_render_check=True)


@pytest.mark.parametrize(
    "reward", ["accuracy_flops", "accuracy_flops_fixed", "top1_flops", "amc_flops", "amc_accuracy"]
)
def test_the_reward_is_the_change_of_the_score(bench_file, reward):
    env = make(bench_file, reward=reward, constraint="hard", horizon=3)
    _, info = env.reset(seed=0)
    env.action_space.seed(0)
    score = info["score"]
    for _ in range(3):
        _, gained, over, _, info = env.step(env.action_space.sample())
        assert gained == pytest.approx(info["score"] - score)
        score = info["score"]
        assert info["violation"] == 0.0
    assert over


def test_plans_score_what_the_surrogate_says_and_count_once(bench_file):
    env = make(bench_file, horizon=5)
    env.reset(seed=0)
    action = np.linspace(-1, 1, 4, dtype=np.float32)
    info = env.step(action)[4]
    expected = env.unwrapped.problem.surrogate_metrics(info["kept"])
    assert [info["accuracy"], info["soft_accuracy"], info["loss"]] == pytest.approx(expected.tolist())
    assert info["measured_evaluations"] == 2
    assert env.step(0.0 * action)[4]["measured_evaluations"] == 2


@pytest.mark.parametrize("constraint", ["soft", "hard"])
def test_many_copies_do_what_single_ones_do(bench_file, constraint):
    options = {"task": "bench/dense-00", "fidelity": "surrogate", "task_options": {"path": str(bench_file)}}
    options |= {"constraint": constraint, "horizon": 2, "target_flops_reduction": (0.5, 0.7)}
    ours = gym.make_vec("HOBSPrune-v0", num_envs=3, **options)
    theirs = gym.make_vec("HOBSPrune-v0", num_envs=3, vectorization_mode="sync", **options)
    ours.action_space.seed(0)
    for (mine, my_info), (other, info) in [(ours.reset(seed=1), theirs.reset(seed=1))]:
        np.testing.assert_allclose(mine, other, atol=1e-6)
        np.testing.assert_array_equal(my_info["kept"], info["kept"])
    for _ in range(5):
        actions = ours.action_space.sample()
        mine, other = ours.step(actions), theirs.step(actions)
        np.testing.assert_allclose(mine[0], other[0], atol=1e-6)
        np.testing.assert_allclose(mine[1], other[1], atol=1e-9)
        for key in ("score", "measured_evaluations", "is_success", "reduction"):
            np.testing.assert_allclose(mine[4][key], other[4][key], atol=1e-9)


def test_looking_back_and_ahead(bench_file):
    env = make(bench_file, horizon=5, render_mode="ansi").unwrapped
    env.reset(seed=0)
    before = env.kept
    env.step(env.action_space.sample())
    env.undo()
    np.testing.assert_array_equal(env.kept, before)
    other = env.fork(constraint="hard")
    other.step(np.ones(4, dtype=np.float32))
    assert other.archive is env.archive
    assert "conv0" in env.render()
    plan, evaluation = other.best_plan()
    assert env.cost.reduction(plan) >= env.target
    assert evaluation.soft_accuracy == pytest.approx(env.problem.surrogate_metrics(plan)[1])


def test_parameters_can_be_limited(bench_file):
    env = make(bench_file, target_params_reduction=0.6, constraint="hard")
    assert env.reset(seed=0)[1]["reduction"] >= 0.6


def test_a_layer_a_step_ends_on_the_target(bench_file):
    env = make(bench_file, env="HOBSPruneLayerwise-v0")
    env.reset(seed=0)
    over = False
    while not over:
        over, info = env.step(env.action_space.sample())[2::2]
    assert info["violation"] == 0.0


def test_what_needs_a_network_says_which_task_has_one(bench_file):
    env = make(bench_file).unwrapped
    env.reset(seed=0)
    for call in (env.plan, env.export):
        with pytest.raises(ValueError, match=r"no network to .*task 'family/plain-01'"):
            call()
    with pytest.raises(ValueError, match=r"fidelity='surrogate'; task 'family/plain-01'"):
        make(bench_file, fidelity="measured")
    with pytest.raises(ValueError, match="no network to measure latency"):
        make(bench_file, target_latency=0.5).reset()
    with pytest.raises(ValueError, match="has no feature 'out_channels'"):
        make(bench_file, features="amc").reset()
    with pytest.raises(ValueError, match="no 'repair' to choose"):
        make(bench_file, repair="none")
    with pytest.raises(KeyError, match="did you mean 'plain-01'"):
        make(bench_file, name="plain-1")


def test_a_real_task_has_no_surrogate():
    with pytest.raises(ValueError, match="only tasks 'bench/NAME' have a surrogate"):
        HOBSPruneEnv(fidelity="surrogate")


def test_a_problem_is_shared(bench_file):
    problem = BenchProblem.named("bench/plain-00", bench_file)
    env = gym.make("HOBSPrune-v0", problem=problem, fidelity="surrogate")
    assert env.unwrapped.problem is problem


def test_searching_the_bench_imports_no_torch(bench_file):
    code = (
        "import sys, gymnasium as gym, prune_gym\n"
        f"options = dict(task='bench/plain-01', fidelity='surrogate', task_options={{'path': {str(bench_file)!r}}})\n"
        "env = gym.make('HOBSPrune-v0', **options)\n"
        "env.reset(seed=0)\n"
        "env.step(env.action_space.sample())\n"
        "env.unwrapped.best_plan()\n"
        "gym.make_vec('HOBSPrune-v0', num_envs=2, **options).reset()\n"
        "assert 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_ids_stand_together_in_gymnasiums_list():
    listed = gym.pprint_registry(disable_print=True)
    under = listed.split("===== prune_gym =====\n")[1].split("=====")[0]
    assert {"HOBSPrune-v0", "HOBSPruneLayerwise-v0"} <= set(under.split())
