"""Searches on networks of the bench: agents that begin knowing, and agents that know nothing, at equal evaluations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch

from agents import GPSearch, RSPARAgent
from agents.amortised.model import AmortisedModel
from agents.amortised.storage import load_model
from agents.interface.monitor import until
from agents.interface.protocol import TOLERANCE
from agents.registry import create
from benchmarks.studies.amortised.family import Family
from benchmarks.studies.amortised.tables import search_summary, search_table
from benchmarks.studies.engine.store import CellFiles
from benchmarks.studies.engine.study import Report, Result
from prune_gym.bench.protocol import contests


@dataclass(frozen=True)
class Contest:
    """All agents on one network at one target.

    Attributes:
        network: its name.
        target: FLOPs reduction.
        seed: of the agents.
    """

    network: str
    target: float
    seed: int

    @property
    def name(self) -> str:
        """Name in messages and of the file."""
        return f"{self.network}-{self.target:g}-seed{self.seed}"


@dataclass(frozen=True)
class SearchStudy:
    """Test networks x targets with something to gain x seeds.

    Attributes:
        folder: of the results.
        family: networks with surrogates.
        model: file of the amortised model.
        targets: FLOPs reductions; those of the protocol that are no contest are left out.
        seeds: of the agents.
        evaluations: plans an agent may score, the start plan included.
        agents: names of what searches; ``pretrained`` is R-SPAR with the amortised model.
        device: not used; agents are small.
    """

    folder: Path
    family: Family
    model: Path
    targets: Sequence[float]
    seeds: Sequence[int]
    evaluations: int
    agents: Sequence[str]
    device: torch.device

    name = "searches"

    @property
    def store(self) -> CellFiles:
        """A file a contest in ``cells``."""
        return CellFiles(self.folder)

    def cells(self) -> list[Contest]:
        """Return all contests, seeds outermost."""
        return [
            Contest(name, target, seed)
            for seed in self.seeds
            for target in self.targets
            for name in self.family.names("test")
            if target in contests(self.family.problem(name))
        ]

    def open(self) -> None:
        """Refuse to mix runs of another model or budget.

        Raises:
            ConfigError: something differs.
        """
        from prune_gym.support.files import sha256_of

        current = {
            "model": sha256_of(self.model.read_bytes()),
            "evaluations": self.evaluations,
            "agents": list(self.agents),
        }
        stored = self.store.study()
        self.store.open(current, [] if stored is None else [key for key in current if stored.get(key) != current[key]])

    def run(self, cell: Contest) -> Result:
        """Return the best soft accuracy of every agent after every evaluation."""
        problem = self.family.problem(cell.network)
        scale = contests(problem)[cell.target]
        description = problem.network.description
        return {
            "network": cell.network,
            "kind": description.kind,
            "held_out_kind": description.held_out_kind,
            "target": cell.target,
            "seed": cell.seed,
            "knapsack": scale.knapsack,
            "best": scale.best,
            "curves": {name: self._curve(name, cell, problem) for name in self.agents},
        }

    def _curve(self, name: str, cell: Contest, problem: Any) -> list[float]:
        env = gym.make(
            "HOBSPrune-v0",
            problem=problem,
            target_flops_reduction=cell.target,
            fidelity="surrogate",
            constraint="hard",
            disable_env_checker=True,
        )
        return best_so_far(env, make_agent(name, env, cell.seed, self._model), cell.target, self.evaluations)

    def in_short(self, result: Result) -> str:
        """Return normalised scores at the end."""
        span = result["best"] - result["knapsack"]
        ends = {name: (curve[-1] - result["knapsack"]) / span for name, curve in result["curves"].items()}
        return ", ".join(f"{name} {value:.2f}" for name, value in ends.items())

    def report(self, results: Mapping[Contest, Result]) -> Report:
        """Return one table."""
        rows = list(results.values())
        summary = search_summary(rows, self.evaluations)
        return Report([search_table(summary)], {"summary": summary, "contests": rows})

    @cached_property
    def _model(self) -> AmortisedModel:
        return load_model(self.model)


def make_agent(name: str, env: gym.Env, seed: int, model: AmortisedModel) -> Any:
    """An agent by its name: R-SPAR with the amortised model, or one that knows nothing."""
    if name == "gp":
        return GPSearch(seed=seed)
    if name == "pretrained":
        layout = env.unwrapped.layout  # type: ignore[attr-defined]
        return RSPARAgent(layout.num_layers, layout.feature_dim, hidden_dim=32, amortised=model, seed=seed)
    options = {"hidden_dim": 32} if name == "rspar" else {}
    return create(name, env, seed, **options)


def best_so_far(env: gym.Env, agent: Any, target: float, evaluations: int) -> list[float]:
    """Best soft accuracy on a target after every evaluation [evaluations]; the last one lasts where plans run out."""
    agent.learn(env, 4 * evaluations, callback=until(evaluations))
    inner: Any = env.unwrapped
    plans = np.array(list(inner.archive))
    reductions = inner.cost.reduction(plans)
    soft = np.array([found.soft_accuracy for found in inner.archive.values()])
    meets = (reductions >= target) & (reductions <= target + TOLERANCE)
    meets[0] = True  # the start plan stays in the race where whole units cannot come within the tolerance
    best = np.maximum.accumulate(np.where(meets, soft, -np.inf))[:evaluations]
    return [*best.tolist(), *[float(best[-1])] * (evaluations - len(best))]
