import numpy as np
import pytest

from prune_gym.envs.constraint import HardConstraint, SoftConstraint, TargetRange, make_constraint
from prune_gym.envs.reward import REWARD_NAMES, LambdaSchedule, make_reward, violation


@pytest.mark.parametrize(("reduction", "expected"), [(0.9, 0.0), (0.8, 0.0), (0.4, 0.5), (0.0, 1.0)])
def test_violation_is_the_relative_shortfall(reduction, expected):
    assert violation(reduction, 0.8) == pytest.approx(expected)
    np.testing.assert_allclose(violation(np.array([reduction]), np.array([0.8])), [expected])


def test_lambda_follows_its_formula_and_falls_with_the_accuracy_lost():
    schedule = LambdaSchedule(2.0, 3.0)
    assert schedule(0.0) == 2.0
    assert schedule(0.1) == pytest.approx(2.0 * np.exp(-0.3))
    assert schedule(0.5) < schedule(0.1) < schedule(-0.1)


def test_a_fixed_lambda_stays():
    schedule = make_reward("accuracy_flops_fixed", 2.0, 3.0).schedule
    assert schedule(0.9) == schedule(0.0) == 2.0


def test_amc_rewards_follow_the_paper():
    assert make_reward("amc_accuracy").value(0.7, 1e6) == 0.7
    assert make_reward("amc_flops").value(0.7, 1e6) == pytest.approx(-0.3 * np.log(1e6))


@pytest.mark.parametrize("name", REWARD_NAMES)
def test_every_reward_values_arrays_as_it_values_numbers(name):
    reward = make_reward(name)
    quality, flops = np.array([0.1, 0.5, 0.9]), np.array([1e6, 2e6, 3e6])
    one_by_one = [reward.value(q, f) for q, f in zip(quality, flops, strict=True)]
    np.testing.assert_allclose(reward.value(quality, flops), one_by_one)
    assert make_reward(reward) is reward


@pytest.mark.parametrize(
    ("make", "name", "message"),
    [
        (make_reward, "acuracy_flops", "did you mean 'accuracy_flops'"),
        (make_reward, 3, "unknown reward 3"),
        (make_constraint, "softt", "did you mean 'soft'"),
    ],
)
def test_unknown_names_are_answered_with_the_nearest(make, name, message):
    with pytest.raises(ValueError, match=message):
        make(name)


def test_constraints_by_name():
    assert make_constraint("soft") == SoftConstraint()
    assert make_constraint("hard") == HardConstraint()
    assert make_constraint(HardConstraint()) == HardConstraint()


@pytest.mark.parametrize("arguments", [(-1.0, 1.0), (1.0, float("nan")), (float("inf"), 0.0)])
def test_lambda_settings_out_of_range_are_refused(arguments):
    with pytest.raises(ValueError, match=r"lambda_0|tau"):
        make_reward("accuracy_flops", *arguments)


@pytest.mark.parametrize("given", ["0.9", 1.0, 0.0, -0.2, True, (0.5,), (0.9, 0.5), (0.5, 0.6, 0.7), [0.5, "x"]])
def test_targets_that_are_none_are_refused(given):
    with pytest.raises(ValueError, match="target is a fraction"):
        TargetRange.of(given, 0.5)


def test_targets_are_sampled_from_an_even_grid_that_includes_both_ends():
    targets = TargetRange.of((0.5, 0.545), 0.9)
    generator = np.random.default_rng(0)
    drawn = sorted({targets.sample(generator) for _ in range(200)})
    np.testing.assert_allclose(drawn, np.linspace(0.5, 0.545, 6))
    assert TargetRange.of(None, 0.9).sample(generator) == 0.9
