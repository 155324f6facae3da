"""Statistics: whether a difference is more than luck."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hessian.support.lazy import lazy_names

if TYPE_CHECKING:
    from benchmarks.stat_tests.aggregates import (
        interquartile_mean,
        performance_profile,
        probability_of_improvement,
        stratified_band,
        stratified_bootstrap,
    )
    from benchmarks.stat_tests.significance import (
        bootstrap_confidence_interval,
        paired_t_test,
        run_statistical_analysis,
    )

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

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "bootstrap_confidence_interval": "significance",
        "interquartile_mean": "aggregates",
        "paired_t_test": "significance",
        "performance_profile": "aggregates",
        "probability_of_improvement": "aggregates",
        "run_statistical_analysis": "significance",
        "stratified_band": "aggregates",
        "stratified_bootstrap": "aggregates",
    },
)
