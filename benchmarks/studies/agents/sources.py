"""Agents trained on one task before they meet another: trained once a seed, and kept in the study's folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from agents import RSPARAgent
from agents.registry import create
from benchmarks.common.signed import write_signed
from benchmarks.studies.agents.cells import learn, make_env
from benchmarks.studies.engine.config import EnvironmentConfig, SourceConfig
from benchmarks.studies.engine.networks import NETWORK, MeasuredNetworks
from benchmarks.studies.engine.plan_store import PlanStore
from benchmarks.studies.engine.store import read_object
from prune_gym.problem.problem import PruningProblem


@dataclass(frozen=True)
class SourceAgents:
    """R-SPAR agents of a study, by seed.

    Attributes:
        folder: where their files are.
        plans_folder: where plans measured while they are trained are kept.
        source: what they are trained on, and for how long.
        problem: of the source task; loaded when the first of them is trained.
        environment: where they are trained.
        options: arguments of their constructor.
    """

    folder: Path
    plans_folder: Path
    source: SourceConfig
    problem: PruningProblem
    environment: EnvironmentConfig
    options: Mapping[str, Any] = field(default_factory=dict)

    def trained(self, seed: int, networks: MeasuredNetworks) -> Path:
        """File of the agent of a seed, trained where it is missing.

        Args:
            seed: of the agent.
            networks: of the study; what the agent was trained on joins them.

        Raises:
            ConfigError: it was trained on another network than others of the study.
        """
        path = self.folder / f"{self.source.task}-seed{seed}.safetensors"
        if not path.is_file():
            networks.admit(self.source.task, self.problem.load().network_key)
            # First of the two files: an agent is never without what it was trained on.
            write_signed(path.with_suffix(".json"), {NETWORK: self.problem.network_key})
            self._train(seed, path)
        networks.admit(self.source.task, trained_on(path))
        return path

    def _train(self, seed: int, path: Path) -> None:
        env = make_env(self.problem, self.environment, self.source.targets)
        agent = cast(RSPARAgent, create("rspar", env, seed, **self.options))
        learn(agent, env, self.source.evaluations, PlanStore(self.plans_folder, self.problem, path.stem))
        agent.save(path)


def trained_on(agent: Path) -> str | None:
    """Digest of what a saved agent was trained on, None where it is not recorded."""
    path = agent.with_suffix(".json")
    return str(read_object(path)[NETWORK]) if path.is_file() else None
