"""Grids on workers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hessian.support.lazy import lazy_names

if TYPE_CHECKING:
    from benchmarks.studies.engine.workers import LocalWorkers
    from benchmarks.sweep.config import SweepConfig
    from benchmarks.sweep.results_table import read_results
    from benchmarks.sweep.runner import run_sweep

__all__ = ["LocalWorkers", "SweepConfig", "read_results", "run_sweep"]

__getattr__, __dir__ = lazy_names(
    __name__,
    {"LocalWorkers": "command", "SweepConfig": "config", "read_results": "results_table", "run_sweep": "runner"},
)
