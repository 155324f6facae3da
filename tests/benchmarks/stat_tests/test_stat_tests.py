"""Statistics agree with textbook formulas, control errors, and refuse what they cannot answer."""

import json
import math
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from benchmarks.stat_tests import aggregates, bootstrap_confidence_interval, paired_t_test, run_statistical_analysis
from benchmarks.stat_tests import significance as stat_tests
from benchmarks.stat_tests.paired import holm_correction
from benchmarks.stat_tests.runs import summarise_runs

ACCURACIES = st.integers(0, 500).map(lambda count: count / 500)

BASELINE = [0.90, 0.88, 0.93, 0.91, 0.89, 0.92]
METHOD = [0.92, 0.91, 0.94, 0.94, 0.90, 0.95]


def test_paired_t_matches_the_textbook_and_scipy():
    result = paired_t_test(BASELINE, METHOD)
    differences = np.subtract(METHOD, BASELINE)
    t = differences.mean() / (differences.std(ddof=1) / math.sqrt(6))
    oracle = stats.ttest_rel(METHOD, BASELINE)
    assert result["t_statistic"] == pytest.approx(t)
    assert result["t_statistic"] == pytest.approx(oracle.statistic)
    assert result["p_value"] == pytest.approx(oracle.pvalue)
    assert result["confidence_interval"] == pytest.approx(tuple(oracle.confidence_interval(0.95)))
    assert result["cohens_d"] == pytest.approx(t / math.sqrt(6))
    assert result["significant"] is True
    assert result["degrees_of_freedom"] == 5


def test_hedges_correction_matches_the_tabulated_value():
    # Hedges & Olkin (1985), table 1: c(5) = 0.8408 for 5 degrees of freedom (exact gamma form).
    result = paired_t_test(BASELINE, METHOD)
    assert result["hedges_g"] / result["cohens_d"] == pytest.approx(0.8408, abs=1e-4)


def test_the_sign_says_which_is_better_and_swaps_with_the_arguments():
    forward, backward = paired_t_test(BASELINE, METHOD), paired_t_test(METHOD, BASELINE)
    assert forward["t_statistic"] > 0
    assert forward["t_statistic"] == pytest.approx(-backward["t_statistic"])
    assert forward["p_value"] == pytest.approx(backward["p_value"])


def test_assumption_check_flags_an_outlier_and_passes_normal_differences():
    rng = np.random.default_rng(0)
    zeros = np.zeros(30)
    assert paired_t_test(zeros, rng.normal(size=30))["normality_ok"] is True
    assert paired_t_test(zeros, rng.normal(size=30) ** 5)["normality_ok"] is False


def test_wilcoxon_ranks_sizes_not_rounding_noise():
    before = [0.90, 0.88, 0.93, 0.91, 0.89, 0.92]
    signs = [-1, 1, 1, 1, 1, 1]
    noisy = paired_t_test(before, [round(value + 0.02 * sign, 4) for value, sign in zip(before, signs, strict=True)])
    assert noisy["wilcoxon_p_value"] == stats.wilcoxon(signs).pvalue


def test_false_positives_come_at_the_rate_alpha():
    rng = np.random.default_rng(1)
    hits = [paired_t_test(np.zeros(6), rng.normal(size=6), alpha=0.1)["significant"] for _ in range(1000)]
    assert 0.07 < np.mean(hits) < 0.13


@pytest.mark.parametrize("values", [[0.5] * 5, [0.1, 0.2, 0.3, 0.4, 0.5]])
def test_no_difference_at_all_is_no_evidence(values):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = paired_t_test(values, values)
    assert (result["t_statistic"], result["p_value"], result["cohens_d"]) == (0.0, 1.0, 0.0)
    assert result["significant"] is False
    assert result["wilcoxon_p_value"] == 1.0
    json.dumps(result, allow_nan=False)


def test_a_constant_difference_is_certain_despite_rounding_noise():
    baseline = np.array([0.1, 0.2, 0.3, 0.4, 0.7])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = paired_t_test(baseline, baseline + 0.1)
    assert result["t_statistic"] == math.inf
    assert result["p_value"] == 0.0
    assert result["normality_p_value"] is None


def test_few_seeds_warn_where_the_caller_stands_and_five_do_not():
    for call in (
        lambda: paired_t_test(BASELINE[:4], METHOD[:4]),
        lambda: bootstrap_confidence_interval(METHOD[:4], n_bootstrap=99),
        lambda: run_statistical_analysis({"Unpruned": BASELINE[:4], "a": METHOD[:4]}, n_bootstrap=99),
    ):
        with pytest.warns(UserWarning, match="4 seeds say little") as caught:
            call()
        assert len(caught) == 1
        assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        paired_t_test(BASELINE[:5], METHOD[:5])
        bootstrap_confidence_interval(METHOD[:5], n_bootstrap=99)


def test_bca_matches_an_independent_implementation():
    data = np.random.default_rng(2).gamma(1.0, size=20)
    low, high = bootstrap_confidence_interval(data, n_bootstrap=20_000)
    expected = bca_by_hand(data, 0.95, 20_000, np.random.default_rng(3))
    np.testing.assert_allclose([low, high], expected, atol=0.02)
    # Skewed data: the corrected interval reaches further to the long tail.
    assert high - data.mean() > data.mean() - low


