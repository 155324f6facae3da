"""The configuration of a comparison of agents: one typed tree, validated before anything is loaded."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, field_validator, model_validator

from agents.registry import AGENTS, check_options
from benchmarks.settings.schema import FilePath, Name, Section
from benchmarks.settings.source import ConfigSource
from benchmarks.studies.engine.config import (
    Budget,
    EnvironmentConfig,
    Seeds,
    SourceConfig,
    StudyFile,
    Targets,
    each_once,
)
from hessian.support.names import unknown
from prune_gym.envs.reward import make_reward


class AgentEntry(Section):
    """One agent of the comparison; its name alone is short for ``{name: ...}``."""

    name: Name
    """An agent (:data:`agents.registry.AGENTS`)."""
    label: str = ""
    """Label in tables and files; absent: the name. Tells two settings of one agent apart."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Arguments of its constructor."""
    environment: EnvironmentConfig = EnvironmentConfig()
    """Keys of ``environment`` that differ for this agent."""
    evaluations: Budget | None = None
    """Its own number of measured evaluations at one target; absent: that of the study."""
    source: SourceConfig | None = None
    """Task to train on before (R-SPAR only); absent: nothing. Evaluations there are of another task, and are not
    counted here."""

    @model_validator(mode="before")
    @classmethod
    def _from_name(cls, given: Any) -> Any:
        return {"name": given} if isinstance(given, str) else given

    @property
    def title(self) -> str:
        """The label, or the name."""
        return self.label or self.name


class FrontConfig(Section):
    """Several targets with one budget: agents that can serve them in one run, the others with equal shares of it."""

    targets: Targets = ()
    """FLOPs reductions; none: no fronts."""
    evaluations: Budget = 256
    """Measured evaluations for all targets together."""
    agents: Annotated[tuple[Name, ...], Field(strict=False)] = ()
    """Labels of the agents to compare; none: all."""
    unseen: Targets = ()
    """Further FLOPs reductions at which policies act after training, without a search."""

    _distinct = field_validator("targets", "agents", "unseen")(each_once)


class StudyConfig(StudyFile):
    """A comparison of agents at equal measured evaluations."""

    save_dir: FilePath = Path("results/compare_agents")
    """Folder of the results."""
    tasks: Annotated[tuple[Name, ...], Field(strict=False, min_length=1)]
    """Names of tasks."""
    targets: Targets = ()
    """FLOPs reductions that every agent searches one at a time."""
    seeds: Seeds = (0, 1, 2, 3, 4)
    """Of the agents."""
    evaluations: Budget = 128
    """Measured evaluations a run, the start plan included."""
    reference: Name = "rspar"
    """Label of the agent the others are compared with."""
    agents: Annotated[tuple[AgentEntry, ...], Field(strict=False, min_length=1)]
    """Agents that are compared."""
    environment: EnvironmentConfig = EnvironmentConfig()
    """Where."""
    fronts: FrontConfig = FrontConfig()
    """Many targets with one budget."""

    _distinct = field_validator("tasks", "targets", "seeds")(each_once)

    def entry(self, label: str) -> AgentEntry:
        """The agent of a label."""
        return next(entry for entry in self.agents if entry.title == label)

    def environment_of(self, entry: AgentEntry) -> EnvironmentConfig:
        """The environment an agent acts in."""
        return self.environment.model_copy(update=entry.environment.model_dump(exclude_unset=True))

    def cells(self) -> list[Cell]:
        """All runs, seeds outermost, so that an unfinished table has whole seeds first."""
        labels = [entry.title for entry in self.agents]
        fronts = self.fronts.agents or labels
        cells = []
        for seed in self.seeds:
            for task in self.tasks:
                cells += [
                    Cell(task, entry.title, (target,), seed, entry.evaluations or self.evaluations)
                    for target in self.targets
                    for entry in self.agents
                ]
                if self.fronts.targets:
                    cells += [Cell(task, label, self.fronts.targets, seed, self.fronts.evaluations) for label in fronts]
        return cells

    def problems(self, source: ConfigSource) -> list[str]:
        """Names that do not exist, labels twice, budgets that cannot be shared."""
        return _problems(self)


@dataclass(frozen=True)
class Cell:
    """One run: an agent on a task at one target, or at all targets of a front.

    Attributes:
        task: name of a task.
        agent: label of an agent.
        targets: FLOPs reductions.
        seed: of the agent.
        evaluations: measured evaluations in all.
    """

    task: str
    agent: str
    targets: tuple[float, ...]
    seed: int
    evaluations: int

    @property
    def is_front(self) -> bool:
        """True where the run serves several targets."""
        return len(self.targets) > 1

    @property
    def name(self) -> str:
        """Name in messages and of the file."""
        what = f"front{len(self.targets)}" if self.is_front else f"{self.targets[0]:g}"
        return f"{self.task}-{what}-{self.agent}-seed{self.seed}"


def _problems(study: StudyConfig) -> list[str]:
    from prune_gym.tasks.registry import task_names

    found = [unknown("task", task, task_names(), "tasks") for task in study.tasks if task not in task_names()]
    labels = [entry.title for entry in study.agents]
    found += [
        f"two agents are called {label!r}; give one a label" for label in sorted(set(labels)) if labels.count(label) > 1
    ]
    for entry in study.agents:
        try:
            check_options(entry.name, entry.options)
            settings = study.environment_of(entry)
            make_reward(settings.reward, settings.lambda_0, settings.tau)
        except ValueError as error:
            found.append(f"agent {entry.title!r}: {error}")
        if not entry.title.replace("-", "").replace("_", "").replace(".", "").isalnum():
            found.append(f"the label {entry.title!r} names a file: letters, digits, '-', '_' and '.' only")
    if any(study.environment_of(entry).repair != study.environment.repair for entry in study.agents):
        found.append("'repair' is the same for all agents: it decides what their measured plans mean")
    for entry in study.agents:
        if entry.source is not None:
            found += [f"agent {entry.title!r}: {problem}" for problem in _problems_of_source(entry, study.tasks)]
    found += [unknown("agent", label, labels, "agents") for label in study.fronts.agents if label not in labels]
    if study.reference not in labels:
        found.append("'reference': " + unknown("agent", study.reference, labels, "agents"))
    if not study.targets and not study.fronts.targets:
        found.append("nothing to do: name 'targets', 'fronts.targets' or both")
    if len(study.fronts.targets) == 1:
        found.append("'fronts.targets' needs at least two; a single one belongs into 'targets'")
    if study.fronts.targets and study.fronts.evaluations % len(study.fronts.targets):
        found.append(
            f"'fronts.evaluations' ({study.fronts.evaluations}) must be a multiple of the number of its targets "
            f"({len(study.fronts.targets)}), so that every target gets the same share"
        )
    elif study.fronts.targets and study.fronts.evaluations < 2 * len(study.fronts.targets):
        found.append("'fronts.evaluations' must be at least 2 a target: the start plan and one more")
    return found


def _problems_of_source(entry: AgentEntry, tasks: Sequence[str]) -> Iterator[str]:
    from prune_gym.tasks.registry import task_names

    assert entry.source is not None
    task = entry.source.task
    if entry.name != "rspar":
        yield f"only rspar carries over what it learned from a 'source', {entry.name} does not"
    if task not in task_names():
        yield unknown("task", task, task_names(), "tasks")
    elif task in tasks:
        yield f"its 'source' {task!r} is a task of the study, so plans it measures there would be given to it for free"


def serves_targets(entry: AgentEntry) -> bool:
    """Return whether one run of an agent learns for several targets."""
    return AGENTS[entry.name].serves_targets
