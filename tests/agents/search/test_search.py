from types import SimpleNamespace

import numpy as np
import pytest

from agents import KnapsackSearch, RandomSearch, RSPARAgent, UniformSearch
from agents.interface.monitor import best_feasible
from agents.model.acquisition import ExpectedImprovement, Proposer, perturbed
from agents.model.experience import Experience
from agents.model.imagination import Imagination
from agents.model.reward_model import RewardModel, from_log_odds
from tests.agents.synthetic import FEATURES, IdentityEnv, SyntheticPruning
from tests.prune_gym.tiny import make_tiny_env

KEYS = {
    "episode",
    "return",
    "accuracy",
    "soft_accuracy",
    "flops_reduction",
    "target_flops_reduction",
    "lambda",
    "violation",
    "score",
    "kept",
    "measured_evaluations",
}


def imagine(env):
    _, info = env.reset(seed=0)
    experience = Experience("", RewardModel())
    experience.absorb(env)
    return Imagination(env, experience, info["kept"], env.target)


def test_every_step_measures_one_new_plan_and_is_counted_once():
    for search in (RSPARAgent(8, FEATURES, hidden_dim=16), RandomSearch()):
        env = SyntheticPruning()
        search.learn(env, 9)
        assert [record["episode"] for record in search.history] == list(range(10))
        assert [record["measured_evaluations"] for record in search.history] == list(range(1, 11))
        assert len({tuple(record["kept"]) for record in search.history}) == 10
        assert set(search.history[-1]) == KEYS
        assert len(env.archive) == 10


def test_every_measured_plan_meets_the_target_closely():
    for search in (RSPARAgent(8, FEATURES, hidden_dim=16), RandomSearch(std=0.3)):
        search.learn(SyntheticPruning(), 15)
        reductions = np.array([record["flops_reduction"] for record in search.history[1:]])
        assert (reductions >= 0.8).all()
        assert (reductions <= 0.82).all()


def test_best_is_the_best_plan_on_the_target_not_the_best_score():
    def record(score, reduction, target=0.8):
        return {"score": score, "flops_reduction": reduction, "target_flops_reduction": target}

    history = [record(0.5, 0.8), record(0.9, 0.79), record(0.6, 0.81), record(0.7, 0.85), record(0.8, 0.9, 0.9)]
    assert best_feasible(history, 0.8) is history[2]
    assert best_feasible(history) is history[4]
    assert best_feasible([]) is None


def test_returns_are_gains_over_the_start_plan():
    search = RandomSearch().learn(SyntheticPruning(), 5)
    for record in search.history:
        assert record["return"] == pytest.approx(record["score"] - search.history[0]["score"])


def test_uniform_and_knapsack_measure_just_their_start_plan():
    env = SyntheticPruning(start=[20, 5, 5, 5, 5, 5, 5, 5])
    env.start_plans = {"uniform": "uniform", "knapsack": env.start}
    for search in (UniformSearch(), KnapsackSearch()):
        search.learn(env, 100)
        assert len(search.history) == 1
        assert search.best is None or search.best is search.history[0]
    assert len(env.archive) == 2


def test_a_callback_sees_every_record_and_can_stop():
    seen = []
    agent = RSPARAgent(8, FEATURES, hidden_dim=16)
    agent.learn(SyntheticPruning(), 50, callback=lambda record: seen.append(record) or len(seen) < 4)
    assert seen == agent.history
    assert len(seen) == 4


def test_predict_repeats_the_best_move():
    env = SyntheticPruning()
    search = RandomSearch().learn(env, 20)
    observation, _ = env.reset()
    action, _ = search.predict(observation)
    _, _, _, _, info = env.step(action)
    assert info["kept"].tolist() == search.best["kept"]
    assert search.predict(np.stack([observation, observation]))[0].shape == (2, 8)


def test_actions_are_brought_onto_the_target_by_the_smallest_shift():
    imagination = imagine(SyntheticPruning(units=64))
    actions = np.random.default_rng(0).normal(0, 0.4, (200, 8)).clip(-1, 1)
    moves = imagination.on_target(actions)
    assert (moves.reductions >= 0.8).all()
    assert (moves.reductions <= 0.81).all()
    inside = (np.abs(actions) < 0.5).all(1) & (np.abs(moves.actions) < 0.999).all(1)
    assert inside.any()
    shifts = (moves.actions - actions)[inside]
    np.testing.assert_allclose(shifts, np.broadcast_to(shifts[:, :1], shifts.shape), atol=1e-6)


