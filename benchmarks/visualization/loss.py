"""Predicted loss curves against what removing units really did, layer by layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from benchmarks.visualization.style import BLUE, INK, VERMILLION, finish, new_figure

Points = Sequence[tuple[float, float]]
"""(share of the layer's units removed, loss increase measured in nats)."""

COLUMNS = 4


def plot_loss_curves(
    predicted: Mapping[str, ArrayLike],
    measured: Mapping[str, Points],
    save_path: str | Path | None = None,
    *,
    title: str = "Loss of cutting one layer: predicted and measured",
) -> Figure:
    """Draw every layer's predicted loss curve and, on top, what cuts of it measured; logarithmic, one scale for all.

    Args:
        predicted: layer -> [num_units] predicted loss increase (nats) after removing the first k units, k = 0, 1, ...;
            ``HOBSSensitivityAnalyzer.curves``.
        measured: layer -> points; layers may be missing.
        save_path: where to save the figure, if anywhere.
        title: of the figure.

    Raises:
        ValueError: no layers, measurements of layers without a prediction, or nothing positive to draw.
    """
    unknown = [name for name in measured if name not in predicted]
    if not predicted or unknown:
        raise ValueError(f"no predicted curve of the layers {', '.join(unknown) or '(none given)'}")
    curves = {name: np.asarray(curve, dtype=float) for name, curve in predicted.items()}
    if not any((curve > 0).any() for curve in curves.values()):
        raise ValueError("predicted losses are all zero; there is nothing to draw on a logarithmic scale")
    columns = min(COLUMNS, len(curves))
    rows = -(-len(curves) // columns)
    figure, panels = new_figure(2.55 * columns + 0.4, 1.75 * rows + 0.9, rows, columns, sharex=True, sharey=True)
    for panel, (name, curve) in zip(panels, curves.items(), strict=False):
        shares, shown = 100 * np.arange(len(curve)) / len(curve), curve > 0
        panel.plot(shares[shown], curve[shown], "-", color=BLUE, linewidth=1.8, label="predicted")
        points = [(100 * share, loss) for share, loss in measured.get(name, ()) if loss > 0]
        if points:
            panel.plot(*zip(*points, strict=True), "D", color=VERMILLION, markersize=5, label="measured (KL)")
        panel.set_yscale("log")
        panel.set_xlim(0, 100)
        panel.set_title(name, loc="left", fontsize=9.5, color=INK)
    for panel in panels[len(curves) :]:
        panel.set_visible(False)
    handles = {
        label: handle for panel in panels for handle, label in zip(*panel.get_legend_handles_labels(), strict=True)
    }
    figure.legend(handles.values(), handles.keys(), loc="outside upper right", ncols=2, frameon=False, fontsize=9)
    figure.supxlabel("units of the layer removed (%)", fontsize=9.5, color=INK)
    figure.supylabel("loss increase (nats)", fontsize=9.5, color=INK)
    figure.suptitle(title, x=0.01, ha="left", fontsize=11, fontweight="bold", color=INK)
    return finish(figure, save_path)
