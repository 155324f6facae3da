"""Is a difference between two methods more than luck? Paired tests, effect sizes and bootstrap intervals over seeds.

The unit of observation is a *run* (one seed), never an episode or an image. Methods run with the same seeds are
compared in pairs, which takes the spread that the seeds share (initialisation, data order) out of the comparison.

What several tasks say together (interquartile mean, stratified bootstrap, performance profiles, probability of
improvement) comes from :mod:`benchmarks.aggregates` and can be imported from here.
"""

from __future__ import annotations

import math
import statistics
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from benchmarks.aggregates import (
    Band,
    Estimate,
    interquartile_mean,
    performance_profile,
    probability_of_improvement,
    stratified_band,
    stratified_bootstrap,
)
from benchmarks.samples import (
    MIN_SEEDS,
    Results,
    as_sample,
    check_bootstrap,
    check_level,
    few_seeds_are_stated,
    paired_samples,
    warn_if_few,
)
from hessian.suggestions import suggest

__all__ = [
    "MIN_SEEDS",
    "Band",
    "Estimate",
    "bootstrap_confidence_interval",
    "holm_correction",
    "interquartile_mean",
    "paired_t_test",
    "performance_profile",
    "probability_of_improvement",
    "run_statistical_analysis",
    "stratified_band",
    "stratified_bootstrap",
    "summarise_runs",
]

# Differences whose spread is below this fraction of their mean are rounding noise around a constant.
_CONSTANT_TOLERANCE = 1e-12


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
    return _paired_comparison(after - before, alpha)


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
        statistic: Function of a sample, and of ``axis`` if it is vectorised; the mean by default.
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
    return _bootstrap_interval(sample, confidence, n_bootstrap, statistic, seed)


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
                **_paired_comparison(differences, alpha),
                "difference_interval": _bootstrap_interval(differences, 1 - alpha, n_bootstrap, np.mean, seed),
            }
    _add_holm([entry["comparison"] for entry in analysis.values() if entry["comparison"] is not None], alpha)
    return analysis


def summarise_runs(results: Mapping[str, Mapping[Any, float]], reference: str) -> dict[str, dict[str, Any]]:
    """Describe every method as a table shows it, however many seeds there are; JSON-able.

    Args:
        results: Method -> seed -> result, finite.
        reference: The method the others are compared with; it may be absent.

    Returns:
        Method -> ``mean`` and ``std`` (0 for one seed), and what `run_statistical_analysis` adds for the methods that
        ran with the reference's seeds, at least two. ``confidence_interval`` and ``comparison`` are None for the
        others, and infinite numbers within are None.
    """
    found: dict[str, dict[str, Any]] = {}
    for method, values in results.items():
        sample = list(values.values())
        spread = statistics.stdev(sample) if len(sample) > 1 else 0.0
        found[method] = {"mean": statistics.fmean(sample), "std": spread}
        found[method].update(confidence_interval=None, comparison=None)
    shared = results.get(reference, {})
    paired = {method: values for method, values in results.items() if set(values) == set(shared)}
    if len(shared) >= 2 and len(paired) >= 2:
        with few_seeds_are_stated():
            for method, entry in run_statistical_analysis(paired, reference).items():
                found[method].update(_finite(entry))
    return found


def holm_correction(p_values: ArrayLike) -> NDArray[np.float64]:
    """Return Holm's step-down adjusted p-values (Holm 1979): family-wise error control without assumptions.

    Args:
        p_values: [m] p-values in [0, 1].

    Returns:
        [m] adjusted p-values in the same order; reject where they are <= alpha.

    Raises:
        ValueError: If a p-value lies outside [0, 1].
    """
    values = np.asarray(p_values, dtype=float)
    if values.size and not np.all((values >= 0) & (values <= 1)):
        raise ValueError(f"p-values must lie in [0, 1], got {values.tolist()}")
    order = np.argsort(values, kind="stable")
    steps = values[order] * (values.size - np.arange(values.size))
    adjusted = np.empty_like(values)
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(steps)) if values.size else steps
    return adjusted


