import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from prune_gym.envs.hobs_prune import HOBSPruneEnv
from prune_gym.problem import PruningProblem
from prune_gym.training import evaluate_model
from tests.prune_gym.tiny import tiny_task


@pytest.fixture(scope="module")
def problem(tmp_path_factory: pytest.TempPathFactory) -> PruningProblem:
    return PruningProblem(tiny_task(), cache_dir=tmp_path_factory.mktemp("cache")).load()


def make(problem: PruningProblem, **kwargs) -> HOBSPruneEnv:
    return HOBSPruneEnv(problem=problem, **kwargs)


def random_actions(env: HOBSPruneEnv, count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-1, 1, (count, *env.action_space.shape)).astype(np.float32)


# ---------------------------------------------------------------------- what an episode is


def test_reset_starts_at_the_start_plan_and_measures_it_once(problem):
    env = make(problem)
    observation, info = env.reset(seed=0)
    start = problem.start_plan("knapsack", 0.7)
    np.testing.assert_array_equal(info["kept"], start)
    assert info["measured_evaluations"] == 1
    assert env.reset()[1]["measured_evaluations"] == 1
    slices = env.layout.slices
    np.testing.assert_allclose(observation[slices["ratios"]], 1 - start / problem.cost.units, rtol=1e-6)
    np.testing.assert_allclose(env.layout.features(observation), problem.features, rtol=1e-6)
    drop = problem.dense.soft_accuracy - info["soft_accuracy"]
    expected = [drop, info["flops_reduction"], 0.7, info["lambda"], 0.0]
    np.testing.assert_allclose(observation[slices["globals"]], expected, rtol=1e-6)


@pytest.mark.parametrize("constraint", ["soft", "hard"])
@pytest.mark.parametrize("start", ["knapsack", "uniform"])
def test_action_zero_stays(problem, constraint, start):
    env = make(problem, constraint=constraint, start=start, horizon=3)
    _, info = env.reset(seed=0)
    for _ in range(3):
        _, reward, _, _, after = env.step(np.zeros(3, dtype=np.float32))
        np.testing.assert_array_equal(after["kept"], info["kept"])
        assert reward == 0.0
        assert after["measured_evaluations"] == 1


def test_an_action_moves_ratios_in_logit_space(problem):
    env = make(problem, action_scale=1.5)
    _, info = env.reset(seed=0)
    action = np.array([0.6, -0.4, 0.2], dtype=np.float32)
    after = env.step(action)[4]["kept"]
    units = problem.cost.units
    ratio = np.clip(1 - info["kept"] / units, 0.25 / units, None)
    moved = np.log(ratio / (1 - ratio)) + 1.5 * action
    expected = np.clip(np.rint(units / (1 + np.exp(moved))), 1, units)
    np.testing.assert_array_equal(after, expected)


def test_rewards_add_up_to_the_gain_over_the_start_plan(problem):
    env = make(problem, horizon=5)
    _, info = env.reset(seed=0)
    start, total, ends = info["score"], 0.0, []
    for action in random_actions(env, 5):
        _, reward, terminated, truncated, info = env.step(0.3 * action)
        assert reward == pytest.approx(sum(info["rewards"].values()), abs=1e-12)
        total += reward
        ends.append(terminated)
        assert truncated is False
    assert total == pytest.approx(info["score"] - start)
    assert ends == [False] * 4 + [True]


def test_the_score_is_soft_accuracy_minus_the_weighted_violation(problem):
    env = make(problem, lambda_0=2.0)
    env.reset(seed=0)
    _, _, _, _, info = env.step(np.full(3, -1.0, dtype=np.float32))
    assert info["violation"] == pytest.approx((0.7 - info["flops_reduction"]) / 0.7)
    assert info["violation"] > 0
    assert info["score"] == pytest.approx(info["soft_accuracy"] - 2.0 * info["violation"])
    np.testing.assert_allclose(env.score_of(info["soft_accuracy"], info["flops_reduction"]), info["score"])


