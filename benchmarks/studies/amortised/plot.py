"""First plans as a picture: what they score on every network."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from benchmarks.studies.amortised.tables import GROUPS, Row, group_of, score_of
from benchmarks.visualization.style import GREY, finish, label_axes, look, new_figure
from prune_gym.bench.protocol import LEAST_GAIN

PLANS = ("uniform", "linear", "amortised")
"""Plans that are drawn, the last one deciding the order of networks."""


def plot_first_plans(results: Sequence[Row], save_path: str | Path | None = None) -> Figure:
    """Mean normalised score of first plans, a point a network and plan, known and held-out kinds side by side.

    Args:
        results: of :class:`benchmarks.studies.amortised.first_plans.FirstPlanStudy`.
        save_path: file to write, or None.
    """
    figure, panels = new_figure(10.6, 3.6, columns=2)
    for panel, group in zip(panels, GROUPS, strict=True):
        scores = []
        for result in results:
            contests = [row for row in result["rows"] if row["best"] - row["knapsack"] >= LEAST_GAIN]
            if group_of(result) == group and contests:
                scores.append([np.mean([score_of(row, plan) for row in contests]) for plan in PLANS])
        table = np.array(sorted(scores, key=lambda own: own[-1])).reshape(-1, len(PLANS))
        for number, plan in enumerate(PLANS):
            style = look(len(PLANS) - 1 - number)
            panel.plot(table[:, number], style.marker, color=style.colour, label=plan, markersize=5)
        panel.axhline(0.0, color=GREY, linewidth=1.0)
        panel.set_xticks([])
        label_axes(panel, title=f"{group}: {len(table)} networks", x="networks", y="normalised score")
    panels[0].legend(frameon=False, loc="lower right", fontsize=8)
    return finish(figure, save_path)
