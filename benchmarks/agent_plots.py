"""Pictures of the comparison of agents: best-so-far curves with intervals, and fronts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from benchmarks.agent_tables import curves_of, is_front
from benchmarks.plot_style import BLUE, GREEN, GREY, INK, ORANGE, VERMILLION, finish, label_axes, new_figure

Result = Mapping[str, Any]

COLOURS = (BLUE, VERMILLION, GREEN, ORANGE, INK, GREY)
LINES = ("-", "--", ":", "-.")


def plot_progress(results: Sequence[Result], title: str, save_path: str | Path | None = None) -> Figure:
    """Draw the best measured plan's soft accuracy against measured evaluations, a line an agent.

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
    for number, (agent, group) in enumerate(groups.items()):
        value, low, high = 100 * curves_of(group, length)
        colour, line = _look(number)
        panel.step(evaluations, value, line, where="post", color=colour, linewidth=1.8, label=agent)
        panel.fill_between(evaluations, low, high, step="post", color=colour, alpha=0.12, linewidth=0)
    label_axes(panel, title=title, x="measured evaluations", y="best soft accuracy on the reward split (%)")
    panel.legend(frameon=False, fontsize=8.5, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return finish(figure, save_path)


def plot_fronts(results: Sequence[Result], title: str, save_path: str | Path | None = None) -> Figure:
    """Draw test accuracy against FLOPs reduction of the best plans, a line an agent: mean and range over runs.

    Args:
        results: finished runs of one task that served several targets.
        title: of the figure.
        save_path: where to save it, if anywhere.

    Raises:
        ValueError: no runs.
    """
    groups = _by_agent([result for result in results if is_front(result)])
    figure, (panel,) = new_figure(7.5, 4.2)
    for number, (agent, group) in enumerate(groups.items()):
        plans = [list(result["best"].values()) for result in group]
        reductions = 100 * np.array([[plan["flops_reduction"] for plan in run] for run in plans]).mean(axis=0)
        accuracies = 100 * np.array([[plan["test_accuracy"] for plan in run] for run in plans])
        colour, line = _look(number)
        panel.plot(reductions, accuracies.mean(axis=0), line, marker="o", markersize=4, color=colour, label=agent)
        panel.fill_between(
            reductions, accuracies.min(axis=0), accuracies.max(axis=0), color=colour, alpha=0.12, linewidth=0
        )
    label_axes(panel, title=title, x="FLOPs removed (%)", y="one-shot test accuracy (%)")
    panel.legend(frameon=False, fontsize=8.5, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return finish(figure, save_path)


def _by_agent(results: Sequence[Result]) -> dict[str, list[Result]]:
    if not results:
        raise ValueError("nothing to draw: no finished runs of this kind")
    groups: dict[str, list[Result]] = {}
    for result in results:
        groups.setdefault(result["agent"], []).append(result)
    return groups


def _look(number: int) -> tuple[str, str]:
    """Colour and line of the n-th agent; both change, so that it is told apart in grey too."""
    return COLOURS[number % len(COLOURS)], LINES[(number // len(COLOURS) + number) % len(LINES)]