@pytest.mark.parametrize("fidelity", ["measured", "predicted"])
def test_the_hard_constraint_keeps_every_plan_on_the_target(problem, fidelity):
    env = make(problem, constraint="hard", fidelity=fidelity, horizon=8)
    env.reset(seed=0)
    for action in random_actions(env, 8):
        info = env.step(action)[4]
        assert info["flops_reduction"] >= 0.7
        assert info["violation"] == 0.0
        assert info["score"] == info["soft_accuracy"]


def test_lambda_adapts_between_episodes_and_a_seeded_reset_restores_it(problem):
    env = make(problem, lambda_0=2.0, tau=3.0, horizon=2)
    _, info = env.reset(seed=0)
    assert info["lambda"] == 2.0
    for _ in range(2):
        info = env.step(np.full(3, 0.5, dtype=np.float32))[4]
        assert info["lambda"] == 2.0
    drop = problem.dense.soft_accuracy - info["soft_accuracy"]
    _, info = env.reset()
    assert info["lambda"] == pytest.approx(2.0 * np.exp(-3.0 * drop))
    assert info["score"] == info["soft_accuracy"]
    assert env.reset(seed=0)[1]["lambda"] == 2.0


def test_a_range_of_targets_is_sampled_and_an_option_sets_one(problem):
    env = make(problem, target_flops_reduction=(0.5, 0.6), fidelity="predicted")
    env.reset(seed=3)
    targets = {env.reset()[1]["target_flops_reduction"] for _ in range(60)}
    assert len(targets) == 11
    assert min(targets) == 0.5
    assert max(targets) == 0.6
    observation, info = env.reset(options={"target": 0.4})
    assert info["target_flops_reduction"] == 0.4
    assert observation[env.layout.slices["target_flops_reduction"]] == np.float32(0.4)
    assert 0.4 <= info["flops_reduction"] < 0.5


def test_success_is_meeting_the_target_with_a_gain(problem):
    env = make(problem, constraint="hard", fidelity="predicted", start="uniform")
    seen = set()
    for action in random_actions(env, 30):
        start = env.reset(seed=0)[1]
        assert start["is_success"] is False
        info = env.step(action)[4]
        assert info["is_success"] == (info["score"] > start["score"])
        seen.add(info["is_success"])
    assert seen == {True, False}


# ---------------------------------------------------------------------- measuring


def test_revisits_are_free_and_not_counted(problem, monkeypatch):
    env = make(problem, horizon=3)
    env.reset(seed=0)
    action = np.array([0.5, -0.5, 0.5], dtype=np.float32)
    env.step(action)
    calls = []
    monkeypatch.setattr(problem.evaluator, "_measure", calls.append)
    for _ in range(3):
        env.reset(seed=0)
        assert env.step(action)[4]["measured_evaluations"] == 2
    assert calls == []


def test_two_environments_on_one_problem_count_for_themselves(problem):
    first, second = make(problem), make(problem)
    first.reset(seed=0)
    first.step(np.full(3, 0.4, dtype=np.float32))
    assert second.reset(seed=0)[1]["measured_evaluations"] == 1


def test_predicted_fidelity_measures_nothing_and_predicts_what_the_problem_predicts(problem, monkeypatch):
    env = make(problem, fidelity="predicted")
    _ = problem.predictor
    monkeypatch.setattr(problem.evaluator, "_measure", lambda kept: pytest.fail("measured"))
    env.reset(seed=0)
    info = env.step(np.full(3, 0.4, dtype=np.float32))[4]
    assert info["measured_evaluations"] == 0
    assert info["soft_accuracy"] == problem.predicted_score(info["kept"])


def test_random_moves_change_the_score(problem):
    env = make(problem, constraint="hard")
    scores = {}
    for action in random_actions(env, 30):
        env.reset(seed=0)
        info = env.step(action)[4]
        scores[tuple(info["kept"])] = info["score"]
    assert len(set(scores.values())) == len(scores) >= 4


