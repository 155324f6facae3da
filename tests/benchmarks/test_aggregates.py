import numpy as np
import pytest
from scipy import stats

from benchmarks.aggregates import hypervolume, interquartile_mean, probability_of_improvement, stratified_bootstrap


@pytest.mark.parametrize("count", range(1, 12))
def test_interquartile_mean_is_the_trimmed_mean_of_all_runs(count):
    runs = np.random.default_rng(count).normal(size=count)
    assert interquartile_mean([runs[:3], runs[3:]]) == pytest.approx(stats.trim_mean(runs, 0.25))


def test_interquartile_mean_ignores_the_outer_quarters():
    assert interquartile_mean([[0.0, 1.0], [2.0, 3.0], [4.0, 5.0], [6.0, 100.0]]) == pytest.approx(3.5)


def test_probability_of_improvement_is_the_mann_whitney_statistic():
    rng = np.random.default_rng(0)
    ours, theirs = rng.normal(0.3, 1, 7), rng.normal(0, 1, 5)
    expected = stats.mannwhitneyu(ours, theirs).statistic / 35
    assert probability_of_improvement([ours], [theirs]) == pytest.approx(expected)
    assert probability_of_improvement([[1.0], [0.0]], [[0.0], [1.0]]) == 0.5
    assert probability_of_improvement([[1.0]], [[1.0]]) == 0.5


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(1)
    hits = 0
    for trial in range(200):
        strata = [rng.normal(0, 1, 20), rng.normal(2, 1, 20)]
        found = stratified_bootstrap(
            lambda s: float(np.mean([np.mean(r) for r in s])), strata, n_bootstrap=200, seed=trial
        )
        hits += found.low <= 1.0 <= found.high
    assert 0.88 < hits / 200 <= 1.0


def test_resampling_stays_within_tasks():
    found = stratified_bootstrap(interquartile_mean, [[0.0, 0.0], [1.0, 1.0]], n_bootstrap=50)
    assert found.low == found.value == found.high == 0.5


@pytest.mark.parametrize(
    ("samples", "options", "said"),
    [
        ([[]], {}, "at least one task"),
        ([[[]]], {}, "non-empty list of finite numbers"),
        ([[[1.0, np.nan]]], {}, "finite"),
        ([[[1.0]]], {"confidence": 95}, "for 95 % write 0.95"),
        ([[[1.0]]], {"n_bootstrap": 0}, "n_bootstrap must be at least 1"),
    ],
)
def test_bad_input(samples, options, said):
    with pytest.raises(ValueError, match=said):
        stratified_bootstrap(interquartile_mean, *samples, **options)


def test_hypervolume_is_the_dominated_area():
    rng = np.random.default_rng(2)
    points = rng.random((6, 2))
    draws = rng.random((200_000, 2))
    dominated = (draws[:, None] <= points[None]).all(-1).any(-1).mean()
    assert hypervolume(points[:, 0], points[:, 1]) == pytest.approx(dominated, abs=0.005)
    assert hypervolume([0.5, 0.4], [0.5, 0.5]) == pytest.approx(0.25)
    assert hypervolume([0.5], [0.5], reference=(0.6, 0.0)) == 0.0
    assert hypervolume([], []) == 0.0
