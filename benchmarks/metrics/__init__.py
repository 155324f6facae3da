"""Costs of running a network."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hessian.support.lazy import lazy_names

if TYPE_CHECKING:
    from benchmarks.metrics.system_metrics import SystemMetrics

__all__ = [
    "SystemMetrics",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "SystemMetrics": "system_metrics",
    },
)