def test_the_exported_network_is_what_the_environment_measured(problem):
    env = make(problem, constraint="hard")
    env.reset(seed=0)
    info = env.step(np.array([1.0, -1.0, 0.3], dtype=np.float32))[4]
    small = env.export()
    result = evaluate_model(small, problem.task.reward)
    assert result.accuracy == pytest.approx(info["accuracy"])
    assert result.soft_accuracy == pytest.approx(info["soft_accuracy"], abs=1e-4)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        small(problem.task.example_input[:1])
    assert 1 - counter.get_total_flops() / problem.cost.dense_flops == info["flops_reduction"]


def test_plan_and_budgets_describe_the_kept_counts(problem):
    env = make(problem)
    env.reset(seed=0)
    kept = env.kept
    for group, count in zip(problem.groups, kept, strict=True):
        assert len(env.plan().get(group.name, [])) == group.num_units - count
        assert env.budgets[group.name] == pytest.approx(1 - count / group.num_units)


# ---------------------------------------------------------------------- imagining, forking, choosing


@pytest.mark.parametrize("constraint", ["soft", "hard"])
def test_decode_says_where_actions_lead(problem, constraint):
    env = make(problem, constraint=constraint, fidelity="predicted")
    env.reset(seed=0)
    actions = random_actions(env, 40)
    decoded = env.decode(actions)
    assert decoded.shape == (40, 3)
    for action, expected in zip(actions, decoded, strict=True):
        env.reset(seed=0)
        np.testing.assert_array_equal(env.step(action)[4]["kept"], expected)
    elsewhere = np.array([2, 6, 9])
    np.testing.assert_array_equal(
        env.decode(actions.reshape(4, 10, 3), elsewhere)[1, 2], env.decode(actions[12], elsewhere)
    )


def test_score_of_is_vectorized(problem):
    env = make(problem, reward="accuracy_flops", lambda_0=3.0)
    env.reset(seed=0)
    scores = env.score_of(np.array([[0.9], [0.8]]), np.array([0.7, 0.35]))
    np.testing.assert_allclose(scores, [[0.9, 0.9 - 1.5], [0.8, 0.8 - 1.5]])


def test_a_fork_goes_its_own_way_from_the_same_state(problem):
    env = make(problem, horizon=4, target_flops_reduction=(0.5, 0.7))
    env.reset(seed=0)
    env.step(np.full(3, 0.2, dtype=np.float32))
    fork = env.fork()
    actions = random_actions(env, 3)
    forked = [fork.step(action)[:4] for action in actions]
    assert fork.archive is env.archive
    own = [env.step(action)[:4] for action in actions]
    for ours, theirs in zip(own, forked, strict=True):
        np.testing.assert_array_equal(ours[0], theirs[0])
        assert ours[1:] == theirs[1:]
    assert env.reset()[1]["target_flops_reduction"] == fork.reset()[1]["target_flops_reduction"]
    assert env.fork(fidelity="predicted").fidelity == "predicted"


def test_best_plan_is_the_best_measured_one_within_the_tolerance(problem):
    env = make(problem, start="uniform")
    env.reset(seed=0)
    assert env.best_plan()[0].tolist() == problem.start_plan("uniform", 0.7).tolist()
    for action in random_actions(env, 40):
        env.reset()
        env.step(action)
    kept, evaluation = env.best_plan(tolerance=0.05)
    legal = [
        measured for plan, measured in env.archive.items() if 0.7 <= problem.cost.reduction(np.array(plan)) <= 0.75
    ]
    assert 0.7 <= problem.cost.reduction(kept) <= 0.75
    assert evaluation.soft_accuracy == max(measured.soft_accuracy for measured in legal)
    assert env.archive[tuple(kept.tolist())] == evaluation


def test_violating_the_target_does_not_pay_at_the_default_lambda(problem):
    """The best plan of all, by the default score, is one that meets the target (every plan, predicted)."""
    env = make(problem, fidelity="predicted")
    plans = np.stack(np.meshgrid(*(np.arange(1, n + 1) for n in problem.cost.units)), -1).reshape(-1, 3)
    reductions = problem.cost.reduction(plans)
    for target in (0.3, 0.5, 0.7):
        env.reset(seed=0, options={"target": target})
        scores = env.score_of(problem.predicted_score(plans), reductions)
        assert reductions[scores.argmax()] >= target
        weak = make(problem, fidelity="predicted", lambda_0=0.01)
        weak.reset(seed=0, options={"target": target})
        scores = weak.score_of(problem.predicted_score(plans), reductions)
        assert reductions[scores.argmax()] < target


