"""The pictures that only a report draws: budgets of several methods, layer by layer."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from benchmarks.plot_style import INK, SEQUENTIAL, finish, label_axes, new_figure


def plot_layers(budgets: Mapping[str, Mapping[str, float]], title: str, save_path: str | Path | None = None) -> Figure:
    """Draw how much every method takes from every layer: a row a layer, a column a method.

    Args:
        budgets: method -> layer -> pruning ratio, the same layers for all.
        title: of the figure.
        save_path: where to save it, if anywhere.

    Raises:
        ValueError: no methods, no layers, or methods with different layers.
    """
    layers = list(next(iter(budgets.values()), {}))
    if not layers or any(set(given) != set(layers) for given in budgets.values()):
        raise ValueError(f"budgets of the same layers are needed for all methods, got {dict(budgets)}")
    ratios = 100 * np.array([[given[layer] for given in budgets.values()] for layer in layers])
    figure, (panel,) = new_figure(max(5.0, 2.6 + 0.95 * len(budgets)), 0.3 * len(layers) + 1.7)
    image = panel.imshow(ratios, aspect="auto", cmap=SEQUENTIAL, vmin=0, vmax=100)
    for (row, column), ratio in np.ndenumerate(ratios):
        colour = "white" if ratio < 50 else INK
        panel.text(column, row, f"{ratio:.0f}", ha="center", va="center", fontsize=8.5, color=colour)
    panel.grid(False)
    panel.set_yticks(range(len(layers)), labels=layers)
    panel.set_xticks(range(len(budgets)), labels=list(budgets), rotation=25, ha="right", rotation_mode="anchor")
    label_axes(panel, title=title)
    bar = figure.colorbar(image, ax=panel, pad=0.02)
    bar.set_label("channels removed (%)", fontsize=9, color=INK)
    bar.ax.tick_params(labelsize=8.5)
    return finish(figure, save_path)
