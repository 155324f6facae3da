"""Differences between methods against luck: paired tests, effect sizes and bootstrap intervals over seeds.

The unit of observation is a *run* (one seed), never an episode or an image. Methods run with the same seeds are
compared in pairs, which takes the spread that the seeds share (initialisation, data order) out of the comparison.

What several tasks say together (interquartile mean, stratified bootstrap, performance profiles, probability of
improvement) comes from :mod:`benchmarks.stat_tests.aggregates` and can be imported from here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from benchmarks.stat_tests.aggregates import (
    interquartile_mean,
    performance_profile,
    probability_of_improvement,
    stratified_band,
    stratified_bootstrap,
)
from benchmarks.stat_tests.paired import bca_interval, holm_correction, paired_comparison
from benchmarks.stat_tests.samples import (
    Results,
    as_sample,
    check_bootstrap,
    check_level,
    paired_samples,
    warn_if_few,
)
from hessian.support.names import suggest

__all__ = [
    "bootstrap_confidence_interval",
    "interquartile_mean",
    "paired_t_test",
    "performance_profile",
    "probability_of_improvement",
    "run_statistical_analysis",
    "stratified_band",
    "stratified_bootstrap",
]


def paired_t_test(baseline: ArrayLike, method: ArrayLike, alpha: float = 0.05) -> dict[str, Any]:
    """Test whether a method differs from a baseline over the same seeds (two-sided paired t-test).

    The effect size is Cohen's d_z, the mean difference in units of the differences' standard deviation (Cohen 1988,
    section 2.3.5), with Hedges' small-sample correction beside it. The t-test assumes normal differences: Shapiro-Wilk
    checks that, and the Wilcoxon signed-rank test, which does not assume it, is reported as a second opinion.

    Args:
        baseline: [num_seeds] results of the baseline, one a seed.
        method: [num_seeds] results of the method, same seeds in the same order.
        alpha: Significance level, in (0, 1).

    Returns:
        ``t_statistic`` (positive: the method is larger), ``p_value``, ``significant``, ``alpha``, ``num_pairs``,
        ``degrees_of_freedom``, ``mean_difference`` (method - baseline), ``confidence_interval`` (of the mean
        difference, at level 1 - alpha), ``cohens_d``, ``hedges_g`` (None below three pairs), ``normality_p_value``
        (None below three pairs or for constant differences), ``normality_ok`` (None where unchecked),
        ``wilcoxon_p_value``. Plain Python values.

    Raises:
        ValueError: If a value is NaN or infinite, the lengths differ, there are fewer than two pairs, or ``alpha`` is
            outside (0, 1).

    Warns:
        UserWarning: Below 5 pairs.
    """
    check_level(alpha)
    before = as_sample(baseline, "baseline")
    after = as_sample(method, "method")
    if before.size != after.size:
        raise ValueError(
            f"a paired test needs one value of each per seed, got {before.size} of baseline and {after.size} of method"
        )
    warn_if_few(before.size)
    return paired_comparison(after - before, alpha)


def bootstrap_confidence_interval(
    data: ArrayLike,
    confidence: float = 0.95,
    n_bootstrap: int = 10000,
    *,
    statistic: Callable[..., Any] = np.mean,
    seed: int | np.random.Generator = 0,
) -> tuple[float, float]:
    """Return the bias-corrected and accelerated (BCa) bootstrap interval of a statistic (Efron 1987).

    Args:
        data: [num_seeds] results, one a seed.
        confidence: Confidence level, in (0, 1).
        n_bootstrap: Number of resamples, >= 1.
        statistic: Function of a sample, and of ``axis`` if it is vectorized; the mean by default.
        seed: Seed or generator of the resampling: the same seed gives the same interval.

    Returns:
        Lower and upper end. Both equal the statistic when all values are the same. Where the sample is too small for
        the correction to exist, the percentile interval.

    Raises:
        ValueError: If a value is NaN or infinite, there are fewer than two values, or an argument is out of range.

    Warns:
        UserWarning: Below 5 values.
    """
    check_bootstrap(confidence, n_bootstrap)
    sample = as_sample(data, "data")
    warn_if_few(sample.size)
    return bca_interval(sample, confidence, n_bootstrap, statistic, seed)


def run_statistical_analysis(
    results: Mapping[str, Results],
    baseline_name: str = "Unpruned",
    *,
    alpha: float = 0.05,
    n_bootstrap: int = 10000,
    seed: int = 0,
) -> dict[str, dict[str, Any]]:
    """Compare every method with one baseline over the same seeds, corrected for the number of comparisons.

    Args:
        results: Method -> results, one a seed: a sequence (paired by position) or a mapping seed -> result (paired by
            seed).
        baseline_name: The method the others are compared with.
        alpha: Significance level of the whole family of comparisons, in (0, 1).
        n_bootstrap: Resamples of each interval.
        seed: Seed of the resampling.

    Returns:
        Method -> ``mean``, ``std`` (n - 1), ``median``, ``num_seeds``, ``confidence_interval`` (BCa, of the mean, at
        level 1 - alpha) and ``comparison``: None for the baseline, else the entries of `paired_t_test` plus
        ``difference_interval`` (BCa, of the mean difference, at level 1 - alpha), ``p_value_holm`` and
        ``significant_holm``.

    Raises:
        KeyError: If ``baseline_name`` is not among the results.
        ValueError: If a value is NaN or infinite, seeds differ between methods, there is no method besides the
            baseline, or there are fewer than two seeds.

    Warns:
        UserWarning: Below 5 seeds, once.
    """
    check_level(alpha)
    if baseline_name not in results:
        raise KeyError(_unknown_baseline(baseline_name, list(results)))
    if len(results) < 2:
        raise ValueError(f"nothing to compare with {baseline_name!r}: results hold no other method")
    samples = paired_samples(results, baseline_name)
    baseline = samples[baseline_name]
    warn_if_few(baseline.size)
    analysis: dict[str, dict[str, Any]] = {}
    for name, sample in samples.items():
        analysis[name] = {**_describe(sample, 1 - alpha, n_bootstrap, seed), "comparison": None}
        if name != baseline_name:
            differences = sample - baseline
            analysis[name]["comparison"] = {
                **paired_comparison(differences, alpha),
                "difference_interval": bca_interval(differences, 1 - alpha, n_bootstrap, np.mean, seed),
            }
    _add_holm([entry["comparison"] for entry in analysis.values() if entry["comparison"] is not None], alpha)
    return analysis


def _describe(sample: np.ndarray, confidence: float, n_bootstrap: int, seed: int) -> dict[str, Any]:
    return {
        "mean": float(sample.mean()),
        "std": float(sample.std(ddof=1)),
        "median": float(np.median(sample)),
        "num_seeds": int(sample.size),
        "confidence_interval": bca_interval(sample, confidence, n_bootstrap, np.mean, seed),
    }


def _add_holm(comparisons: list[dict[str, Any]], alpha: float) -> None:
    adjusted = holm_correction([comparison["p_value"] for comparison in comparisons])
    for comparison, p_value in zip(comparisons, adjusted, strict=True):
        comparison["p_value_holm"] = float(p_value)
        comparison["significant_holm"] = bool(p_value < alpha)


def _unknown_baseline(name: str, known: list[str]) -> str:
    return f"no results of the baseline {name!r}{suggest(name, known, 'results of')}"
