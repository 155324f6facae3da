"""Promises about the environment on the task it is made with by default."""

import gymnasium as gym
import numpy as np
import pytest

from prune_gym.envs.hobs_prune import HOBSPruneEnv
from prune_gym.problem import PruningProblem


@pytest.fixture(scope="module")
def problem(tmp_path_factory: pytest.TempPathFactory) -> PruningProblem:
    return PruningProblem("digits-resnet20", cache_dir=tmp_path_factory.mktemp("cache")).load()


def test_make_needs_no_argument_and_no_data():
    env = gym.make("prune_gym:HOBSPrune-v0").unwrapped
    assert not env.problem.is_loaded
    assert env.action_space.shape == (12,)
    assert env.target == 0.9


def test_violating_the_target_does_not_pay(problem):
    """A knapsack plan made for a lower target scores below the start plan, even with lambda at its most adapted."""
    env = HOBSPruneEnv(problem=problem)
    _, start = env.reset(seed=0)
    for _ in range(2):
        for lower in (0.76, 0.89):
            kept = problem.start_plan("knapsack", lower)
            soft_accuracy = problem.evaluator.evaluate(kept.tolist()).soft_accuracy
            assert env.score_of(soft_accuracy, problem.cost.reduction(kept)) < start["score"]
        # The weight after the worst of episodes: everything removed that may be.
        env.step(np.full(12, 1.0, dtype=np.float32))
        assert env.reset()[1]["lambda"] < start["lambda"]


def test_the_knapsack_start_beats_the_uniform_one_and_moves_make_a_difference(problem):
    env = HOBSPruneEnv(problem=problem, constraint="hard", target_flops_reduction=0.97)
    _, knapsack = env.reset(seed=0)
    _, uniform = env.fork(start="uniform").reset(seed=0)
    assert knapsack["score"] > uniform["score"]
    for info in (knapsack, uniform):
        assert 0.97 <= info["flops_reduction"] <= 0.972
    scores = []
    for action in np.random.default_rng(0).uniform(-0.3, 0.3, (4, 12)):
        env.reset()
        scores.append(env.step(action.astype(np.float32))[4]["score"])
    assert len(set(scores)) == 4
    assert np.std(scores) > 1e-3


def test_random_moves_around_the_start_change_the_score_at_the_default_target(problem):
    env = HOBSPruneEnv(problem=problem, constraint="hard")
    _, start = env.reset(seed=0)
    scores = []
    for action in np.random.default_rng(0).uniform(-0.3, 0.3, (6, 12)):
        env.reset()
        scores.append(env.step(action.astype(np.float32))[4]["score"])
    assert len({start["score"], *scores}) == 7
    assert np.std(scores) > 5e-4