def bca_by_hand(data, confidence, resamples, rng):
    """Efron & Tibshirani (1993), equations 14.9 to 14.15."""
    means = rng.choice(data, (resamples, data.size)).mean(axis=1)
    bias = stats.norm.ppf((means < data.mean()).mean())
    jackknife = np.array([np.delete(data, index).mean() for index in range(data.size)])
    deviations = jackknife.mean() - jackknife
    acceleration = (deviations**3).sum() / (6 * (deviations**2).sum() ** 1.5)
    tails = stats.norm.ppf([(1 - confidence) / 2, (1 + confidence) / 2])
    levels = stats.norm.cdf(bias + (bias + tails) / (1 - acceleration * (bias + tails)))
    return np.quantile(means, levels)


def test_bootstrap_is_reproducible_and_seeded():
    first = bootstrap_confidence_interval(METHOD, n_bootstrap=500)
    assert first == bootstrap_confidence_interval(METHOD, n_bootstrap=500)
    assert first != bootstrap_confidence_interval(METHOD, n_bootstrap=500, seed=1)


def test_bootstrap_widens_with_confidence_and_takes_other_statistics():
    narrow = bootstrap_confidence_interval(METHOD, 0.5, 2000)
    wide = bootstrap_confidence_interval(METHOD, 0.99, 2000)
    assert wide[0] < narrow[0] < narrow[1] < wide[1]
    low, high = bootstrap_confidence_interval(METHOD, n_bootstrap=500, statistic=np.median)
    assert low <= np.median(METHOD) <= high


def test_constant_data_has_a_point_interval():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert bootstrap_confidence_interval([0.5] * 6) == (0.5, 0.5)


@settings(max_examples=60)
@given(st.lists(ACCURACIES, min_size=5, max_size=9))
def test_intervals_of_any_accuracies_are_finite_ordered_and_inside_the_data(values):
    low, high = bootstrap_confidence_interval(values, n_bootstrap=200)
    assert min(values) - 1e-12 <= low <= high <= max(values) + 1e-12


@settings(max_examples=60)
@given(st.lists(st.tuples(ACCURACIES, ACCURACIES), min_size=5, max_size=9), st.floats(-10, 10))
def test_the_t_test_forgets_what_both_share_and_agrees_with_its_interval(pairs, offset):
    before, after = np.array(pairs).T
    result = paired_t_test(before, after)
    low, high = result["confidence_interval"]
    assert low <= result["mean_difference"] <= high
    if abs(result["p_value"] - 0.05) > 1e-6 and np.ptp(after - before) > 0:
        assert result["significant"] == (not low <= 0 <= high)
    moved = paired_t_test(before + offset, after + offset)
    assert moved["mean_difference"] == pytest.approx(result["mean_difference"], abs=1e-9)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_keeps_the_order_never_lowers_and_never_exceeds_bonferroni(p_values):
    adjusted, raw = holm_correction(p_values), np.array(p_values)
    assert (adjusted >= raw - 1e-12).all()
    assert (adjusted <= np.minimum(1, raw * raw.size) + 1e-12).all()
    order = np.argsort(raw, kind="stable")
    assert (np.diff(adjusted[order]) >= 0).all()


def test_analysis_has_a_bootstrap_interval_of_every_difference():
    analysis = run_statistical_analysis({"Unpruned": BASELINE, "a": METHOD}, n_bootstrap=500)
    expected = bootstrap_confidence_interval(np.subtract(METHOD, BASELINE), n_bootstrap=500)
    assert analysis["a"]["comparison"]["difference_interval"] == expected


def test_a_summary_takes_what_there_is_and_is_json():
    seeds = dict(enumerate(BASELINE))
    summary = summarise_runs({"full": seeds, "same": seeds, "fewer": {0: 0.5}, "other": {7: 0.5, 8: 0.6}}, "full")
    assert summary["same"]["comparison"]["p_value_holm"] == 1.0
    assert summary["fewer"] == {"mean": 0.5, "std": 0.0, "confidence_interval": None, "comparison": None}
    assert summary["other"]["comparison"] is None
    json.dumps(
        summarise_runs({"a": seeds, "b": {key: value + 0.1 for key, value in seeds.items()}}, "a"), allow_nan=False
    )
    assert summarise_runs({"alone": {1: 0.5}}, "full")["alone"]["mean"] == 0.5


def test_everything_about_statistics_is_found_here_and_written_once():
    for name in ("interquartile_mean", "stratified_bootstrap", "performance_profile", "probability_of_improvement"):
        assert getattr(stat_tests, name) is getattr(aggregates, name)


def test_two_values_still_give_a_finite_interval():
    with pytest.warns(UserWarning, match="2 seeds"):
        low, high = bootstrap_confidence_interval([0.0, 1.0], n_bootstrap=500)
    assert 0 <= low <= high <= 1


