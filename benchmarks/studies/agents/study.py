"""The comparison of agents as a study: what its cells run on, and what they say together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import torch

from benchmarks.common.provenance import describe_machine, versions
from benchmarks.studies.agents.cells import run_cell
from benchmarks.studies.agents.config import AgentEntry, Cell, StudyConfig
from benchmarks.studies.agents.curves import is_front
from benchmarks.studies.agents.plots import plot_fronts, plot_progress
from benchmarks.studies.agents.policies import policy_table
from benchmarks.studies.agents.signal import reward_to_test, signal_table
from benchmarks.studies.agents.sources import SourceAgents, trained_on
from benchmarks.studies.agents.tables import evaluations_csv, study_table, summarise
from benchmarks.studies.engine.command import check_targets
from benchmarks.studies.engine.networks import NETWORK, MeasuredNetworks, dense_name
from benchmarks.studies.engine.plan_store import PlanStore
from benchmarks.studies.engine.store import CellFiles
from benchmarks.studies.engine.study import Report, Result
from hessian.support.files import write_atomic
from prune_gym.problem.problem import PruningProblem

SAME_STUDY = ("evaluations", "environment")
"""Keys whose change makes runs incomparable; so do the targets and the budget of the fronts."""


@dataclass(frozen=True)
class AgentStudy:
    """Agents x tasks x targets x seeds.

    Attributes:
        config: which.
        device: where networks run.
    """

    config: StudyConfig
    device: torch.device

    name = "comparison"

    @property
    def store(self) -> CellFiles:
        """A file a run in ``save_dir/cells``."""
        return CellFiles(self.config.save_dir)

    def cells(self) -> list[Cell]:
        """Return all runs."""
        return self.config.cells()

    def open(self) -> None:
        """Refuse to mix runs of different studies; more agents, tasks, targets or seeds of the same one are welcome.

        Raises:
            ConfigError: another study, a target out of reach, or runs of several dense networks.
        """
        self._check_targets()
        stored = self.store.study() or {"study": None, "agents": {}}
        agents = {entry.title: entry.model_dump(mode="json") for entry in self.config.agents}
        before = {label: _entry(agent) for label, agent in stored["agents"].items()}
        changed = [] if stored["study"] is None else self._changed(stored["study"])
        changed += [f"agent {label!r}" for label in agents if before.get(label, agents[label]) != agents[label]]
        content = {"study": self.config.model_dump(mode="json"), "agents": {**before, **agents}}
        about = {"versions": versions(), "threads": torch.get_num_threads(), "machine": describe_machine()}
        self.store.open({**content, **about}, changed)
        write_atomic(self.config.save_dir / "config.yaml", self.config.to_yaml())
        _ = self._networks

    def _changed(self, stored: Result) -> list[str]:
        """Keys in which a stored configuration differs so that its runs cannot be compared with those of this one."""
        current = self.config.model_dump(mode="json")
        keys = [key for key in SAME_STUDY if stored[key] != current[key]]
        fronts = stored["fronts"], current["fronts"]
        if all(front["targets"] for front in fronts):
            keys += [f"fronts.{key}" for key in ("targets", "evaluations") if fronts[0][key] != fronts[1][key]]
        return keys

    def run(self, cell: Cell) -> Result:
        """Return what an agent measured within its budget."""
        problem = self._problems[cell.task].load()
        self._networks.admit(cell.task, problem.network_key)
        source = self._sources[cell.agent].trained(cell.seed, self._networks) if cell.agent in self._sources else None
        plans = PlanStore(self.config.plans_folder, problem, cell.name)
        result = run_cell(self.config, cell, problem, plans, source)
        result[NETWORK] = problem.network_key
        if source is not None:
            result["source"] = {"task": self._sources[cell.agent].source.task, NETWORK: trained_on(source)}
        return result

    def in_short(self, result: Result) -> str:
        """Return what a run found and what took its time."""
        best = next(iter(result["best"].values()))
        what = f"best {100 * best['soft_accuracy']:.2f} %" if result["hypervolume"] is None else "front"
        own, measuring = (result["seconds"][key] for key in ("own", "evaluations"))
        return f"{what}, {len(result['evaluations'])} plans, own {own:.1f} s, measuring {measuring:.1f} s"

    def report(self, results: Mapping[Cell, Result]) -> Report:
        """Return tables by question, of policies and of what the reward is worth, every evaluation, and curves."""
        runs, reference = list(results.values()), self.config.reference
        rows, signal, policies = summarise(runs, reference), reward_to_test(runs), policy_table(runs)
        tables = [
            study_table(question, [row for row in rows if row["question"] == question], reference)
            for question in dict.fromkeys(row["question"] for row in rows)
        ]
        tables += [] if policies is None else [policies]
        tables += [signal_table(signal)] if signal else []
        content = {"study": self.config.model_dump(mode="json"), "rows": rows, "signal": signal}
        return Report(tables, content, {"evaluations.csv": evaluations_csv(runs)}, self._plots(runs))

    def _plots(self, runs: Sequence[Result]) -> list[partial[Any]]:
        """Curves of every target, fronts of every task."""
        name, folder = self.config.name, self.config.save_dir / "plots"
        plots: list[partial[Any]] = []
        for target in self.config.targets:
            chosen = [run for run in runs if run["targets"] == [target]]
            title = f"{name}: {100 * target:g} % of the FLOPs removed"
            plots += [partial(plot_progress, chosen, title, folder / f"progress-{target:g}.png")] if chosen else []
        for task in self.config.tasks:
            chosen = [run for run in runs if is_front(run) and run["task"] == task]
            plots += [partial(plot_fronts, chosen, f"{name}: {task}", folder / f"fronts-{task}.png")] if chosen else []
        return plots

    @cached_property
    def _problems(self) -> dict[str, PruningProblem]:
        """Problems of all tasks, those of sources too; loaded when they are needed."""
        sources = (entry.source.task for entry in self.config.agents if entry.source is not None)
        repair = self.config.environment.repair
        return {
            task: PruningProblem(task, device=self.device, repair=repair)
            for task in dict.fromkeys((*self.config.tasks, *sources))
        }

    @cached_property
    def _sources(self) -> dict[str, SourceAgents]:
        """Label -> agents trained elsewhere, of those that are."""
        config = self.config
        return {
            entry.title: SourceAgents(
                config.save_dir / "agents" / entry.title,
                config.plans_folder,
                entry.source,
                self._problems[entry.source.task],
                config.environment_of(entry),
                options=entry.options,
            )
            for entry in config.agents
            if entry.source is not None
        }

    @cached_property
    def _networks(self) -> MeasuredNetworks:
        """Networks that runs were measured on, those that agents were trained on before too."""
        cells = self.store.finished()
        own = ((dense_name(cell), cell.get(NETWORK)) for cell in cells)
        sources = ((cell["source"]["task"], cell["source"][NETWORK]) for cell in cells if "source" in cell)
        return MeasuredNetworks(self.config.save_dir, (*own, *sources))

    def _check_targets(self) -> None:
        config = self.config
        for entry in config.agents:
            ratio = config.environment_of(entry).max_pruning_ratio
            for task in config.tasks:
                check_targets(task, self._problems[task], ratio, (*config.targets, *config.fronts.targets))
            if entry.source is not None:
                task = entry.source.task
                check_targets(task, self._problems[task], ratio, entry.source.targets)


def _entry(stored: dict[str, Any]) -> dict[str, Any]:
    """An agent's entry as it would be written today, with keys it did not have then at their defaults."""
    return AgentEntry.model_validate(stored).model_dump(mode="json")
