"""The plots of one run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.job.budgets import Budgets
from benchmarks.visualization.run import (
    plot_budgets,
    plot_lambda_evolution,
    plot_sensitivity_heatmap,
    plot_summary,
    plot_training_curves,
)
from prune_gym.problem.problem import PruningProblem


def save_plots(folder: Path, result: Mapping[str, Any], budgets: Budgets, problem: PruningProblem) -> None:
    """Draw a run.

    Args:
        folder: where the files go, PNG and SVG.
        result: what ``result.json`` holds.
        budgets: what the search decided, with its history.
        problem: the problem; analysed where H-OBS chose the channels.
    """
    plot_summary(result, save_path=folder / "summary")
    if not problem.is_loaded:
        return  # a published method: no prices, no episodes
    history = budgets.history
    plot_training_curves(history, save_path=folder / "training")
    plot_lambda_evolution(
        [record["lambda"] for record in history],
        [record["accuracy"] for record in history],
        save_path=folder / "lambda",
        first_episode=int(history[0]["episode"]),
    )
    if problem.selection != "hobs":
        return  # filter norms are no prices
    prices = {name: price.cpu() for name, price in problem.hobs.channel_prices().items()}
    plot_budgets(result["budgets"], prices, save_path=folder / "budgets")
    plot_sensitivity_heatmap(prices, problem.layer_names, save_path=folder / "sensitivity")
