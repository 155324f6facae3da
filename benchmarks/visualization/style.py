"""One look for every figure: colour-blind safe, legible in grey, no global state.

Figures are built with matplotlib's object interface and its file renderer; neither pyplot nor ``rcParams`` is
touched, so plots can be made in threads, in notebooks and on machines without a display.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from hessian.support.files import write_atomic

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

FORMATS = (".png", ".svg", ".pdf")
"""Suffixes figures are saved under."""

COLOURS = (BLUE, VERMILLION, GREEN, ORANGE, INK, GREY)
LINES = ("-", "--", ":", "-.")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")


@dataclass(frozen=True)
class Look:
    """Look of one of several series: colour, line and marker all tell it apart.

    Attributes:
        colour: of the line and its markers.
        line: matplotlib's line style.
        marker: matplotlib's marker.
    """

    colour: str
    line: str
    marker: str


def look(number: int) -> Look:
    """Look of the n-th series; no two of the first 24 share colour and line, and neighbours share nothing."""
    line = LINES[(number // len(COLOURS) + number) % len(LINES)]
    return Look(COLOURS[number % len(COLOURS)], line, MARKERS[number % len(MARKERS)])


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


def add_legend(axes: Axes, *, outside: bool = False, **options: Any) -> None:
    """Put a legend of the house style into a panel, or to the right of it."""
    place: dict[str, Any] = {"loc": "center left", "bbox_to_anchor": (1.0, 0.5)} if outside else {"loc": "best"}
    axes.legend(**{"frameon": False, "fontsize": 8.5, **place, **options})


def finish(figure: Figure, save_path: str | Path | None) -> Figure:
    """Save a figure if asked to, and return it.

    Args:
        figure: what to save.
        save_path: see :func:`save_figure`; None saves nothing.
    """
    if save_path is not None:
        save_figure(figure, save_path)
    return figure


def save_figure(figure: Figure, path: str | Path) -> list[Path]:
    """Write a figure, each file whole or not at all.

    Args:
        figure: what to save.
        path: a file whose suffix decides the format (``.png``, ``.svg``, ``.pdf``), or a name without one of these
            suffixes: PNG and SVG, side by side.

    Returns:
        The files written.
    """
    path = Path(path)
    paths = [path] if path.suffix in FORMATS else [path.with_name(path.name + suffix) for suffix in (".png", ".svg")]
    layout = figure.get_layout_engine()
    for file in paths:
        image = io.BytesIO()
        # Without its date, the same figure is the same file.
        options: dict[str, Any] = {"metadata": {"Date": None}} if file.suffix == ".svg" else {}
        figure.savefig(image, format=file.suffix[1:], dpi=160, **options)
        write_atomic(file, image.getvalue())
        figure.set_layout_engine("none")  # the other file is laid out as the first: that takes half of the drawing
    figure.set_layout_engine(layout)
    return paths
