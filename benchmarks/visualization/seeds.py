"""Pictures of methods over seeds: accuracy against FLOPs, progress of a search, performance profiles."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from benchmarks.stat_tests.aggregates import Strata, interquartile_curve, performance_profile, stratified_band
from benchmarks.stat_tests.samples import few_seeds_are_stated
from benchmarks.stat_tests.significance import bootstrap_confidence_interval
from benchmarks.visualization.parts import draw_band
from benchmarks.visualization.style import GREY, add_legend, finish, label_axes, look, new_figure

SIDESTEP = 0.04
"""Spread of the points of all methods at one target, relative to the span of the targets."""

Front = Mapping[float, Sequence[float]]
"""FLOPs reduction (a fraction) -> accuracies there (fractions), one a seed."""


def plot_accuracy_flops(
    fronts: Mapping[str, Front],
    save_path: str | Path | None = None,
    *,
    dense_accuracy: float | None = None,
    title: str = "Accuracy against FLOPs removed",
) -> Figure:
    """Draw fronts: mean accuracy of every method by FLOPs reduction, with 95 % bootstrap intervals over seeds.

    Args:
        fronts: method -> FLOPs reduction -> accuracies, one a seed; a single seed is drawn without an interval.
        save_path: where to save the figure, if anywhere.
        dense_accuracy: of the unpruned network, a fraction; drawn as a line.
        title: of the figure.

    Raises:
        ValueError: no methods, a method without points, a point without runs, or a value that is not finite.
    """
    if not fronts or not all(fronts.values()):
        raise ValueError("a front needs methods with at least one FLOPs reduction each")
    figure, (panel,) = new_figure(7.2, 4.2)
    aside = 100 * SIDESTEP * (np.ptp([x for front in fronts.values() for x in front]) or 0.1) / len(fronts)
    for number, (method, front) in enumerate(fronts.items()):
        style = look(number)
        reductions = sorted(front)
        ends = np.array([_mean_and_interval(front[reduction]) for reduction in reductions]).T
        positions = 100 * np.array(reductions)
        panel.plot(
            positions,
            100 * ends[0],
            style.line,
            marker=style.marker,
            markersize=6,
            color=style.colour,
            linewidth=1.6,
            label=method,
        )
        panel.errorbar(
            # Intervals step aside a little, so that those at the same target stay apart.
            positions + aside * (number - (len(fronts) - 1) / 2),
            100 * ends[0],
            yerr=100 * np.array([ends[0] - ends[1], ends[2] - ends[0]]),
            fmt="none",
            ecolor=style.colour,
            elinewidth=1.4,
            capsize=2.5,
        )
    if dense_accuracy is not None:
        panel.axhline(100 * dense_accuracy, color=GREY, linewidth=1, linestyle="--", label="dense")
    label_axes(panel, title=title, x="FLOPs removed (%)", y="accuracy (%): mean, 95 % interval")
    add_legend(panel, outside=True)
    return finish(figure, save_path)


def _mean_and_interval(accuracies: Sequence[float]) -> tuple[float, float, float]:
    values = np.asarray(accuracies, dtype=float)
    if not values.size or not np.isfinite(values).all():
        raise ValueError(f"a point of a front is a non-empty list of finite accuracies, got {accuracies!r}")
    mean = float(values.mean())
    if values.size < 2:
        return mean, mean, mean
    with few_seeds_are_stated():
        low, high = bootstrap_confidence_interval(values, n_bootstrap=2000)
    # Skewed samples: the corrected interval may end beside the mean.
    return mean, min(low, mean), max(high, mean)


def plot_best_so_far(
    curves: Mapping[str, ArrayLike],
    save_path: str | Path | None = None,
    *,
    title: str = "Best plan so far",
    quantity: str = "best soft accuracy on the reward split (%)",
) -> Figure:
    """Draw how searches progress: interquartile mean of the best plan's score against measured evaluations.

    Args:
        curves: method -> [num_runs, evaluations], fractions: the best score after every evaluation of every run.
        save_path: where to save the figure, if anywhere.
        title: of the figure.
        quantity: label of the vertical axis.

    Raises:
        ValueError: no methods, a curve that is not two-dimensional, or a value that is not finite.
    """
    if not curves:
        raise ValueError("no curves to draw: give at least one method with its runs")
    figure, (panel,) = new_figure(7.2, 4.2)
    for number, (method, runs) in enumerate(curves.items()):
        table = np.asarray(runs, dtype=float)
        if table.ndim != 2 or not table.size:
            raise ValueError(f"curves of {method!r} have the shape [runs, evaluations], got {list(table.shape)}")
        with few_seeds_are_stated():
            band = stratified_band(interquartile_curve, [table], n_bootstrap=1000)
        draw_band(panel, np.arange(1, table.shape[1] + 1), band, look(number), method, step=True)
    label_axes(panel, title=title, x="measured evaluations", y=quantity)
    add_legend(panel, outside=True)
    return finish(figure, save_path)


def plot_performance_profiles(
    scores: Mapping[str, Strata], save_path: str | Path | None = None, *, title: str = "Performance profile"
) -> Figure:
    """Draw how large a share of a method's runs reaches a score, with 95 % stratified bootstrap bands.

    Args:
        scores: method -> one array [num_runs] a task, fractions.
        save_path: where to save the figure, if anywhere.
        title: of the figure.

    Raises:
        ValueError: no methods, a method without runs, or a value that is not finite.
    """
    if not scores:
        raise ValueError("no profiles to draw: give at least one method with its runs")
    pooled = np.concatenate([np.asarray(runs, dtype=float) for strata in scores.values() for runs in strata])
    margin = 0.05 * (np.ptp(pooled) or 0.01)
    levels = np.linspace(pooled.min() - margin, pooled.max() + margin, 200)
    figure, (panel,) = new_figure(7.2, 4.2)
    for number, (method, strata) in enumerate(scores.items()):
        with few_seeds_are_stated():
            band = stratified_band(lambda runs: performance_profile(runs, levels), strata, n_bootstrap=1000)
        draw_band(panel, 100 * levels, band, look(number), method, marks=12)
    label_axes(panel, title=title, x="score (%)", y="runs with at least this score (%)")
    add_legend(panel, outside=True)
    return finish(figure, save_path)
