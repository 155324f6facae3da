import numpy as np
import pytest

from agents.model.covariance import DimensionScaled, TrendAndMatern
from agents.model.experience import Experience, damage
from agents.model.imagination import Imagination
from agents.model.reward_model import RewardModel, from_log_odds, log_odds
from tests.agents.synthetic import SyntheticPruning


def measured(count, seed=0, dims=4):
    """A smooth function of the damage, linear plus an interaction, in log-odds."""
    rng = np.random.default_rng(seed)
    inputs = rng.normal(size=(count, dims))
    outputs = 2.0 - inputs @ np.linspace(0.2, 0.8, dims) - 0.3 * inputs[:, 0] * inputs[:, 1]
    return inputs, from_log_odds(outputs)


def fitted(count, **settings):
    model = RewardModel(**settings)
    for row, accuracy in zip(*measured(count), strict=True):
        model.add(row, accuracy)
    return model


def test_log_odds_are_inverted_and_stay_finite():
    probabilities = np.array([0.002, 0.3, 0.998])
    np.testing.assert_allclose(from_log_odds(log_odds(probabilities)), probabilities)
    assert np.isfinite(log_odds(np.array([0.0, 1.0]))).all()


def test_posterior_is_that_of_dense_gaussian_algebra():
    model = fitted(12)
    probe = measured(5, seed=1)[0]
    prediction = model.predict(probe)
    inputs, accuracies = measured(12)
    outputs = log_odds(accuracies)
    centre, spread = outputs.mean(), outputs.std()
    kernel = model._process.kernel_
    shifted, probe = inputs - inputs[0], probe - inputs[0]
    covariance, cross = kernel(shifted), kernel(probe, shifted)
    mean = centre + spread * cross @ np.linalg.solve(covariance, (outputs - centre) / spread)
    variance = np.diag(kernel(probe)) - np.einsum("ij,ji->i", cross, np.linalg.solve(covariance, cross.T))
    np.testing.assert_allclose(prediction.mean, mean, rtol=1e-6)
    np.testing.assert_allclose(prediction.std, spread * np.sqrt(variance), rtol=1e-5)


def test_more_measurements_predict_better_than_the_mean_and_than_fewer():
    probe, accuracies = measured(200, seed=2)
    errors = [np.abs(fitted(count).predict(probe).mean - log_odds(accuracies)).mean() for count in (8, 64)]
    spread = np.abs(log_odds(accuracies) - log_odds(accuracies).mean()).mean()
    assert errors[1] < 0.5 * errors[0]
    assert errors[1] < 0.2 * spread


def test_uncertainty_is_small_where_measured_and_large_far_away():
    model = fitted(40)
    here = model.predict(measured(40)[0]).std.max()
    far = model.predict(np.full((1, 4), 6.0)).std.item()
    assert here < 0.3 * far


def test_hyper_parameters_are_fitted_only_when_due():
    model = fitted(10, refit_every=8)
    rows, accuracies = measured(40, seed=3)
    seen = []
    for row, accuracy in zip(rows, accuracies, strict=True):
        model.predict(rows[:1])
        seen.append(tuple(model._hyperparameters))
        model.add(row, accuracy)
    assert len(set(seen)) == 5


def test_a_restored_model_predicts_the_same_bit_for_bit():
    model = fitted(21)
    probe = measured(30, seed=4)[0]
    model.predict(probe)
    model.add(*[column[0] for column in measured(1, seed=5)])
    restored = RewardModel()
    restored.load_state(model.state())
    for original, copy in zip(vars(model.predict(probe)).values(), vars(restored.predict(probe)).values(), strict=True):
        assert np.array_equal(original, copy)


def test_a_quadratic_trend_knows_a_hill_after_fewer_measurements():
    """Between layers that share a sum the best share lies in the middle, as it does among plans on a target."""
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(60, 6))
    outputs = 1.0 - 0.5 * (inputs**2).sum(axis=1) + inputs[:, 0] * inputs[:, 1]
    errors = {}
    for trend in ("linear", "quadratic"):
        model = RewardModel(covariance=TrendAndMatern(trend))
        for row, value in zip(inputs[:40], outputs, strict=False):
            model.add(row, float(from_log_odds(value)))
        errors[trend] = np.abs(model.predict(inputs[40:]).mean - log_odds(from_log_odds(outputs[40:]))).mean()
    assert errors["quadratic"] < 0.2 * errors["linear"]


def test_an_unknown_trend_is_an_error():
    with pytest.raises(ValueError, match="'trend' must be one of linear, quadratic, got 'cubic'"):
        TrendAndMatern("cubic")


def test_predicting_before_any_measurement_is_an_error():
    with pytest.raises(ValueError, match="no measured plan"):
        RewardModel().predict(np.zeros((1, 3)))