def _paired_comparison(differences: np.ndarray, alpha: float) -> dict[str, Any]:
    count = differences.size
    mean = float(differences.mean())
    spread = float(differences.std(ddof=1))
    if spread <= _CONSTANT_TOLERANCE * abs(mean):
        spread = 0.0
    standard_error = spread / math.sqrt(count)
    t_statistic = _signed_ratio(mean, standard_error)
    p_value = float(2 * stats.t.sf(abs(t_statistic), count - 1))
    half_width = float(stats.t.ppf(1 - alpha / 2, count - 1)) * standard_error
    effect = _signed_ratio(mean, spread)
    normality = float(stats.shapiro(differences).pvalue) if count >= 3 and spread > 0 else None
    return {
        "t_statistic": t_statistic,
        "p_value": p_value,
        "significant": p_value < alpha,
        "alpha": alpha,
        "num_pairs": count,
        "degrees_of_freedom": count - 1,
        "mean_difference": mean,
        "confidence_interval": (mean - half_width, mean + half_width),
        "cohens_d": effect,
        "hedges_g": effect * _hedges_factor(count - 1) if count > 2 else None,
        "normality_p_value": normality,
        "normality_ok": None if normality is None else normality >= alpha,
        "wilcoxon_p_value": float(stats.wilcoxon(differences).pvalue) if np.any(differences) else 1.0,
    }


def _signed_ratio(mean: float, spread: float) -> float:
    """Return mean / spread, with 0/0 = 0 (no difference at all) and x/0 = +-inf (a difference without spread)."""
    if spread > 0:
        return mean / spread
    return math.copysign(math.inf, mean) if mean else 0.0


def _hedges_factor(degrees_of_freedom: int) -> float:
    """Return the exact small-sample correction J(df) of Hedges (1981), df >= 2."""
    log_ratio = math.lgamma(degrees_of_freedom / 2) - math.lgamma((degrees_of_freedom - 1) / 2)
    return math.exp(log_ratio) / math.sqrt(degrees_of_freedom / 2)


def _bootstrap_interval(
    sample: np.ndarray,
    confidence: float,
    n_bootstrap: int,
    statistic: Callable[..., Any],
    seed: int | np.random.Generator,
) -> tuple[float, float]:
    if np.ptp(sample) == 0:
        value = float(statistic(sample))
        return value, value
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", stats.DegenerateDataWarning)
        found = stats.bootstrap(
            (sample,),
            statistic,
            confidence_level=confidence,
            n_resamples=n_bootstrap,
            method="BCa",
            rng=np.random.default_rng(seed),
        )
    low, high = found.confidence_interval
    if not (np.isfinite(low) and np.isfinite(high)):
        low, high = np.quantile(found.bootstrap_distribution, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def _describe(sample: np.ndarray, confidence: float, n_bootstrap: int, seed: int) -> dict[str, Any]:
    return {
        "mean": float(sample.mean()),
        "std": float(sample.std(ddof=1)),
        "median": float(np.median(sample)),
        "num_seeds": int(sample.size),
        "confidence_interval": _bootstrap_interval(sample, confidence, n_bootstrap, np.mean, seed),
    }


def _add_holm(comparisons: list[dict[str, Any]], alpha: float) -> None:
    adjusted = holm_correction([comparison["p_value"] for comparison in comparisons])
    for comparison, p_value in zip(comparisons, adjusted, strict=True):
        comparison["p_value_holm"] = float(p_value)
        comparison["significant_holm"] = bool(p_value < alpha)


def _finite(value: Any) -> Any:
    """A value as JSON holds it: a difference without any spread has an infinite t-statistic, which becomes None."""
    if isinstance(value, Mapping):
        return {key: _finite(entry) for key, entry in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _unknown_baseline(name: str, known: list[str]) -> str:
    return f"no results of the baseline {name!r}{suggest(name, known, 'results of')}"
