import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from benchmarks.stat_tests.aggregates import (
    hypervolume,
    interquartile_curve,
    interquartile_mean,
    performance_profile,
    probability_of_improvement,
    stratified_band,
    stratified_bootstrap,
)

SCORES = st.floats(-100, 100)
RUNS = st.lists(st.lists(SCORES, min_size=1, max_size=6), min_size=1, max_size=3)


@pytest.mark.parametrize("count", range(1, 12))
def test_interquartile_mean_is_the_trimmed_mean_of_all_runs(count):
    runs = np.random.default_rng(count).normal(size=count)
    assert interquartile_mean([runs[:3], runs[3:]]) == pytest.approx(stats.trim_mean(runs, 0.25))


@pytest.mark.parametrize("ours", [[[float("nan"), 1.0]], [[]], []])
def test_chances_of_what_is_not_there_are_refused(ours):
    with pytest.raises(ValueError, match=r"finite numbers|same tasks"):
        probability_of_improvement(ours, [[0.5]])


def test_the_area_under_a_front_with_a_hole_is_refused():
    with pytest.raises(ValueError, match="finite"):
        hypervolume([0.5, 0.9], [0.9, float("nan")])


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
    found = stratified_bootstrap(interquartile_mean, [[0.0] * 5, [1.0] * 5], n_bootstrap=50)
    assert found.low == found.value == found.high == 0.5


def test_few_runs_of_any_task_warn_where_the_caller_stands():
    for call in (stratified_bootstrap, stratified_band):
        with pytest.warns(UserWarning, match="4 seeds say little") as caught:
            call(interquartile_mean, [[0.0] * 5, [1.0] * 4], n_bootstrap=5)
        assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        stratified_bootstrap(interquartile_mean, [[0.0] * 5], n_bootstrap=5)


def test_performance_profile_is_the_share_of_runs_at_or_above_a_score_averaged_over_tasks():
    profile = performance_profile([[0.2, 0.4, 0.6, 0.8], [0.9]], [0.0, 0.4, 0.7, 0.9, 1.0])
    np.testing.assert_allclose(profile, [1.0, (0.75 + 1) / 2, (0.25 + 1) / 2, (0 + 1) / 2, 0.0])
    runs = np.random.default_rng(0).normal(size=50)
    levels = np.linspace(-2, 2, 9)
    # On one task it is the survival function of the empirical distribution.
    below = stats.ecdf(runs).cdf.evaluate(levels - 1e-12)
    np.testing.assert_allclose(performance_profile([runs], levels), 1 - below)


@given(RUNS, st.lists(SCORES, min_size=2, max_size=5))
def test_performance_profiles_are_falling_fractions(runs, thresholds):
    profile = performance_profile(runs, sorted(thresholds))
    assert ((profile >= 0) & (profile <= 1)).all()
    assert (np.diff(profile) <= 1e-12).all()


@given(RUNS)
def test_an_agent_improves_on_itself_half_of_the_time_and_chances_add_up(runs):
    assert probability_of_improvement(runs, runs) == pytest.approx(0.5)
    better = [[score + 300 for score in task] for task in runs]
    assert probability_of_improvement(better, runs) == 1.0
    mixed = [[*task[::-1], 0.0] for task in runs]
    both = probability_of_improvement(mixed, runs) + probability_of_improvement(runs, mixed)
    assert both == pytest.approx(1.0)


@given(RUNS)
def test_interquartile_mean_lies_among_the_runs_and_moves_with_them(runs):
    mean = interquartile_mean(runs)
    pooled = [score for task in runs for score in task]
    assert min(pooled) - 1e-9 <= mean <= max(pooled) + 1e-9
    assert interquartile_mean([[2 * score + 1 for score in task] for task in runs]) == pytest.approx(2 * mean + 1)


def test_a_band_is_the_interval_of_every_point():
    rng = np.random.default_rng(3)
    runs = [rng.normal(size=(6, 4)), rng.normal(size=(5, 4))]
    band = stratified_band(interquartile_curve, runs, n_bootstrap=300, seed=1)
    for point in range(4):
        single = stratified_bootstrap(interquartile_mean, [task[:, point] for task in runs], n_bootstrap=300, seed=1)
        assert (band.value[point], band.low[point], band.high[point]) == (single.value, single.low, single.high)


def test_sides_with_different_tasks_cannot_be_compared():
    with pytest.raises(ValueError, match="1 tasks of ours, 2 of theirs"):
        probability_of_improvement([[1.0]], [[1.0], [2.0]])
    with pytest.raises(ValueError, match="finite"):
        performance_profile([[np.nan]], [0.5])


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
