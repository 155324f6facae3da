"""Prices against the truth, as a picture."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator

from benchmarks.visualization.style import GREY, INK, SEQUENTIAL, finish, label_axes, new_figure
from hessian.audit.report import AuditReport, Removal

MARKERS = ("o", "s", "^", "D", "v", "P")


def plot_audit(reports: dict[str, AuditReport], title: str, save_path: str | Path | None = None) -> Figure:
    """Predicted against true divergence, log-log: a row of panels a set of images, a colour a layer.

    Args:
        reports: name of the images -> what was found on them.
        title: name of the network.
        save_path: file to write, or None.

    Raises:
        ValueError: there is nothing to draw.
    """
    if not reports:
        raise ValueError("no audit to draw; pass at least one report")
    layers = list(dict.fromkeys(removal.layer for report in reports.values() for removal in report.cuts))
    shades = dict(zip(layers, colormaps[SEQUENTIAL](np.linspace(0.0, 0.95, len(layers))), strict=True))
    figure, panels = new_figure(10.6, 3.9 * len(reports) + 0.3, rows=len(reports), columns=2)
    for row, (images, report) in enumerate(reports.items()):
        single, cut = panels[2 * row], panels[2 * row + 1]
        _scatter(single, report.channels, shades, ["o"])
        _scatter(cut, report.cuts, shades, MARKERS)
        price = report.price
        label_axes(
            single,
            title=f"Single channels, {images} images: Spearman {price.single_channels.value:.2f}",
            x="price (nats)",
            y="true KL after repair (nats)",
        )
        label_axes(
            cut,
            title=f"Cuts of a layer, {images} images: Spearman {price.across_layers.value:.2f}",
            x="predicted loss (nats)",
            y="true KL after repair (nats)",
        )
    _legends(figure, next(iter(reports.values())), shades)
    figure.suptitle(title, x=0.01, ha="left", fontsize=11.5, fontweight="bold", color=INK)
    return finish(figure, save_path)


def _scatter(axes: Axes, removals: Sequence[Removal], shades: dict[str, np.ndarray], markers: Sequence[str]) -> None:
    fractions = sorted({removal.fraction or 0.0 for removal in removals})
    shown = [removal for removal in removals if removal.predicted > 0 and removal.kl > 0]
    for fraction, marker in zip(fractions, itertools.cycle(markers), strict=False):
        points = [removal for removal in shown if (removal.fraction or 0.0) == fraction]
        axes.scatter(
            [removal.predicted for removal in points],
            [removal.kl for removal in points],
            c=[shades[removal.layer] for removal in points],
            marker=marker,
            s=26,
            linewidths=0.4,
            edgecolors="white",
        )
    axes.set_xscale("log")
    axes.set_yscale("log")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(LogLocator(numticks=8))
    limits = (max(axes.get_xlim()[0], axes.get_ylim()[0]), min(axes.get_xlim()[1], axes.get_ylim()[1]))
    if limits[0] < limits[1]:
        axes.plot(limits, limits, color=GREY, linewidth=1, linestyle="--", zorder=0)


def _legends(figure: Figure, report: AuditReport, shades: dict[str, np.ndarray]) -> None:
    handles = [
        Line2D([], [], linestyle="", marker="o", markersize=6, color=tuple(shade), label=layer)
        for layer, shade in shades.items()
    ]
    fractions = sorted({removal.fraction for removal in report.cuts if removal.fraction is not None})
    handles += [
        Line2D([], [], linestyle="", marker=marker, markersize=6, color=GREY, label=f"{100 * fraction:g} % cut")
        for fraction, marker in zip(fractions, MARKERS, strict=False)
    ]
    handles.append(Line2D([], [], linestyle="--", color=GREY, linewidth=1, label="price = truth"))
    figure.legend(handles=handles, loc="outside right center", frameon=False, fontsize=8.5)
