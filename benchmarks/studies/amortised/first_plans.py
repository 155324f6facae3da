"""First plans: what is proposed for a network with nothing measured, cut, refitted and really measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure

from agents.amortised.model import AmortisedModel
from agents.amortised.storage import load_model
from benchmarks.studies.amortised.family import Family
from benchmarks.studies.amortised.tables import GROUPS, Row, first_plan_summary, first_plan_table, group_of, score_of
from benchmarks.studies.bench.measuring import Meter
from benchmarks.studies.engine.store import CellFiles
from benchmarks.studies.engine.study import Report, Result
from benchmarks.visualization.style import GREY, finish, label_axes, look, new_figure
from prune_gym.bench.protocol import LEAST_GAIN, measured_scale, reachable
from prune_gym.cost.limits import IntArray
from prune_gym.problem.problem import PruningProblem


@dataclass(frozen=True)
class NetworkCell:
    """First plans for one network.

    Attributes:
        name: of the network.
    """

    name: str


@dataclass(frozen=True)
class FirstPlanStudy:
    """Every network of a split at every target of the protocol.

    Attributes:
        folder: of the results.
        family: networks, and plans measured before, whose best one counts 1.
        models: files of amortised models, and how far to trust each (None: as it says), by the name of its plans.
        split: of the networks.
        device: where networks run.
    """

    folder: Path
    family: Family
    models: Mapping[str, tuple[Path, float | None]]
    split: str
    device: torch.device

    name = "first_plans"

    @property
    def store(self) -> CellFiles:
        """A file a network in ``cells``."""
        return CellFiles(self.folder)

    def cells(self) -> list[NetworkCell]:
        """Return the networks of the split."""
        return [NetworkCell(name) for name in self.family.names(self.split)]

    def open(self) -> None:
        """Refuse to mix plans of other models.

        Raises:
            ConfigError: other models.
        """
        from prune_gym.support.files import sha256_of

        found = {name: [sha256_of(path.read_bytes()), trust] for name, (path, trust) in self.models.items()}
        current = {"models": found}
        stored = self.store.study()
        self.store.open(current, [] if stored is None or stored["models"] == current["models"] else ["models"])

    def run(self, cell: NetworkCell) -> Result:
        """Return what first plans for a network measure."""
        problem = PruningProblem(f"family/{cell.name}", device=self.device).load()
        meter, network = Meter(problem.task, problem.evaluator), self.family.networks[cell.name]
        known = {name: model.at(problem) for name, model in self._models.items()}
        rows = []
        for target in reachable(network):
            limits = problem.cost.limits()
            plans = {name: problem.start_plan(name, target) for name in ("knapsack", "uniform")}
            plans |= {name: found.plan(target, problem.cost, limits) for name, found in known.items()}
            rows.append(self._measured(cell.name, target, plans, meter))
        return {
            "network": cell.name,
            "kind": network.description.kind,
            "held_out_kind": network.description.held_out_kind,
            "rows": rows,
        }

    def _measured(self, name: str, target: float, plans: Mapping[str, IntArray], meter: Meter) -> dict[str, Any]:
        scores = {plan: meter.scores(kept.tolist()) for plan, kept in plans.items()}
        own = np.stack(list(plans.values()))
        soft = [reward.soft_accuracy for reward, _ in scores.values()]
        known, cost = self.family.plans[name], self.family.problem(name).cost
        kept = np.concatenate([own, known.kept])
        scale = measured_scale(
            kept, np.array([*soft, *known.metrics[:, 1]]), cost.reduction(kept), plans["knapsack"], target
        )
        return {
            "target": target,
            "knapsack": scale.knapsack,
            "best": scale.best,
            "plans": {
                plan: {
                    "kept": kept.tolist(),
                    "soft": scores[plan][0].soft_accuracy,
                    "test_soft": scores[plan][1].soft_accuracy,
                    "test_top1": scores[plan][1].accuracy,
                }
                for plan, kept in plans.items()
            },
        }

    def in_short(self, result: Result) -> str:
        """Return gains of the models' plans over the knapsack's."""
        words = []
        for row in result["rows"]:
            gains = {name: 100 * (plan["soft"] - row["knapsack"]) for name, plan in row["plans"].items()}
            words.append(", ".join(f"{name} {gain:+.2f}" for name, gain in gains.items() if name in self.models))
        return "; ".join(words)

    def report(self, results: Mapping[NetworkCell, Result]) -> Report:
        """Return one table."""
        networks = list(results.values())
        summary = first_plan_summary(networks)
        content = {"summary": summary, "networks": networks}
        if self.split != "test":
            return Report([first_plan_table(summary)], content)
        draw = partial(plot_first_plans, networks, self.folder / "first_plans.png")
        return Report([first_plan_table(summary)], content, plots=[draw])

    @cached_property
    def _models(self) -> dict[str, AmortisedModel]:
        models = {name: load_model(path) for name, (path, _) in self.models.items()}
        for name, (_, trust) in self.models.items():
            models[name].trust = models[name].trust if trust is None else trust
        return models


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
