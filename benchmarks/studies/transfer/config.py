"""The configuration of a study of transfer."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, field_validator

from agents.registry import check_options
from benchmarks.settings.schema import FilePath, Name
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


@dataclass(frozen=True)
class Cell:
    """A policy carried to a task.

    Attributes:
        task: which.
        target: FLOPs reduction asked for there.
        seed: of the agents.
    """

    task: str
    target: float
    seed: int

    @property
    def name(self) -> str:
        """Name in messages and of the file."""
        return f"{self.task}-{self.target:g}-seed{self.seed}"


class TransferConfig(StudyFile):
    """Policies trained on one task that act and learn on others, beside policies that begin there."""

    save_dir: FilePath = Path("results/transfer")
    """Folder of the results."""
    source: SourceConfig
    """Task on which policies are trained."""
    tasks: Annotated[tuple[Name, ...], Field(strict=False, min_length=1)]
    """Names of the tasks they are carried to."""
    targets: Annotated[Targets, Field(min_length=1)]
    """FLOPs reductions asked for there."""
    evaluations: Budget = 32
    """Measured evaluations there, the start plan included."""
    seeds: Seeds = (0, 1, 2, 3, 4)
    """Of the agents."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Arguments of R-SPAR's constructor."""
    environment: EnvironmentConfig = EnvironmentConfig(constraint="hard")
    """Environment in which agents act."""

    _distinct = field_validator("tasks", "targets", "seeds")(each_once)

    def cells(self) -> list[Cell]:
        """Return all runs, seeds outermost, so that an unfinished table has whole seeds first."""
        return [Cell(task, target, seed) for seed in self.seeds for task in self.tasks for target in self.targets]

    def problems(self, source: ConfigSource) -> Iterator[str]:
        """Tasks that do not exist, options the agent does not have."""
        from prune_gym.tasks.registry import task_names

        known, named = task_names(), (self.source.task, *self.tasks)
        yield from (unknown("task", task, known, "tasks") for task in named if task not in known)
        try:
            check_options("rspar", self.options)
        except ValueError as error:
            yield str(error)
