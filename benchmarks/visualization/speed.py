"""Pictures of speed: latency and throughput by batch size, accuracy against measured speed-up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.visualization.style import GREY, INK, add_legend, finish, label_axes, look, new_figure

Range = tuple[float, float]


def plot_latency_by_batch(
    latencies: Mapping[str, Mapping[int, float | Range]],
    save_path: str | Path | None = None,
    *,
    title: str = "Latency",
    unit: str = "ms a batch (median to p90)",
) -> Figure:
    """Draw a quantity of several networks over the batch size, both axes logarithmic.

    Args:
        latencies: network -> batch size -> median in ms, or (median, upper end) for a shaded span.
        save_path: where to save the figure, if anywhere.
        title: of the figure.
        unit: label of the vertical axis.

    Raises:
        ValueError: nothing to draw, or a value that is not positive.
    """
    if not latencies or not all(latencies.values()):
        raise ValueError("no latencies to draw: give at least one network with one batch size")
    figure, (axes,) = new_figure(5.8, 3.6)
    for number, (name, by_size) in enumerate(latencies.items()):
        style, sizes = look(number), sorted(by_size)
        ends = np.array([np.broadcast_to(by_size[size], 2) for size in sizes], dtype=float)
        if not (ends > 0).all():
            raise ValueError(f"latencies of {name!r} must be positive, got {dict(by_size)}")
        axes.plot(sizes, ends[:, 0], style.line, marker=style.marker, color=style.colour, linewidth=1.6, label=name)
        axes.fill_between(sizes, ends[:, 0], ends[:, 1], color=style.colour, alpha=0.2, linewidth=0)
    sizes = sorted({size for by_size in latencies.values() for size in by_size})
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks(sizes, labels=[str(size) for size in sizes])
    axes.minorticks_off()
    _plain_ticks(axes)
    label_axes(axes, title=title, x="images a batch", y=unit)
    add_legend(axes)
    return finish(figure, save_path)


def _plain_ticks(axes: Axes) -> None:
    """Ticks of a logarithmic axis at 1, 2, 5 and their tens, written out."""
    low, high = axes.get_ylim()
    exponents = range(int(np.floor(np.log10(low))), int(np.ceil(np.log10(high))) + 1)
    steps = (1, 2, 5) if np.log10(high / low) < 2.5 else (1,)
    ticks = [step * 10.0**exponent for exponent in exponents for step in steps]
    inside = [tick for tick in ticks if low <= tick <= high]
    if len(inside) > 1:
        axes.set_yticks(inside, labels=[f"{tick:,.12g}" for tick in inside])
        axes.set_ylim(low, high)


def plot_accuracy_speedup(
    networks: Mapping[str, Sequence[tuple[float, float, str]]],
    save_path: str | Path | None = None,
    *,
    ideal: float | None = None,
    title: str = "Accuracy against speed-up",
) -> Figure:
    """Draw accuracy against measured speed-up, a marker a measurement.

    Args:
        networks: network or method -> (times faster than the dense network, accuracy as a fraction, label or "").
        save_path: where to save the figure, if anywhere.
        ideal: speed-up if time were proportional to FLOPs; drawn as a line.
        title: of the figure.

    Raises:
        ValueError: nothing to draw.
    """
    if not networks or not all(networks.values()):
        raise ValueError("nothing to draw: give at least one network with one measurement")
    figure, (axes,) = new_figure(6.4, 4.0)
    for number, (name, points) in enumerate(networks.items()):
        style = look(number)
        speedups, accuracies, _ = zip(*points, strict=True)
        axes.plot(
            speedups, 100 * np.array(accuracies), style.marker, color=style.colour, markersize=8, label=name, zorder=3
        )
        # The labels of near points would overlap: they take turns above and below.
        for turn, (speedup, accuracy, label) in enumerate(sorted(points)):
            place = (0, 9 if turn % 2 == 0 else -16)
            axes.annotate(
                label,
                (speedup, 100 * accuracy),
                place,
                textcoords="offset points",
                ha="center",
                fontsize=8.5,
                color=INK,
            )
    axes.axvline(1, color=GREY, linewidth=1, linestyle=":", zorder=0)
    if ideal is not None:
        axes.axvline(ideal, color=INK, linewidth=1, linestyle="--", label="ratio of FLOPs")
    axes.margins(x=0.12, y=0.3)
    label_axes(axes, title=title, x="times the dense network", y="test accuracy (%)")
    add_legend(axes, outside=True)
    return finish(figure, save_path)
