import numpy as np
import pytest

from prune_gym.envs.layerwise import HOBSPruneLayerwiseEnv
from prune_gym.problem import PruningProblem
from tests.prune_gym.tiny import tiny_task


@pytest.fixture(scope="module")
def problem(tmp_path_factory: pytest.TempPathFactory) -> PruningProblem:
    return PruningProblem(tiny_task(), cache_dir=tmp_path_factory.mktemp("cache")).load()


def make(problem: PruningProblem, **kwargs) -> HOBSPruneLayerwiseEnv:
    return HOBSPruneLayerwiseEnv(problem=problem, **{"fidelity": "predicted", **kwargs})


def finish(env: HOBSPruneLayerwiseEnv, actions: np.ndarray) -> dict:
    for action in actions:
        _, _, terminated, _, info = env.step(np.array([action], dtype=np.float32))
    assert terminated
    return info


@pytest.mark.parametrize("target", [0.1, 0.4, 0.7, 0.82])
@pytest.mark.parametrize("settings", [{}, {"round_to": 4}, {"min_channels": 2}])
def test_every_episode_ends_on_the_target(problem, target, settings):
    env = make(problem, target_flops_reduction=target, **settings)
    rng = np.random.default_rng(0)
    corners = [np.full(3, -1.0), np.full(3, 1.0), *(rng.choice([-1.0, 1.0], 3) for _ in range(5))]
    for actions in [*corners, *rng.uniform(-1, 1, (40, 3))]:
        env.reset(seed=0)
        info = finish(env, actions)
        assert info["flops_reduction"] >= target
        assert info["violation"] == 0.0
        assert env.limits.contains(info["kept"])
        more = env.limits.one_more(info["kept"])
        one_back = [np.where(np.arange(3) == layer, more, info["kept"]) for layer in range(3)]
        given_back = [plan for plan in one_back if (plan > info["kept"]).any()]
        assert any(problem.cost.reduction(plan) < target for plan in given_back)


def test_every_plan_on_the_target_can_be_chosen(problem):
    """Whatever plan cannot give back a unit lies within the bounds at every step."""
    env = make(problem)
    for start in (problem.start_plan("knapsack", 0.7), problem.start_plan("uniform", 0.7)):
        env.reset(seed=0)
        for count in start:
            most, least = env.bounds()
            assert least <= count <= most
            action = 2 * (most - count) / (most - least) - 1 if most > least else 0.0
            info = env.step(np.array([action], dtype=np.float32))[4]
        np.testing.assert_array_equal(info["kept"], start)


def test_the_whole_reward_comes_at_the_end_and_is_the_gain_over_the_start_plan(problem):
    env = make(problem, fidelity="measured")
    _, start = env.reset(seed=0)
    rewards = [env.step(np.array([action], dtype=np.float32))[1] for action in (0.2, -0.3)]
    assert rewards == [0.0, 0.0]
    assert len(env.archive) == 1
    _, reward, _, _, info = env.step(np.zeros(1, dtype=np.float32))
    assert reward == pytest.approx(info["score"] - start["score"])
    assert info["measured_evaluations"] == 2


def test_the_marker_walks_the_layers_and_ratios_follow_the_decisions(problem):
    env = make(problem)
    observation, start = env.reset(seed=0)
    for step in range(3):
        assert env.layout.feature(observation, "current").tolist() == [float(layer == step) for layer in range(3)]
        assert observation[env.layout.slices["progress"]] == np.float32(step / 3)
        observation, *_, info = env.step(np.array([1.0], dtype=np.float32))
        ratios = observation[env.layout.slices["ratios"]]
        expected = 1 - start["kept"][step + 1 :] / problem.cost.units[step + 1 :]
        np.testing.assert_allclose(ratios[step + 1 :], expected, rtol=1e-6)
    np.testing.assert_allclose(ratios, 1 - info["kept"] / problem.cost.units, rtol=1e-6)
    assert not env.layout.feature(observation, "current").any()


def test_larger_actions_keep_less(problem):
    env = make(problem)
    counts = []
    for action in np.linspace(-1, 1, 9):
        env.reset(seed=0)
        most, least = env.bounds()
        env.step(np.array([action], dtype=np.float32))
        counts.append(int(env._draft[0]))
    assert counts == sorted(counts, reverse=True)
    assert (counts[0], counts[-1]) == (most, least)


def test_a_fork_in_the_middle_of_an_episode_goes_its_own_way(problem):
    env = make(problem)
    env.reset(seed=0)
    env.step(np.array([0.5], dtype=np.float32))
    fork = env.fork()
    ours, theirs = finish(env, np.array([-1.0, 0.0])), finish(fork, np.array([1.0, 0.0]))
    assert ours["kept"][0] == theirs["kept"][0]
    assert ours["kept"][1] > theirs["kept"][1]


def test_amc_accuracy_needs_no_hard_constraint_here(problem):
    env = make(problem, reward="amc_accuracy")
    env.reset(seed=0)
    info = finish(env, np.zeros(3))
    assert info["score"] == info["accuracy"]


def test_bad_use_is_explained(problem):
    env = make(problem)
    with pytest.raises(RuntimeError, match=r"call reset\(\) first"):
        env.step(np.zeros(1))
    with pytest.raises(RuntimeError, match="no layer is waiting"):
        env.bounds()
    env.reset(seed=0)
    with pytest.raises(ValueError, match="finite numbers"):
        env.step(np.array([np.nan]))
    with pytest.raises(ValueError, match=r"shape \(1,\)"):
        env.step(np.zeros(3))
    finish(env, np.zeros(3))
    with pytest.raises(RuntimeError, match="episode is over"):
        env.step(np.zeros(1))


def test_undo_goes_back_a_layer(problem):
    env = make(problem, features="amc")
    first, _ = env.reset(seed=0)
    second = env.step(np.array([0.3], dtype=np.float32))[0]
    env.step(np.array([-0.6], dtype=np.float32))
    np.testing.assert_array_equal(env.undo()[0], second)
    np.testing.assert_array_equal(env.undo()[0], first)
    with pytest.raises(RuntimeError, match="no step to take back"):
        env.undo()
    assert finish(env, np.zeros(3))["violation"] == 0.0
