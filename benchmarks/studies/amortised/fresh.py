"""A clean test: networks that no table has and nobody looked at while anything was chosen.

Fresh networks of the family are trained by its recipe, and first plans and searches really cut, refitted and measured.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import gymnasium as gym
import torch

from agents.amortised.model import AmortisedModel
from agents.amortised.storage import load_model
from benchmarks.common.table import Table
from benchmarks.studies.amortised.first_plans import NetworkCell
from benchmarks.studies.amortised.searches import best_so_far, make_agent
from benchmarks.studies.amortised.tables import first_plan_summary, first_plan_table, search_summary, search_table
from benchmarks.studies.bench.measuring import Meter
from benchmarks.studies.engine.store import CellFiles
from benchmarks.studies.engine.study import Report, Result
from prune_gym.bench.protocol import LEAST_GAIN, REACH, SEEDS
from prune_gym.problem.problem import PruningProblem
from prune_gym.tasks.family.draws import FRESH, HELD_OUT, draw, family_names, kind_of

AGENTS = ("gp", "pretrained")
"""Agents that search; the last one is of the model under test."""


@dataclass(frozen=True)
class FreshStudy:
    """Fresh networks, kinds in turn, each at some targets.

    Attributes:
        folder: of the results.
        models: files of amortised models by the name of their plans; the last searches.
        targets: FLOPs reductions; those out of a network's reach are left out.
        per_kind: networks of a kind.
        dataset: that they were drawn for, ``"digits"`` or ``"fashion"``.
        evaluations: plans a search may measure, the start plan included.
        device: where networks run.
    """

    folder: Path
    models: Mapping[str, Path]
    targets: Sequence[float]
    per_kind: int
    dataset: str
    evaluations: int
    device: torch.device

    name = "fresh"

    @property
    def store(self) -> CellFiles:
        """A file a network in ``cells``."""
        return CellFiles(self.folder)

    def cells(self) -> list[NetworkCell]:
        """Return the first networks of every kind that were drawn for the data set, kinds in turn."""
        return [NetworkCell(name) for name in self._names()]

    def _names(self) -> Iterator[str]:
        seen: dict[str, int] = {}
        for name in family_names(FRESH):
            count = seen.get(kind_of(name), 0)
            if count < self.per_kind and draw(name).dataset == self.dataset:
                seen[kind_of(name)] = count + 1
                yield name

    def open(self) -> None:
        """Refuse to mix runs of other models or budgets.

        Raises:
            ConfigError: something differs.
            ValueError: a file holds no model of this version.
        """
        from prune_gym.support.files import sha256_of

        for path in self.models.values():
            load_model(path)  # before anything is written
        models = {name: sha256_of(path.read_bytes()) for name, path in self.models.items()}
        current = {"models": models, "evaluations": self.evaluations, "targets": list(self.targets)}
        stored = self.store.study()
        self.store.open(current, [] if stored is None else [key for key in current if stored[key] != current[key]])

    def run(self, cell: NetworkCell) -> Result:
        """Return what first plans and searches measure."""
        problem = PruningProblem(f"family/{cell.name}", device=self.device).load()
        most = REACH * problem.cost.largest_reduction(problem.cost.limits())
        kind = kind_of(cell.name)
        return {
            "network": cell.name,
            "kind": kind,
            "held_out_kind": kind in HELD_OUT,
            "dense": problem.dense.soft_accuracy,
            "rows": [self._contest(problem, target) for target in self.targets if target <= most],
        }

    def _contest(self, problem: PruningProblem, target: float) -> Result:
        meter, limits = Meter(problem.task, problem.evaluator), problem.cost.limits()
        plans = {name: problem.start_plan(name, target) for name in ("knapsack", "uniform")}
        plans |= {name: model.at(problem).plan(target, problem.cost, limits) for name, model in self._known.items()}
        found: dict[str, Any] = {}
        for name, kept in plans.items():
            reward, test = meter.scores(kept.tolist())
            found[name] = {
                "kept": kept.tolist(),
                "soft": reward.soft_accuracy,
                "test_soft": test.soft_accuracy,
                "test_top1": test.accuracy,
            }
        curves = {name: self._curve(name, problem, target) for name in AGENTS}
        best = max(*(plan["soft"] for plan in found.values()), *(curve[-1] for curve in curves.values()))
        return {
            "target": target,
            "knapsack": found["knapsack"]["soft"],
            "best": best,
            "plans": found,
            "curves": curves,
        }

    def _curve(self, name: str, problem: PruningProblem, target: float) -> list[float]:
        env = gym.make(
            "HOBSPrune-v0",
            problem=problem,
            target_flops_reduction=target,
            constraint="hard",
            disable_env_checker=True,
        )
        agent = make_agent(name, env, SEEDS[0], list(self._known.values())[-1])
        return best_so_far(env, agent, target, self.evaluations)

    def in_short(self, result: Result) -> str:
        """Return normalised scores of the last model's plans."""
        name = list(self.models)[-1]
        words = []
        for row in result["rows"]:
            gain = row["plans"][name]["soft"] - row["knapsack"]
            words.append(f"{row['target']:g}: {100 * gain:+.2f} of {100 * (row['best'] - row['knapsack']):.2f}")
        return "; ".join(words)

    def report(self, results: Mapping[NetworkCell, Result]) -> Report:
        """Return a table of first plans and one of searches."""
        networks = list(results.values())
        first = first_plan_summary(networks)
        searches = search_summary(contests_of(networks), self.evaluations)
        tables: list[Table] = [first_plan_table(first)] if first else []
        if searches:
            tables.append(search_table(searches))
        return Report(tables, {"first": first, "searches": searches, "networks": networks})

    @cached_property
    def _known(self) -> dict[str, AmortisedModel]:
        return {name: load_model(path) for name, path in self.models.items()}


def contests_of(networks: Sequence[Result]) -> list[Result]:
    """The rows of networks where something could be gained, as the summary of searches wants them."""
    return [
        {"network": network["network"], "held_out_kind": network["held_out_kind"], **row}
        for network in networks
        for row in network["rows"]
        if row["best"] - row["knapsack"] >= LEAST_GAIN
    ]
