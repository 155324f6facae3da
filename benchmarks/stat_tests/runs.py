"""Statistics of methods that ran with several seeds, however few, as tables show them."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from typing import Any

from benchmarks.common.columns import Interval
from benchmarks.stat_tests.samples import few_seeds_are_stated
from benchmarks.stat_tests.significance import bootstrap_confidence_interval, run_statistical_analysis


def summarise_runs(results: Mapping[str, Mapping[Any, float]], reference: str) -> dict[str, dict[str, Any]]:
    """Describe every method as a table shows it, however many seeds there are; JSON-able.

    Args:
        results: Method -> seed -> result, finite.
        reference: The method the others are compared with; it may be absent.

    Returns:
        Method -> ``mean``, ``std`` (0 for one seed), ``confidence_interval`` (BCa, of the mean; None for one seed), and
        what `run_statistical_analysis` adds for the methods that ran with the reference's seeds, at least two.
        ``comparison`` is None for the others, and infinite numbers within are None.
    """
    found: dict[str, dict[str, Any]] = {}
    for method, values in results.items():
        sample = list(values.values())
        spread = statistics.stdev(sample) if len(sample) > 1 else 0.0
        found[method] = {"mean": statistics.fmean(sample), "std": spread}
        found[method].update(confidence_interval=None, comparison=None)
    shared = results.get(reference, {})
    paired = {method: values for method, values in results.items() if set(values) == set(shared)}
    with few_seeds_are_stated():
        if len(shared) >= 2 and len(paired) >= 2:
            for method, entry in run_statistical_analysis(paired, reference).items():
                found[method].update(_finite(entry))
        for method, values in results.items():
            if len(values) > 1 and found[method]["confidence_interval"] is None:
                found[method]["confidence_interval"] = bootstrap_confidence_interval(list(values.values()))
    return found


def interval_of(entry: Mapping[str, Any]) -> Interval:
    """Return mean and interval of a method that :func:`summarise_runs` described."""
    return Interval(entry["mean"], *(entry.get("confidence_interval") or (None, None)))


def difference_of(entry: Mapping[str, Any]) -> tuple[Interval | None, float | None]:
    """Return a described method's paired difference to the reference with its interval, and the Holm-corrected p-value.

    Both are None for the reference itself and for other seeds, the p-value also where all seeds differ alike, which no
    test can judge.
    """
    comparison = entry["comparison"]
    if comparison is None:
        return None, None
    tested = comparison.get("t_statistic") is not None
    difference = Interval(comparison["mean_difference"], *comparison["difference_interval"])
    return difference, comparison["p_value_holm"] if tested else None


def _finite(value: Any) -> Any:
    """A value as JSON holds it: a difference without any spread has an infinite t-statistic, which becomes None."""
    if isinstance(value, Mapping):
        return {key: _finite(entry) for key, entry in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value