def test_holm_matches_a_worked_example():
    # Sorted: 0.01*4, 0.02*3, 0.03*2, 0.04*1 -> running maximum 0.04, 0.06, 0.06, 0.06.
    np.testing.assert_allclose(holm_correction([0.03, 0.01, 0.04, 0.02]), [0.06, 0.04, 0.06, 0.06])
    np.testing.assert_allclose(holm_correction([0.6, 0.9]), [1.0, 1.0])
    assert holm_correction([]).size == 0
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        holm_correction([0.5, 1.5])


def test_analysis_describes_every_method_and_corrects_for_their_number():
    worse = [value - 0.01 for value in METHOD]
    analysis = run_statistical_analysis({"a": METHOD, "Unpruned": BASELINE, "b": worse}, n_bootstrap=500)
    assert list(analysis) == ["a", "Unpruned", "b"]
    assert analysis["Unpruned"]["comparison"] is None
    assert analysis["a"]["mean"] == pytest.approx(np.mean(METHOD))
    assert analysis["a"]["std"] == pytest.approx(np.std(METHOD, ddof=1))
    low, high = analysis["a"]["confidence_interval"]
    assert low < analysis["a"]["mean"] < high
    raw = [paired_t_test(BASELINE, values)["p_value"] for values in (METHOD, worse)]
    adjusted = [analysis[name]["comparison"]["p_value_holm"] for name in ("a", "b")]
    np.testing.assert_allclose(adjusted, holm_correction(raw))
    assert analysis["a"]["comparison"]["significant_holm"] is True


def test_holm_can_overrule_a_raw_significance():
    rng = np.random.default_rng(5)
    zeros = np.zeros(8)
    noise = {f"m{index}": rng.normal(size=8) for index in range(30)}
    analysis = run_statistical_analysis({"Unpruned": zeros, **noise}, n_bootstrap=99)
    comparisons = [analysis[name]["comparison"] for name in noise]
    assert any(comparison["significant"] for comparison in comparisons)
    assert not any(comparison["significant_holm"] for comparison in comparisons)


def test_mappings_are_paired_by_seed_not_by_position():
    baseline = dict(zip([42, 1, 7, 9, 3, 5], BASELINE, strict=True))
    shuffled = dict(reversed(list(zip([42, 1, 7, 9, 3, 5], METHOD, strict=True))))
    by_seed = run_statistical_analysis({"Unpruned": baseline, "a": shuffled}, n_bootstrap=99)
    by_position = run_statistical_analysis({"Unpruned": BASELINE, "a": METHOD}, n_bootstrap=99)
    assert by_seed["a"]["comparison"]["t_statistic"] == by_position["a"]["comparison"]["t_statistic"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([1, 2, 3], [1, 2]), "got 3 of baseline and 2 of method"),
        (([1.0], [2.0]), "'baseline' has 1 value"),
        (([], []), "'baseline' has 0 value"),
        (([1.0, 2.0], [1.0, math.nan]), r"'method' holds NaN or infinite values at positions \[1\]"),
        (([1.0, None], [1.0, 2.0]), r"'baseline' holds NaN or infinite values at positions \[1\]"),
        (([1.0, math.inf], [1.0, 2.0]), r"'baseline' holds NaN or infinite"),
        (([[1.0, 2.0]], [[1.0, 2.0]]), "one-dimensional"),
        ((["x", "y"], [1.0, 2.0]), "one number a seed"),
        (([1.0, 2.0], [1.0, 2.5], 1.5), "alpha"),
    ],
)
def test_t_test_refuses_what_it_cannot_answer(arguments, message):
    with pytest.raises(ValueError, match=message):
        paired_t_test(*arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([1.0],), "at least 2"),
        (([1.0, math.nan],), "NaN"),
        (([1.0, 2.0], 95), "write 0.95"),
        (([1.0, 2.0], 0.95, 0), "n_bootstrap"),
    ],
)
def test_bootstrap_refuses_what_it_cannot_answer(arguments, message):
    with pytest.raises(ValueError, match=message):
        bootstrap_confidence_interval(*arguments)


def test_analysis_refuses_what_cannot_be_paired():
    with pytest.raises(KeyError, match="did you mean 'Unpruned'"):
        run_statistical_analysis({"Unpruned": BASELINE, "a": METHOD}, baseline_name="unpruned")
    with pytest.raises(ValueError, match="no other method"):
        run_statistical_analysis({"Unpruned": BASELINE})
    with pytest.raises(ValueError, match="'a' has 5 results and 'Unpruned' 6"):
        run_statistical_analysis({"Unpruned": BASELINE, "a": METHOD[:5]})
    with pytest.raises(ValueError, match="'a' holds NaN"):
        run_statistical_analysis({"Unpruned": BASELINE, "a": [*METHOD[:5], math.nan]})
    with pytest.raises(ValueError, match=r"extra seeds \[3\], missing seeds \[2\]"):
        run_statistical_analysis({"Unpruned": {1: 0.5, 2: 0.6}, "a": {1: 0.5, 3: 0.6}})
    with pytest.raises(ValueError, match="both be sequences or both map"):
        run_statistical_analysis({"Unpruned": {1: 0.5, 2: 0.6}, "a": [0.5, 0.6]})
