import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.isotonic import IsotonicRegression

from prune_gym.measuring import monotone


@settings(max_examples=50)
@given(y=st.lists(st.floats(-5, 5), min_size=1, max_size=30))
def test_isotonic_fit_equals_scikit_learns(y):
    x = np.arange(len(y), dtype=float)
    centres, means = monotone.isotonic(x, np.array(y))
    blocks = np.repeat(means, np.diff(np.append(np.searchsorted(x, _starts(centres)), len(x))))
    np.testing.assert_allclose(blocks, IsotonicRegression().fit_transform(x, y), atol=1e-9)
    assert (np.diff(means) > 0).all()


def _starts(centres: np.ndarray) -> np.ndarray:
    """First x of every block of consecutive whole numbers, from the blocks' centres."""
    starts, first = [], 0.0
    for centre in centres:
        starts.append(first)
        first = 2 * centre - first + 1
    return np.array(starts)


def test_measurements_that_are_all_alike_have_no_rank_correlation():
    assert monotone.fit(np.arange(5.0), np.ones((5, 3))).rank_correlation == 0.0


def fitted(noise: float = 0.0) -> tuple[np.ndarray, np.ndarray, monotone.PredictedMetrics]:
    rng = np.random.default_rng(1)
    x = rng.uniform(-8, 0, 25)
    accuracy = 1 / (1 + np.exp(x + 3)) + noise * rng.normal(size=25)
    measured = np.stack([accuracy, 0.9 * accuracy, 2 - accuracy], axis=-1)
    return x, measured, monotone.fit(x, measured)


def test_without_noise_the_map_reproduces_what_was_measured():
    x, measured, metrics = fitted()
    np.testing.assert_allclose(metrics(x), measured, atol=1e-12)
    assert metrics.rank_correlation == pytest.approx(1.0)


def test_predictions_change_strictly_with_the_predicted_loss_and_stop_outside_the_knots():
    _, _, metrics = fitted(noise=0.05)
    grid = np.linspace(metrics.knots[0], metrics.knots[-1], 500)
    accuracy, soft, loss = metrics(grid).T
    assert (np.diff(accuracy) < 0).all()
    assert (np.diff(soft) < 0).all()
    assert (np.diff(loss) > 0).all()
    np.testing.assert_array_equal(metrics(np.array([-1e9, 1e9])), metrics.values[[0, -1]])


def test_one_prediction_equals_its_row_in_a_batch():
    x, _, metrics = fitted(noise=0.05)
    np.testing.assert_array_equal(metrics(x.reshape(5, 5))[2, 3], metrics(x[13]))


def test_the_map_survives_its_file():
    x, _, metrics = fitted(noise=0.05)
    restored = monotone.PredictedMetrics.restore(*metrics.tensors())
    np.testing.assert_array_equal(restored(x), metrics(x))
    assert restored.rank_correlation == metrics.rank_correlation
    assert restored.num_measured == metrics.num_measured


@pytest.mark.parametrize("losses", [[0.0], [0.0, float("nan")]])
def test_a_map_needs_two_finite_plans(losses):
    with pytest.raises(ValueError, match="at least two plans with finite"):
        monotone.fit(np.array(losses), np.zeros((len(losses), 3)))