@pytest.mark.parametrize("reward", ["accuracy_flops_fixed", "top1_flops", "amc_flops", "amc_accuracy"])
def test_other_rewards_score_by_their_own_formula(problem, reward):
    env = make(problem, reward=reward, constraint="hard")
    env.reset(seed=0)
    info = env.step(np.full(3, 0.3, dtype=np.float32))[4]
    flops = (1 - info["flops_reduction"]) * problem.cost.dense_flops
    expected = {
        "accuracy_flops_fixed": info["soft_accuracy"],
        "top1_flops": info["accuracy"],
        "amc_accuracy": info["accuracy"],
        "amc_flops": -(1 - info["accuracy"]) * np.log(flops),
    }
    assert info["score"] == pytest.approx(expected[reward])


def test_rounding_and_floors_are_kept(problem):
    env = make(problem, round_to=4, min_channels=4, horizon=5, target_flops_reduction=0.4)
    env.reset(seed=0)
    for action in random_actions(env, 5):
        kept = env.step(action)[4]["kept"]
        assert (kept % 4 == 0).all()
        assert (kept >= 4).all()


def test_render_shows_every_layer(problem):
    env = make(problem, render_mode="ansi")
    env.reset(seed=0)
    text = env.render()
    assert all(name in text for name in problem.layer_names)
    assert "target 0.7000" in text
    assert make(problem).render() is None
    env = make(problem, render_mode="rgb_array")
    env.reset(seed=0)
    whole = env.render()
    assert whole.shape == (480, 800, 3)
    assert whole.dtype == np.uint8
    env.step(np.full(3, 0.8, dtype=np.float32))
    assert (env.render() != whole).any()


@pytest.mark.parametrize("constraint", ["soft", "hard"])
def test_undo_goes_back_a_step(problem, constraint):
    env = make(problem, constraint=constraint, horizon=3)
    observation, info = env.reset(seed=0)
    seen = [(observation, info)]
    for action in random_actions(env, 3):
        observation, _, _, _, info = env.step(0.5 * action)
        seen.append((observation, info))
    for observation, info in seen[-2::-1]:
        back, information = env.undo()
        np.testing.assert_array_equal(back, observation)
        np.testing.assert_array_equal(information["kept"], info["kept"])
        assert information["score"] == info["score"]
    with pytest.raises(RuntimeError, match="no step to take back"):
        env.undo()
    assert env.step(random_actions(env, 1)[0])[2] is False


@pytest.mark.parametrize("features", ["kfac", "cost", "amc", ("log_price_50", "previous_ratio")])
def test_features_are_chosen_by_name(problem, features):
    env = make(problem, features=features, fidelity="predicted")
    observation, _ = env.reset(seed=0)
    names = env.layout.feature_names
    assert observation.shape == (3 * (len(names) + 1) + 5,)
    assert env.observation_space.contains(observation)
    if "previous_ratio" in names:
        ratios = observation[env.layout.slices["ratios"]]
        np.testing.assert_array_equal(env.layout.feature(observation, "previous_ratio"), [0.0, *ratios[:-1]])
    if features == "amc":
        assert len(names) == 11
        rest = env.layout.feature(observation, "rest_flops")
        assert (np.diff(rest) < 0).all()
        assert rest[-1] == 0.0
        flops = [problem.cost.module_flops(group.name, problem.cost.units) for group in problem.groups]
        assert rest[0] == pytest.approx(sum(flops[1:]) / sum(flops))


