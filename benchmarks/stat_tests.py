"""Is a difference between two methods more than luck? Paired tests, effect sizes and bootstrap intervals over seeds.

The unit of observation is a *run* (one seed), never an episode or an image. Methods run with the same seeds are
compared in pairs, which takes the spread that the seeds share (initialisation, data order) out of the comparison.
"""

from __future__ import annotations

import difflib
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

MIN_SEEDS = 5
"""Below this many runs a warning says that intervals and p-values say little."""

Results: TypeAlias = Sequence[float] | Mapping[Any, float]
"""Results of one method: a value a seed, in order or by seed."""

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
    _check_alpha(alpha)
    before = _as_sample(baseline, "baseline")
    after = _as_sample(method, "method")
    if before.size != after.size:
        raise ValueError(
            f"a paired test needs one value of each per seed, got {before.size} of baseline and {after.size} of method"
        )
    _warn_if_few(before.size)
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
        Lower and upper end. Both equal the statistic when all values are the same.

    Raises:
        ValueError: If a value is NaN or infinite, there are fewer than two values, or an argument is out of range.

    Warns:
        UserWarning: Below 5 values.
    """
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie in (0, 1), got {confidence}; for 95 % write 0.95")
    if n_bootstrap < 1:
        raise ValueError(f"n_bootstrap must be at least 1, got {n_bootstrap}")
    sample = _as_sample(data, "data")
    _warn_if_few(sample.size)
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
        ``p_value_holm`` and ``significant_holm``.

    Raises:
        KeyError: If ``baseline_name`` is not among the results.
        ValueError: If a value is NaN or infinite, seeds differ between methods, there is no method besides the
            baseline, or there are fewer than two seeds.

    Warns:
        UserWarning: Below 5 seeds, once.
    """
    _check_alpha(alpha)
    if baseline_name not in results:
        raise KeyError(_unknown_baseline(baseline_name, list(results)))
    if len(results) < 2:
        raise ValueError(f"nothing to compare with {baseline_name!r}: results hold no other method")
    samples = _paired_samples(results, baseline_name)
    baseline = samples[baseline_name]
    _warn_if_few(baseline.size)
    analysis: dict[str, dict[str, Any]] = {}
    for name, sample in samples.items():
        analysis[name] = _describe(sample, 1 - alpha, n_bootstrap, seed)
        analysis[name]["comparison"] = None if name == baseline_name else _paired_comparison(sample - baseline, alpha)
    _add_holm([entry["comparison"] for entry in analysis.values() if entry["comparison"] is not None], alpha)
    return analysis


def holm_correction(p_values: ArrayLike) -> np.ndarray:
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
    interval = stats.bootstrap(
        (sample,),
        statistic,
        confidence_level=confidence,
        n_resamples=n_bootstrap,
        method="BCa",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return float(interval.low), float(interval.high)


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


def _paired_samples(results: Mapping[str, Results], baseline_name: str) -> dict[str, np.ndarray]:
    """Return method -> [num_seeds] values with the seeds of all methods in the same order."""
    reference = results[baseline_name]
    samples = {name: _as_sample(_in_order_of(reference, values, name), name) for name, values in results.items()}
    for name, sample in samples.items():
        if sample.size != len(reference):
            raise ValueError(
                f"{name!r} has {sample.size} results and {baseline_name!r} {len(reference)}; "
                "a paired comparison needs the same seeds for both"
            )
    return samples


def _in_order_of(reference: Results, values: Results, name: str) -> Sequence[float]:
    """Return a method's results in the order of the baseline's seeds."""
    if not isinstance(values, Mapping) and not isinstance(reference, Mapping):
        return values
    if not isinstance(values, Mapping) or not isinstance(reference, Mapping):
        raise ValueError(f"{name!r} and the baseline must both be sequences or both map seeds to results")
    if set(values) != set(reference):
        extra, missing = set(values) - set(reference), set(reference) - set(values)
        raise ValueError(
            f"runs of {name!r} cannot be paired with the baseline's: "
            f"extra seeds {sorted(extra, key=str)}, missing seeds {sorted(missing, key=str)}"
        )
    return [values[seed] for seed in reference]


def _as_sample(values: ArrayLike, name: str) -> np.ndarray:
    try:
        sample = np.asarray(values, dtype=float)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name!r} must hold one number a seed, got {values!r}") from error
    if sample.ndim != 1:
        raise ValueError(f"{name!r} must be one-dimensional, one value a seed, got shape {sample.shape}")
    bad = np.flatnonzero(~np.isfinite(sample))
    if bad.size:
        raise ValueError(
            f"{name!r} holds NaN or infinite values at positions {bad.tolist()}; drop or repeat those runs"
        )
    if sample.size < 2:
        raise ValueError(f"{name!r} has {sample.size} value(s); at least 2 seeds are needed to see any spread")
    return sample


def _check_alpha(alpha: float) -> None:
    if not 0 < alpha < 1:
        raise ValueError(f"alpha must lie in (0, 1), got {alpha}")


def _warn_if_few(count: int) -> None:
    if count < MIN_SEEDS:
        warnings.warn(
            f"{count} seeds say little: run at least {MIN_SEEDS} before you quote an interval or a p-value",
            UserWarning,
            stacklevel=3,
        )


def _unknown_baseline(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    return f"no results of the baseline {name!r}{hint} (results of: {', '.join(map(repr, known)) or 'none'})"
