"""Pictures of a system evaluation: latency and throughput by batch size, accuracy against speed-up."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, NullLocator
from scipy.stats import binomtest

from benchmarks.metrics.comparison import BatchTimings
from benchmarks.system_eval.report import SystemReport
from benchmarks.visualization.style import BLUE, GREY, INK, VERMILLION, finish, label_axes, new_figure

_LOOKS = {"dense": (GREY, "s"), "pruned": (BLUE, "o")}


def plot_latency(batches: Sequence[BatchTimings], save_path: str | Path | None = None) -> Figure:
    """Draw the median latency of a batch over the batch size, with the span up to the 90th percentile.

    Args:
        batches: rows of a comparison.
        save_path: where to save the figure, if anywhere.
    """
    figure = _by_batch(batches, lambda row, name: row.timings[name].p50_ms, "Latency", "ms a batch (median to p90)")
    axes = figure.axes[0]
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.yaxis.set_minor_formatter(NullFormatter())
    for name, (colour, _) in _LOOKS.items():
        rows = [row for row in batches if row.timings]
        sizes = [row.batch_size for row in rows]
        medians, tops = ([getattr(row.timings[name], key) for row in rows] for key in ("p50_ms", "p90_ms"))
        axes.fill_between(sizes, medians, tops, color=colour, alpha=0.2, linewidth=0)
    return finish(figure, save_path)


def plot_throughput(batches: Sequence[BatchTimings], save_path: str | Path | None = None) -> Figure:
    """Draw images a second over the batch size, with the pruned network's speed-up.

    Args:
        batches: rows of a comparison.
        save_path: where to save the figure, if anywhere.
    """
    figure = _by_batch(batches, BatchTimings.throughput, "Throughput", "images/s")
    axes = figure.axes[0]
    axes.margins(y=0.18)
    axes.set_ylim(bottom=0)
    for row in batches:
        if row.timings:
            point = (row.batch_size, row.throughput("pruned"))
            _note(axes, f"{row.speedup('pruned', 'dense'):.1f}x", point, above=True)
    return finish(figure, save_path)


def plot_accuracy_speedup(report: SystemReport, save_path: str | Path | None = None) -> Figure:
    """Draw test accuracy against speed-up: the dense network at 1x, the pruned one at every batch size.

    Bars are 95 % Wilson intervals of the accuracies, as the test split is a sample.

    Args:
        report: what was measured.
        save_path: where to save the figure, if anywhere.
    """
    figure, (axes,) = new_figure(5.6, 3.8)
    rows = [row for row in report.batches if row.timings]
    speedups = [row.speedup("pruned", "dense") for row in rows]
    for name, places in (("dense", [1.0]), ("pruned", speedups)):
        accuracy, (low, high) = 100 * report.networks[name].accuracy, _interval(report, name)
        colour, marker = _LOOKS[name]
        spans = [[accuracy - low] * len(places), [high - accuracy] * len(places)]
        axes.errorbar(
            places, [accuracy] * len(places), spans, fmt=marker, color=colour, markersize=8, capsize=3, label=name
        )
    # The labels of near points would overlap: they take turns above and below.
    order = sorted(range(len(rows)), key=lambda index: speedups[index])
    for turn, index in enumerate(order):
        above = turn % 2 == 0
        _note(axes, f"batch {rows[index].batch_size}", (speedups[index], (low, high)[above]), above)
    axes.axvline(report.ideal_speedup, color=VERMILLION, linewidth=1, linestyle="--")
    axes.annotate(
        "ratio of FLOPs",
        (report.ideal_speedup, 0.02),
        (-5, 0),
        xycoords=("data", "axes fraction"),
        textcoords="offset points",
        rotation=90,
        ha="right",
        va="bottom",
        fontsize=8.5,
        color=VERMILLION,
    )
    axes.margins(x=0.12, y=0.2)
    label_axes(
        axes, title="Accuracy against speed-up", x="times as fast as dense", y="test accuracy (%), 95 % interval"
    )
    axes.legend(frameon=False, fontsize=8.5, loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=2, borderpad=0)
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
    axes.set_xticks(sizes, labels=[str(size) for size in sizes])
    label_axes(axes, title=title, x="images a batch", y=unit)
    axes.xaxis.set_minor_locator(NullLocator())
    axes.legend(frameon=False, fontsize=8.5, loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=2, borderpad=0)
    return figure


def _note(axes: Axes, text: str, point: tuple[float, float], above: bool) -> None:
    axes.annotate(
        text, point, (0, 9 if above else -16), textcoords="offset points", ha="center", fontsize=8.5, color=INK
    )


def _interval(report: SystemReport, name: str) -> tuple[float, float]:
    """95 % interval of a network's accuracy over all images like the test split's, in percent (Wilson, 1927)."""
    right = round(report.networks[name].accuracy * report.test_images)
    interval = binomtest(right, report.test_images).proportion_ci(method="wilson")
    return 100 * float(interval.low), 100 * float(interval.high)