def test_damage_grows_with_what_is_removed_and_ends_with_the_sum():
    env = SyntheticPruning(num_layers=3)
    kept = np.array([[32, 32, 32], [16, 32, 32], [8, 32, 16]])
    features = damage(env.problem, kept)
    assert features.shape == (3, 4)
    assert (np.diff(features[:, 0]) > 0).all()
    np.testing.assert_allclose(np.log(np.exp(features[:, :3]).sum(1)), features[:, 3])


def test_the_imagined_ranking_follows_the_true_one():
    env = SyntheticPruning()
    _, info = env.reset(seed=0)
    experience = Experience("", RewardModel())
    imagination = Imagination(env, experience, info["kept"], env.target)
    actions = np.random.default_rng(0).normal(0, 0.3, (160, env.num_layers)).clip(-1, 1)
    moves = imagination.on_target(actions)
    for kept in moves.kept[:80]:
        env.kept = kept
        env._measure()
    experience.absorb(env)
    believed, true = imagination.scores(moves)[80:], env.soft_accuracy(moves.kept)[80:]
    ranks = [np.argsort(np.argsort(values)) for values in (believed, true)]
    assert np.corrcoef(*ranks)[0, 1] > 0.9


def shifted(count, prior, slope=1.0, seed=5):
    """Measurements of another problem: the same function but for an offset (and with slope -1, its opposite)."""
    inputs, accuracies = measured(count, seed)
    model = RewardModel(prior=prior)
    for row, value in zip(inputs, log_odds(accuracies), strict=True):
        model.add(row, float(from_log_odds(slope * value - 1.0)))
    return model


def ranks(values):
    return np.argsort(np.argsort(values))


def test_another_problems_model_ranks_plans_from_the_first_measurement():
    probe, accuracies = measured(50, seed=3)
    begun, blank = shifted(1, fitted(60)), shifted(1, None)
    assert np.corrcoef(ranks(begun.predict(probe).mean), ranks(accuracies))[0, 1] > 0.9
    assert np.ptp(blank.predict(probe).mean) < 1e-6
    assert len(begun) == 1, "what was measured on the other problem does not count here"


def test_a_prior_that_measurements_contradict_is_given_up():
    probe = measured(50, seed=3)[0]
    wrong = shifted(16, fitted(60), slope=-1.0)
    np.testing.assert_array_equal(wrong.predict(probe).mean, shifted(16, None, slope=-1.0).predict(probe).mean)
    right = shifted(16, fitted(60))
    assert not np.array_equal(right.predict(probe).mean, shifted(16, None).predict(probe).mean)


@pytest.mark.parametrize("slope", [1.0, -1.0])
def test_a_model_with_a_prior_goes_on_from_its_state(slope):
    probe = measured(5, seed=3)[0]
    model = shifted(12, fitted(20), slope)
    expected = model.predict(probe)
    restored = RewardModel()
    restored.load_state(model.state())
    found = restored.predict(probe)
    assert np.array_equal(found.mean, expected.mean)
    assert np.array_equal(found.std, expected.std)


def test_length_scales_of_few_plans_in_many_dimensions_stay_where_they_are_expected():
    inputs, accuracies = measured(6, dims=24)
    model = RewardModel(covariance=DimensionScaled())
    for row, accuracy in zip(inputs, accuracies, strict=True):
        model.add(row, accuracy)
    model.predict(inputs)
    mode = np.sqrt(2) + np.log(24) / 2 - 3.0
    np.testing.assert_allclose(model._hyperparameters[:-1], mode, atol=0.5)


def test_the_gradient_of_the_prior_of_hyper_parameters_is_its_slope():
    covariance, theta, step = DimensionScaled(), np.array([0.3, 2.0, -1.0, -3.0]), 1e-6
    slopes = [
        (covariance.log_prior(theta + step * unit)[0] - covariance.log_prior(theta - step * unit)[0]) / (2 * step)
        for unit in np.eye(4)
    ]
    np.testing.assert_allclose(covariance.log_prior(theta)[1], slopes, rtol=1e-6)


def test_a_prior_may_look_at_kept_units():
    class FewerUnitsAreWorse:
        def expected(self, damages, kept=None):
            return np.log(kept).sum(axis=-1)

    inputs, accuracies = measured(3)
    model = RewardModel(prior=FewerUnitsAreWorse())
    for row, accuracy, kept in zip(inputs, accuracies, [[4, 4], [3, 4], [2, 4]], strict=True):
        model.add(row, accuracy, np.array(kept))
    same = np.zeros((2, 4))
    believed = model.expected(same, np.array([[4, 4], [1, 1]]))
    assert believed[0] - believed[1] == pytest.approx(np.log(16))
