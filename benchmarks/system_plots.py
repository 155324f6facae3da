"""Pictures of a system evaluation: latency and throughput by batch size, accuracy against speed-up."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from matplotlib.figure import Figure

from benchmarks.comparison import BatchTimings
from benchmarks.plot_style import BLUE, GREY, INK, VERMILLION, finish, label_axes, new_figure
from benchmarks.system_report import SystemReport

_LOOKS = {"dense": (GREY, "s"), "pruned": (BLUE, "o")}


def plot_latency(batches: Sequence[BatchTimings], save_path: str | Path | None = None) -> Figure:
    """Draw the median latency of a batch over the batch size, with the span up to the 90th percentile.

    Args:
        batches: rows of a comparison.
        save_path: where to save the figure, if anywhere.
    """
    figure = _by_batch(batches, lambda row, name: row.timings[name].p50_ms, "Latency", "ms a batch (median to p90)")
    for name, (colour, _) in _LOOKS.items():
        rows = [row for row in batches if row.timings]
        sizes = [row.batch_size for row in rows]
        medians, tops = ([getattr(row.timings[name], key) for row in rows] for key in ("p50_ms", "p90_ms"))
        figure.axes[0].fill_between(sizes, medians, tops, color=colour, alpha=0.2, linewidth=0)
    return finish(figure, save_path)


def plot_throughput(batches: Sequence[BatchTimings], save_path: str | Path | None = None) -> Figure:
    """Draw images a second over the batch size.

    Args:
        batches: rows of a comparison.
        save_path: where to save the figure, if anywhere.
    """
    return finish(_by_batch(batches, BatchTimings.throughput, "Throughput", "images/s"), save_path)


def plot_accuracy_speedup(report: SystemReport, save_path: str | Path | None = None) -> Figure:
    """Draw test accuracy against speed-up: the dense network at 1x, the pruned one at every batch size.

    Args:
        report: what was measured.
        save_path: where to save the figure, if anywhere.
    """
    figure, (axes,) = new_figure(5.6, 3.8)
    dense, pruned = (100 * report.networks[name].accuracy for name in ("dense", "pruned"))
    axes.plot([1], [dense], _LOOKS["dense"][1], color=GREY, markersize=8, label="dense")
    rows = [row for row in report.batches if row.timings]
    speedups = [row.speedup("pruned", "dense") for row in rows]
    axes.plot(speedups, [pruned] * len(rows), _LOOKS["pruned"][1], color=BLUE, markersize=8, label="pruned")
    # The labels of near points would overlap: they take turns above and below.
    order = sorted(range(len(rows)), key=lambda index: speedups[index])
    for turn, index in enumerate(order):
        axes.annotate(
            f"batch {rows[index].batch_size}",
            (speedups[index], pruned),
            (0, 9 if turn % 2 == 0 else -16),
            textcoords="offset points",
            ha="center",
            fontsize=8.5,
            color=INK,
        )
    axes.axvline(report.ideal_speedup, color=VERMILLION, linewidth=1, linestyle="--", label="ratio of FLOPs")
    axes.margins(x=0.12, y=0.35)
    label_axes(axes, title="Accuracy against speed-up", x="times the dense network", y="test accuracy (%)")
    axes.legend(frameon=False, fontsize=8.5, loc="best")
    return finish(figure, save_path)


def _by_batch(
    batches: Sequence[BatchTimings], value: Callable[[BatchTimings, str], float], title: str, unit: str
) -> Figure:
    figure, (axes,) = new_figure(5.6, 3.4)
    rows = [row for row in batches if row.timings]
    sizes = [row.batch_size for row in rows]
    for name, (colour, marker) in _LOOKS.items():
        axes.plot(sizes, [value(row, name) for row in rows], marker=marker, color=colour, linewidth=1.6, label=name)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks(sizes, labels=[str(size) for size in sizes])
    label_axes(axes, title=title, x="images a batch", y=unit)
    axes.legend(frameon=False, fontsize=8.5, loc="best")
    return figure
