"""What tables say of methods that ran with several seeds, however few."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from typing import Any

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


def _finite(value: Any) -> Any:
    """A value as JSON holds it: a difference without any spread has an infinite t-statistic, which becomes None."""
    if isinstance(value, Mapping):
        return {key: _finite(entry) for key, entry in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value