def test_the_latency_reward_is_mnasnets_on_a_table_measured_once(problem, monkeypatch):
    env = make(problem, reward="latency", constraint="hard")
    _, info = env.reset(seed=0)
    table = problem.latency_table
    relative = table(info["kept"]) / table(problem.cost.units)
    assert info["score"] == pytest.approx(info["soft_accuracy"] * relative**-0.07)
    assert env.best_plan()[0].tolist() == info["kept"].tolist()
    with pytest.raises(ValueError, match="needs the plans"):
        env.score_of(np.array([0.5]), np.array([0.7]))
    monkeypatch.setattr("prune_gym.cost.latency.measure", lambda *given: pytest.fail("measured again"))
    other = PruningProblem(tiny_task(), cache_dir=problem._cache_dir)
    np.testing.assert_array_equal(other.latency_table(info["kept"]), table(info["kept"]))


def test_the_repair_is_a_keyword(tmp_path):
    scores = {}
    for repair in ("sequential", "closed_form"):
        env = HOBSPruneEnv(task=tiny_task(), repair=repair, cache_dir=str(tmp_path), constraint="hard")
        env.reset(seed=0)
        assert env.problem.repair == repair
        scores[repair] = env.step(np.full(3, 0.4, dtype=np.float32))[4]["score"]
    assert scores["sequential"] != scores["closed_form"]
    with pytest.raises(ValueError, match="a fork shares the problem"):
        env.fork(repair="sequential")


# ---------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"constraint": "sofft"}, "did you mean 'soft'"),
        ({"reward": "amc"}, "unknown reward 'amc'"),
        ({"fidelity": "predict"}, "did you mean 'predicted'"),
        ({"start": "knap"}, "unknown start 'knap'"),
        ({"features": "kfca"}, "did you mean 'kfac'"),
        ({"features": ("log_unit", "depth")}, "unknown feature 'log_unit'; did you mean 'log_unit"),
        ({"features": ("depth", "depth")}, "named once each"),
        ({"reward": "latancy"}, "did you mean 'latency'"),
        ({"render_mode": "human"}, "unknown render_mode 'human'"),
        ({"horizon": 0}, "horizon is a number of moves"),
        ({"action_scale": -1.0}, "action_scale is a positive number"),
        ({"max_pruning_ratio": 1.0}, "max_pruning_ratio is a fraction"),
        ({"target_flops_reduction": 0.999}, r"out of reach: this network reaches \[0, "),
        ({"target_flops_reduction": 0.9, "max_pruning_ratio": 0.3}, "out of reach"),
        ({"target_flops_reduction": 90}, r"fraction in \(0, 1\)"),
        ({"reward": "amc_accuracy"}, "use constraint='hard'"),
    ],
)
def test_bad_arguments_are_explained(problem, kwargs, message):
    with pytest.raises(ValueError, match=message):
        make(problem, **kwargs)


@pytest.mark.parametrize(
    ("action", "message"),
    [
        (np.array([0.0, np.nan, 0.0]), "finite numbers"),
        (np.array([0.0, np.inf, 0.0]), "finite numbers"),
        (np.zeros(4), r"shape \(3,\).*got \(4,\)"),
        (0.5, r"shape \(3,\).*got \(\)"),
    ],
)
def test_bad_actions_are_refused_and_change_nothing(problem, action, message):
    env = make(problem)
    env.reset(seed=0)
    before = env.kept
    with pytest.raises(ValueError, match=message):
        env.step(action)
    np.testing.assert_array_equal(env.kept, before)
    assert env.step(np.zeros(3, dtype=np.float32))[2] is True


def test_using_an_environment_too_early_or_too_late_is_an_error(problem):
    env = make(problem)
    for use in (lambda: env.step(np.zeros(3)), env.plan, lambda: env.kept, env.export, lambda: env.decode(np.zeros(3))):
        with pytest.raises(RuntimeError, match=r"call reset\(\) first"):
            use()
    env.reset(seed=0)
    env.step(np.zeros(3))
    with pytest.raises(RuntimeError, match=r"episode is over; call reset\(\)"):
        env.step(np.zeros(3))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"targt": 0.5}, "did you mean 'target'"),
        ({"target": 0.9999}, "out of reach"),
        ({"target": (0.5, 0.6)}, "single"),
    ],
)
def test_bad_reset_options_are_explained(problem, options, message):
    with pytest.raises(ValueError, match=message):
        make(problem).reset(options=options)
