"""The study of transfer: what its cells run on, and what they say together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import torch

from benchmarks.studies.agents.sources import SourceAgents, trained_on
from benchmarks.studies.engine.command import check_targets
from benchmarks.studies.engine.networks import NETWORK, MeasuredNetworks, dense_name
from benchmarks.studies.engine.store import CellFiles
from benchmarks.studies.engine.study import Report, Result
from benchmarks.studies.transfer.config import Cell, TransferConfig
from benchmarks.studies.transfer.runs import carry_over
from benchmarks.studies.transfer.tables import summarise, transfer_table
from prune_gym.problem.problem import PruningProblem

SAME_STUDY = ("source", "evaluations", "environment", "options")
"""Keys whose change makes runs incomparable."""
SOURCE_NETWORK = "source_network"
"""Key of a run: digest of what its policy was trained on."""


@dataclass(frozen=True)
class TransferStudy:
    """Policies of one task x other tasks x targets x seeds.

    Attributes:
        config: which.
        device: where networks run.
    """

    config: TransferConfig
    device: torch.device

    name = "transfer"

    @property
    def store(self) -> CellFiles:
        """A file a run in ``save_dir/cells``."""
        return CellFiles(self.config.save_dir)

    def cells(self) -> list[Cell]:
        """Return all runs."""
        return self.config.cells()

    def open(self) -> None:
        """Refuse to mix runs of different studies; more tasks, targets or seeds are welcome.

        Raises:
            ConfigError: another study, a target out of reach, or runs of several dense networks.
        """
        config, current, stored = self.config, self.config.model_dump(mode="json"), self.store.study()
        for task, problem in self._problems.items():
            targets = config.source.targets if task == config.source.task else ()
            targets = (*targets, *(config.targets if task in config.tasks else ()))
            check_targets(task, problem, config.environment.max_pruning_ratio, targets)
        self.store.open(current, [] if stored is None else [key for key in SAME_STUDY if stored[key] != current[key]])
        _ = self._networks

    def run(self, cell: Cell) -> Result:
        """Return what the policy of a seed is worth on another task."""
        source = self._agents.trained(cell.seed, self._networks)
        problem = self._problems[cell.task].load()
        self._networks.admit(cell.task, problem.network_key)
        row = carry_over(self.config, cell.seed, cell.target, problem, source)
        return {**row, NETWORK: problem.network_key, SOURCE_NETWORK: trained_on(source)}

    def in_short(self, result: Result) -> str:
        """Return what plans were worth on the reward split."""
        values = {
            "start": result["start"]["soft_accuracy"],
            "zero-shot": result["zero_shot"]["soft_accuracy"],
            "transferred": result["transferred"]["best"]["soft_accuracy"],
            "from scratch": result["scratch"]["best"]["soft_accuracy"],
        }
        return ", ".join(f"{name} {100 * value:.2f} %" for name, value in values.items())

    def report(self, results: Mapping[Cell, Result]) -> Report:
        """Return a table a task and target."""
        summary = summarise(list(results.values()), self.config.evaluations)
        content = {"study": self.config.model_dump(mode="json"), "rows": summary}
        return Report([transfer_table(found) for found in summary], content)

    @cached_property
    def _problems(self) -> dict[str, PruningProblem]:
        names = dict.fromkeys((self.config.source.task, *self.config.tasks))
        repair = self.config.environment.repair
        return {task: PruningProblem(task, device=self.device, repair=repair) for task in names}

    @cached_property
    def _agents(self) -> SourceAgents:
        config = self.config
        folder, problem = config.save_dir / "agents", self._problems[config.source.task]
        return SourceAgents(folder, config.plans_folder, config.source, problem, config.environment, config.options)

    @cached_property
    def _networks(self) -> MeasuredNetworks:
        """Networks of the tasks, and of the source task in what runs say about their policies."""
        runs, source = self.store.finished(), self.config.source.task
        own = ((dense_name(run), run.get(NETWORK)) for run in runs)
        return MeasuredNetworks(self.config.save_dir, (*own, *((source, run.get(SOURCE_NETWORK)) for run in runs)))
