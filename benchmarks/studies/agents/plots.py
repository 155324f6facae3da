"""Pictures of the comparison of agents: best-so-far curves with intervals, and fronts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from benchmarks.studies.agents.curves import curves_of, is_front
from benchmarks.visualization.parts import draw_band
from benchmarks.visualization.seeds import plot_accuracy_flops
from benchmarks.visualization.style import add_legend, finish, label_axes, look, new_figure

Result = Mapping[str, Any]

SHADED = 4
"""Agents whose intervals a picture shows, those that end best; more of them cover each other."""


def plot_progress(results: Sequence[Result], title: str, save_path: str | Path | None = None) -> Figure:
    """Draw the best measured plan's soft accuracy against measured evaluations, a line an agent, the best on top.

    The :data:`SHADED` agents that end best have their intervals as bands; those of all are in the table.

    Args:
        results: finished runs at one target.
        title: of the figure.
        save_path: where to save it, if anywhere.

    Raises:
        ValueError: no runs.
    """
    groups = _by_agent([result for result in results if not is_front(result)])
    length = max(len(result["evaluations"]) for group in groups.values() for result in group)
    figure, (panel,) = new_figure(7.5, 4.2)
    evaluations = np.arange(1, length + 1)
    looks = {agent: look(number) for number, agent in enumerate(groups)}
    bands = {agent: curves_of(group, length) for agent, group in groups.items()}
    ranked = sorted(bands, key=lambda agent: -bands[agent].value[-1])
    for place, agent in enumerate(ranked):
        shaded = place < SHADED
        draw_band(panel, evaluations, bands[agent], looks[agent], agent, step=True, interval=shaded)
    label_axes(panel, title=title, x="measured evaluations", y="best soft accuracy on the reward split (%)")
    add_legend(panel, outside=True)
    return finish(figure, save_path)


def plot_fronts(results: Sequence[Result], title: str, save_path: str | Path | None = None) -> Figure:
    """Draw test accuracy against FLOPs reduction of the best plans, a line an agent, with intervals over runs.

    Args:
        results: finished runs of one task that served several targets.
        title: of the figure.
        save_path: where to save it, if anywhere.

    Raises:
        ValueError: no runs.
    """
    groups = _by_agent([result for result in results if is_front(result)])
    return plot_accuracy_flops({agent: _front(group) for agent, group in groups.items()}, save_path, title=title)


def _front(group: Sequence[Result]) -> dict[float, list[float]]:
    """Mean FLOPs reduction at every target -> one-shot test accuracies, one a run."""
    plans = zip(*(result["best"].values() for result in group), strict=True)
    return {
        float(np.mean([plan["flops_reduction"] for plan in at_target])): [plan["test_accuracy"] for plan in at_target]
        for at_target in plans
    }


def _by_agent(results: Sequence[Result]) -> dict[str, list[Result]]:
    if not results:
        raise ValueError("nothing to draw: no finished runs of this kind")
    groups: dict[str, list[Result]] = {}
    for result in results:
        groups.setdefault(result["agent"], []).append(result)
    return groups
