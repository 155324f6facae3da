"""Networks outside the family, every plan really measured: agents that begin knowing, and one that knows nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import gymnasium as gym
import torch

from agents.amortised.storage import load_model
from benchmarks.studies.agents.cells import tested
from benchmarks.studies.amortised.searches import best_so_far, make_agent
from benchmarks.studies.amortised.tables import measured_summary, measured_table
from benchmarks.studies.engine.store import CellFiles
from benchmarks.studies.engine.study import Report, Result
from prune_gym.problem.problem import PruningProblem

AGENTS = ("gp", "pretrained")
"""Agents that search."""


@dataclass(frozen=True)
class TaskCell:
    """All agents on one task at one target.

    Attributes:
        task: its name.
        target: FLOPs reduction.
        seed: of the agents.
    """

    task: str
    target: float
    seed: int

    @property
    def name(self) -> str:
        """Name in messages and of the file."""
        return f"{self.task}-{self.target:g}-seed{self.seed}"


@dataclass(frozen=True)
class MeasuredStudy:
    """Tasks, each at a target of its own, x seeds.

    Attributes:
        folder: of the results.
        models: files of the linear and of the amortised model, by the name their first plans go by; the last searches.
        tasks: target by task.
        seeds: of the agents.
        evaluations: plans an agent may measure, the start plan included.
        device: where networks run.
    """

    folder: Path
    models: Mapping[str, Path]
    tasks: Mapping[str, float]
    seeds: Sequence[int]
    evaluations: int
    device: torch.device

    name = "measured"

    @property
    def store(self) -> CellFiles:
        """A file a run in ``cells``."""
        return CellFiles(self.folder)

    def cells(self) -> list[TaskCell]:
        """Return all runs, seeds outermost."""
        return [TaskCell(task, target, seed) for seed in self.seeds for task, target in self.tasks.items()]

    def open(self) -> None:
        """Refuse to mix runs of other models or budgets.

        Raises:
            ConfigError: something differs.
        """
        from prune_gym.support.files import sha256_of

        models = {name: sha256_of(path.read_bytes()) for name, path in self.models.items()}
        current = {"models": models, "evaluations": self.evaluations}
        stored = self.store.study()
        self.store.open(current, [] if stored is None else [key for key in current if stored[key] != current[key]])

    def run(self, cell: TaskCell) -> Result:
        """Return first plans, and of every agent its best soft accuracy after every plan; the best are tested."""
        problem = self._problems[cell.task].load()
        start = {name: problem.start_plan(name, cell.target) for name in ("knapsack", "uniform")}
        limits, known = problem.cost.limits(), self._known
        start |= {name: model.at(problem).plan(cell.target, problem.cost, limits) for name, model in known.items()}
        row: Result = {"task": cell.task, "target": cell.target, "seed": cell.seed}
        row["first"] = {
            name: tested(kept, problem.evaluator.evaluate(kept.tolist()), problem) for name, kept in start.items()
        }
        row["curves"], row["best"] = {}, {}
        for name in AGENTS:
            env = gym.make(
                "HOBSPrune-v0",
                problem=problem,
                target_flops_reduction=cell.target,
                constraint="hard",
                disable_env_checker=True,
            )
            agent = make_agent(name, env, cell.seed, list(known.values())[-1])
            row["curves"][name] = best_so_far(env, agent, cell.target, self.evaluations)
            inner: Any = env.unwrapped
            best, found = inner.best_plan()
            row["best"][name] = tested(best, found, problem)
        return row

    def in_short(self, result: Result) -> str:
        """Return soft accuracies on the reward split."""
        words = [f"{name} {100 * plan['soft_accuracy']:.2f} %" for name, plan in result["first"].items()]
        words += [f"{name}: {100 * curve[-1]:.2f} %" for name, curve in result["curves"].items()]
        return ", ".join(words)

    def report(self, results: Mapping[TaskCell, Result]) -> Report:
        """Return a table."""
        rows = list(results.values())
        summary = measured_summary(rows)
        return Report([measured_table(summary)], {"summary": summary, "runs": rows})

    @cached_property
    def _problems(self) -> dict[str, PruningProblem]:
        return {task: PruningProblem(task, device=self.device) for task in self.tasks}

    @cached_property
    def _known(self) -> dict[str, Any]:
        return {name: load_model(path) for name, path in self.models.items()}
