"""One look for every figure: colour-blind safe, legible in grey, no global state.

Figures are built with matplotlib's object interface and its file renderer; neither pyplot nor ``rcParams`` is
touched, so plots can be made in threads, in notebooks and on machines without a display.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from prune_gym.files import write_atomic

# Okabe and Ito's palette, the part of it that also differs in lightness.
BLUE, ORANGE, GREEN, VERMILLION, INK, GREY, PALE = (
    "#0072B2",
    "#E69F00",
    "#009E73",
    "#D55E00",
    "#222222",
    "#7F7F7F",
    "#E3E8EC",
)
SEQUENTIAL = "cividis"
"""Colour map for magnitudes: perceptually uniform, the same to colour-blind eyes, monotone in grey."""


def new_figure(
    width: float, height: float, rows: int = 1, columns: int = 1, **subplot_options: Any
) -> tuple[Figure, list[Axes]]:
    """Return an empty figure of the house style and its axes, row by row.

    Args:
        width: inches.
        height: inches.
        rows: rows of panels.
        columns: columns of panels.
        **subplot_options: passed to ``Figure.subplots``.
    """
    figure = Figure(figsize=(width, height), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    grid = figure.subplots(rows, columns, squeeze=False, **subplot_options)
    axes: list[Axes] = list(grid.flat)
    for panel in axes:
        style_axes(panel)
    return figure, axes


def style_axes(axes: Axes) -> None:
    """Apply the house style to a panel: open frame, light grid behind the data, small ticks."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(GREY)
    axes.tick_params(colors=INK, labelsize=9, length=3, color=GREY)
    axes.grid(True, color=PALE, linewidth=0.8)
    axes.set_axisbelow(True)


def label_axes(axes: Axes, *, title: str = "", x: str = "", y: str = "") -> None:
    """Set a panel's title (left, bold) and axis labels."""
    axes.set_title(title, loc="left", fontsize=10.5, fontweight="bold", color=INK)
    axes.set_xlabel(x, fontsize=9.5, color=INK)
    axes.set_ylabel(y, fontsize=9.5, color=INK)


def name_rows(axes: Axes, names: Sequence[str]) -> None:
    """Label the rows of a panel with names, the first on top."""
    axes.set_yticks(range(len(names)), labels=list(names))
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.grid(False, axis="y")


def finish(figure: Figure, save_path: str | Path | None) -> Figure:
    """Save a figure, whole or not at all, if asked to, and return it.

    Args:
        figure: what to save.
        save_path: file to write; its suffix decides the format (``.png``, ``.svg``, ``.pdf``), none means PNG.

    Raises:
        ValueError: the suffix is no image format.
    """
    if save_path is not None:
        path = Path(save_path)
        path = path if path.suffix else path.with_suffix(".png")
        image = io.BytesIO()
        figure.savefig(image, format=path.suffix[1:], dpi=160)
        write_atomic(path, image.getvalue())
    return figure