def test_no_shift_is_looked_for_where_the_environment_projects():
    env = SyntheticPruning(units=64)
    env.constraint = SimpleNamespace(projects=True)
    actions = np.random.default_rng(0).normal(0, 0.4, (20, 8)).clip(-1, 1).astype(np.float32)
    np.testing.assert_array_equal(imagine(env).on_target(actions).actions, actions)


def test_expected_improvement_is_the_integral():
    env = SyntheticPruning()
    imagination = imagine(env)
    rng = np.random.default_rng(1)
    for kept in imagination.on_target(perturbed(np.zeros((1, 8)), 20, rng)).kept:
        env.kept = kept
        env._measure()
    imagination.experience.absorb(env)
    moves = imagination.on_target(perturbed(np.zeros((1, 8)), 10, rng))
    from agents.model.experience import damage

    belief = imagination.experience.model.predict(damage(env.problem, moves.kept))
    draws = belief.mean[:, None] + belief.std[:, None] * rng.standard_normal((10, 200_000))
    gains = np.maximum(from_log_odds(draws) - imagination.best_score(), 0).mean(1)
    np.testing.assert_allclose(ExpectedImprovement(nodes=64)(imagination, moves), gains, rtol=0.05, atol=1e-4)


def test_proposals_are_new_plans_on_the_target():
    env = SyntheticPruning()
    imagination = imagine(env)
    samples = np.random.default_rng(0).normal(0, 0.2, (64, 8)).clip(-1, 1).astype(np.float32)
    action = Proposer(ExpectedImprovement()).propose(imagination, samples, np.random.default_rng(0))
    moves = imagination.moves(action[None])
    assert imagination.meets_target(moves.reductions).all()
    assert imagination.is_new(moves).all()


def test_a_learned_reward_finds_better_plans_than_random_moves():
    def final(search):
        return [search(seed).learn(SyntheticPruning(seed=1), 32).best["score"] for seed in range(2)]

    informed = final(lambda seed: RSPARAgent(8, FEATURES, hidden_dim=32, seed=seed))
    blind = final(lambda seed: RandomSearch(0.2, seed=seed))
    assert min(informed) > max(blind)


def test_practice_makes_the_policy_itself_better_than_the_start_plan():
    env = SyntheticPruning(seed=1)
    agent = RSPARAgent(8, FEATURES, hidden_dim=64, seed=0).learn(env, 32)
    observation, _ = env.reset()
    action, _ = agent.predict(observation, deterministic=True)
    _, gain, _, _, _ = env.step(action)
    assert gain > 0.3 * agent.best["return"] > 0


def test_searching_needs_a_pruning_environment():
    for search in (RandomSearch(), UniformSearch()):
        with pytest.raises(TypeError, match="IdentityEnv is not a pruning environment"):
            search.learn(IdentityEnv(), 3)


def test_one_run_serves_many_targets_and_shares_what_it_measures():
    env = SyntheticPruning(targets=(0.7, 0.75, 0.8))
    agent = RSPARAgent(8, FEATURES, hidden_dim=16).learn(env, 24)
    asked = {record["target_flops_reduction"] for record in agent.history}
    assert asked == {0.7, 0.75, 0.8}
    for record in agent.history[1:]:
        assert 0 <= record["flops_reduction"] - record["target_flops_reduction"] <= 0.02
    assert len(agent.experience.plans) == len(env.archive) == agent.history[-1]["measured_evaluations"]
    assert agent.best["target_flops_reduction"] == agent.history[-1]["target_flops_reduction"]


def test_a_reward_that_weighs_latency_is_searched_too():
    env = make_tiny_env(reward="latency")
    assert env.unwrapped.reward.cost == "latency"
    layout = env.unwrapped.layout
    for search in (RSPARAgent(layout.num_layers, layout.feature_dim, hidden_dim=16), RandomSearch()):
        search.learn(env, 4)
        assert np.isfinite([record["score"] for record in search.history]).all()
