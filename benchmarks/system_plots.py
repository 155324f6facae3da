"""Pictures of a system evaluation: latency and throughput by batch size, accuracy against speed-up."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from benchmarks import speed_plots
from benchmarks.comparison import BatchTimings
from benchmarks.system_report import SystemReport

_NETWORKS = ("dense", "pruned")


def plot_latency(batches: Sequence[BatchTimings], save_path: str | Path | None = None) -> Figure:
    """Draw the median latency of a batch over the batch size, with the span up to the 90th percentile.

    Args:
        batches: rows of a comparison.
        save_path: where to save the figure, if anywhere.
    """
    timed = _timed(batches)
    spans = {
        name: {row.batch_size: (row.timings[name].p50_ms, row.timings[name].p90_ms) for row in timed}
        for name in _NETWORKS
    }
    return speed_plots.plot_latency_by_batch(spans, save_path)


def plot_throughput(batches: Sequence[BatchTimings], save_path: str | Path | None = None) -> Figure:
    """Draw images a second over the batch size.

    Args:
        batches: rows of a comparison.
        save_path: where to save the figure, if anywhere.
    """
    rates = {name: {row.batch_size: row.throughput(name) for row in _timed(batches)} for name in _NETWORKS}
    return speed_plots.plot_latency_by_batch(rates, save_path, title="Throughput", unit="images/s")


def plot_accuracy_speedup(report: SystemReport, save_path: str | Path | None = None) -> Figure:
    """Draw test accuracy against speed-up: the dense network at 1x, the pruned one at every batch size.

    Args:
        report: what was measured.
        save_path: where to save the figure, if anywhere.
    """
    dense, pruned = (report.networks[name].accuracy for name in _NETWORKS)
    points = [(row.speedup("pruned", "dense"), pruned, f"batch {row.batch_size}") for row in _timed(report.batches)]
    networks = {"dense": [(1.0, dense, "")], **({"pruned": points} if points else {})}
    return speed_plots.plot_accuracy_speedup(networks, save_path, ideal=report.ideal_speedup)


def _timed(batches: Sequence[BatchTimings]) -> list[BatchTimings]:
    """Rows whose batch fitted into memory."""
    return [row for row in batches if row.timings]
