"""Pictures of a run: training, budgets, prices, lambda(t), and methods compared.

Every function returns a matplotlib ``Figure`` and saves it when given ``save_path``: a name with a suffix (``.png``,
``.svg``, ``.pdf``) gives that file, one without gives PNG and SVG. Accuracies, pruning ratios and FLOPs reductions come
in as fractions and are drawn in percent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from benchmarks.visualization.parts import History, by_layer, draw_dots, draw_kept, draw_noisy_curve, history_columns
from benchmarks.visualization.style import (
    BLUE,
    GREEN,
    GREY,
    INK,
    ORANGE,
    SEQUENTIAL,
    VERMILLION,
    finish,
    label_axes,
    name_rows,
    new_figure,
)

HEATMAP_COLUMNS = 64
TRAINING_PANELS = {
    "return": ("Return: gain over the start plan", "score gained", 1.0, BLUE),
    "accuracy": ("Accuracy on the reward split", "%", 100.0, GREEN),
    "flops_reduction": ("FLOPs removed", "%", 100.0, ORANGE),
}
SUMMARY_PANELS = (
    ("Accuracy (%)", "accuracy", 100.0, "{:.1f}"),
    ("MFLOPs", "flops", 1e-6, "{:.2f}"),
    ("Parameters (k)", "parameters", 1e-3, "{:.1f}"),
    ("Latency (ms)", "latency_ms", 1.0, "{:.2f}"),
)
SUMMARY_NETWORKS = {
    "dense": ("dense", GREY),
    "one_shot": ("one-\nshot", ORANGE),
    "reconstructed": ("recon-\nstructed", VERMILLION),
    "final": ("fine-\ntuned", BLUE),
}
"""Networks of a result: what they are called below a bar, and its colour."""


def plot_training_curves(history: History, save_path: str | Path | None = None) -> Figure:
    """Draw how training went: return, accuracy and FLOPs reduction by episode.

    Args:
        history: columns or rows with any of ``return``, ``accuracy``, ``flops_reduction``; a column
            ``target_flops_reduction`` adds the target as a line.
        save_path: where to save the figure, if anywhere.

    Raises:
        ValueError: none of the columns is there, or there are no episodes.
    """
    columns = history_columns(history, ("episode", *TRAINING_PANELS, "target_flops_reduction"))
    shown = [name for name in TRAINING_PANELS if name in columns]
    if not shown or not len(columns[shown[0]]):
        known, given = ", ".join(TRAINING_PANELS), ", ".join(columns) or "none"
        raise ValueError(f"history needs episodes with at least one of {known}; got {given}")
    episodes = columns.get("episode", np.arange(1, len(columns[shown[0]]) + 1))
    figure, axes = new_figure(8, 2.1 * len(shown) + 0.4, rows=len(shown), sharex=True)
    for panel, name in zip(axes, shown, strict=True):
        title, unit, scale, colour = TRAINING_PANELS[name]
        draw_noisy_curve(panel, episodes, scale * columns[name], colour)
        label_axes(panel, title=title, y=unit)
        if name == "flops_reduction" and "target_flops_reduction" in columns:
            target = 100 * columns["target_flops_reduction"]
            panel.plot(episodes, target, color=INK, linewidth=1, linestyle="--", label="target")
            panel.legend(frameon=False, fontsize=8.5, loc="best")
    axes[0].legend(frameon=False, fontsize=8.5, loc="best")
    axes[-1].set_xlabel("episode", fontsize=9.5, color=INK)
    return finish(figure, save_path)


def plot_pruning_comparison(
    methods: Sequence[str],
    accuracies: Sequence[float],
    speedups: Sequence[float],
    save_path: str | Path | None = None,
) -> Figure:
    """Compare methods by accuracy and speed-up, one row a method.

    Args:
        methods: names.
        accuracies: fractions in [0, 1], one a method.
        speedups: times faster than the dense network (2.0 = half the time), one a method.
        save_path: where to save the figure, if anywhere.

    Raises:
        ValueError: no methods, or lists of different lengths.
    """
    if not methods or not len(methods) == len(accuracies) == len(speedups):
        raise ValueError(
            "plot_pruning_comparison needs one accuracy and one speed-up a method; got "
            f"{len(methods)} methods, {len(accuracies)} accuracies, {len(speedups)} speed-ups"
        )
    figure, (left, right) = new_figure(8.5, 0.42 * len(methods) + 1.4, columns=2, sharey=True)
    draw_dots(left, [100 * accuracy for accuracy in accuracies], "{:.1f}", BLUE, "o")
    draw_dots(right, speedups, "{:.2f}x", VERMILLION, "D")
    right.axvline(1, color=GREY, linewidth=1, linestyle="--")
    label_axes(left, title="Accuracy", x="%")
    label_axes(right, title="Speed-up", x="times the dense network")
    name_rows(left, methods)
    right.grid(False, axis="y")
    return finish(figure, save_path)


def plot_sensitivity_heatmap(
    sensitivity_scores: Mapping[str, ArrayLike] | Sequence[ArrayLike],
    layer_names: Sequence[str],
    save_path: str | Path | None = None,
) -> Figure:
    """Draw the price of every channel: a row a layer, its channels from cheapest to dearest.

    Layers differ in width, so a row is the layer's sorted prices stretched to a common length. The colour is log10
    of the price.

    Args:
        sensitivity_scores: per-channel prices ``[channels]`` in nats, by layer name or in the order of
            ``layer_names``.
        layer_names: the rows, top to bottom.
        save_path: where to save the figure, if anywhere.

    Raises:
        ValueError: a layer without prices, or no layers.
    """
    scores = by_layer(sensitivity_scores, layer_names)
    positions = np.linspace(0, 1, HEATMAP_COLUMNS)
    floor = min((values[values > 0].min() for values in scores if (values > 0).any()), default=1e-12)
    rows = [
        np.interp(positions, np.linspace(0, 1, len(values)), np.log10(np.maximum(np.sort(values), floor)))
        for values in scores
    ]
    figure, (panel,) = new_figure(8, 0.28 * len(rows) + 1.4)
    prices = np.stack(rows)
    low, high = np.percentile(prices, (1, 99))
    image = panel.imshow(prices, aspect="auto", cmap=SEQUENTIAL, interpolation="nearest", vmin=low, vmax=high)
    panel.grid(False)
    panel.set_yticks(range(len(rows)), labels=list(layer_names))
    panel.set_xticks([-0.5, (HEATMAP_COLUMNS - 1) / 2, HEATMAP_COLUMNS - 0.5], labels=["0", "50", "100"])
    label_axes(panel, title="Price of removing a channel", x="channels of the layer, cheapest first (%)")
    bar = figure.colorbar(image, ax=panel, pad=0.01, extend="both")
    bar.set_label("log10 of the predicted loss increase (nats)", fontsize=9, color=INK)
    bar.ax.tick_params(labelsize=8.5)
    return finish(figure, save_path)


def plot_lambda_evolution(
    lambda_history: Sequence[float],
    acc_history: Sequence[float],
    save_path: str | Path | None = None,
    *,
    first_episode: int = 1,
) -> Figure:
    """Draw the adaptive weight lambda(t) above the accuracy it answers to.

    Args:
        lambda_history: lambda of every episode.
        acc_history: accuracy of every episode's plan, a fraction in [0, 1].
        save_path: where to save the figure, if anywhere.
        first_episode: number of the first one.

    Raises:
        ValueError: no episodes, or histories of different lengths.
    """
    if not len(lambda_history) or len(lambda_history) != len(acc_history):
        raise ValueError(
            "plot_lambda_evolution needs one accuracy a lambda; got "
            f"{len(lambda_history)} lambdas and {len(acc_history)} accuracies"
        )
    figure, (top, bottom) = new_figure(8, 4.4, rows=2, sharex=True)
    weights = np.asarray(lambda_history, dtype=float)
    episodes = np.arange(len(weights)) + first_episode
    top.step(episodes, weights, where="post", color=VERMILLION, linewidth=1.4)
    label_axes(top, title="lambda(t): weight of a missed FLOPs target", y="lambda")
    draw_noisy_curve(bottom, episodes, 100 * np.asarray(acc_history, dtype=float), GREEN)
    label_axes(bottom, title="Accuracy on the reward split", x="episode", y="%")
    bottom.legend(frameon=False, fontsize=8.5, loc="best")
    return finish(figure, save_path)


def plot_budgets(
    budgets: Mapping[str, float],
    sensitivity_scores: Mapping[str, ArrayLike],
    save_path: str | Path | None = None,
) -> Figure:
    """Draw every layer's budget beside the price of its channels.

    Args:
        budgets: fraction of each layer's channels removed, by layer name.
        sensitivity_scores: per-channel prices ``[channels]`` in nats, by layer name.
        save_path: where to save the figure, if anywhere.

    Raises:
        ValueError: a layer without prices, or no layers.
    """
    names = list(budgets)
    scores = by_layer(sensitivity_scores, names)
    figure, (left, right) = new_figure(9, 0.28 * len(names) + 1.5, columns=2, sharey=True)
    draw_kept(left, budgets)
    rows = np.arange(len(names))
    low, median, high = np.array([np.percentile(values, (10, 50, 90)) for values in scores]).T
    right.hlines(rows, low, high, color=ORANGE, linewidth=5, alpha=0.55)
    right.plot(median, rows, "D", color=INK, markersize=4.5)
    if (low > 0).all():
        right.set_xscale("log")
    label_axes(right, title="Price of one channel: median, 10-90 %", x="predicted loss increase (nats)")
    right.grid(False, axis="y")
    return finish(figure, save_path)


def plot_summary(result: Mapping[str, Any], save_path: str | Path | None = None) -> Figure:
    """Draw a run at a glance: what every layer keeps, and what that does to accuracy, FLOPs, size and latency.

    Args:
        result: the content of ``result.json``.
        save_path: where to save the figure, if anywhere.
    """
    budgets: Mapping[str, float] = result["budgets"]
    figure, axes = new_figure(11, 0.26 * len(budgets) + 1.6, columns=5, width_ratios=[2.6, 1, 1, 1, 1])
    draw_kept(axes[0], budgets)
    shown = [name for name in SUMMARY_NETWORKS if name in result]  # older results know of no reconstruction
    networks = [result[name] for name in shown]
    for panel, (title, key, scale, text) in zip(axes[1:], SUMMARY_PANELS, strict=True):
        values = [scale * network[key] for network in networks]
        panel.bar(range(len(shown)), values, width=0.66, color=[SUMMARY_NETWORKS[name][1] for name in shown])
        for position, value in enumerate(values):
            panel.annotate(
                text.format(value), (position, value), (0, 2), textcoords="offset points", ha="center", fontsize=8.5
            )
        panel.set_xticks(range(len(shown)), labels=[SUMMARY_NETWORKS[name][0] for name in shown])
        panel.set_yticks([])
        panel.spines["left"].set_visible(False)
        panel.grid(False)
        label_axes(panel, title=title)
    title = f"{result['task']}: {100 * result['flops_reduction']:.1f} % of the FLOPs removed"
    figure.suptitle(title, x=0.01, ha="left", fontsize=12)
    return finish(figure, save_path)
