"""The configuration of a study of transfer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from agents.registry import check_options
from benchmarks.agent_study import Budget, EnvironmentConfig, Target
from benchmarks.config import load_tree, unknown_choice
from benchmarks.config_schema import Count, FilePath, Name, Section

Targets = Annotated[tuple[Target, ...], Field(strict=False, min_length=1)]


class SourceConfig(Section):
    """Where policies are trained."""

    task: Name
    """Name of a task."""
    targets: Targets = (0.5, 0.6, 0.7, 0.76, 0.8, 0.84, 0.91, 0.94)
    """FLOPs reductions that episodes ask for in turn."""
    evaluations: Budget = 128
    """Measured evaluations in all."""


class TransferConfig(Section):
    """Policies trained on one task that act and learn on others, beside policies that begin there."""

    name: Name
    """Title of tables."""
    save_dir: FilePath = Path("results/transfer")
    """Folder of the results."""
    plans_dir: FilePath | None = None
    """Folder of measured plans, shared by studies that name the same one; absent: ``plans`` in ``save_dir``."""
    num_threads: Count | None = None
    """CPU threads; absent: one a core, at most 8."""
    source: SourceConfig
    """Where policies are trained."""
    tasks: Annotated[tuple[Name, ...], Field(strict=False, min_length=1)]
    """Names of the tasks they are carried to."""
    targets: Targets
    """FLOPs reductions asked for there."""
    evaluations: Budget = 32
    """Measured evaluations there, the start plan included."""
    seeds: Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(strict=False, min_length=1)] = (0, 1, 2, 3, 4)
    """Of the agents."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Arguments of R-SPAR's constructor."""
    environment: EnvironmentConfig = EnvironmentConfig(constraint="hard")
    """Where agents act."""

    @property
    def plans_folder(self) -> Path:
        """Where measured plans are kept."""
        return self.plans_dir if self.plans_dir is not None else self.save_dir / "plans"


def load_transfer(path: str | Path, overrides: Sequence[str] = ()) -> TransferConfig:
    """Read, override and validate a study's file.

    Args:
        path: YAML file.
        overrides: ``KEY=VALUE`` strings with dotted keys, applied in order.

    Raises:
        FileNotFoundError: no such file.
        ConfigError: everything wrong with the keys and values, one line each.
    """
    return load_tree(path, overrides, TransferConfig, _problems)[0]


def _problems(config: TransferConfig) -> Iterator[str]:
    from prune_gym.tasks import task_names

    known = task_names()
    yield from (
        unknown_choice("task", task, known) for task in (config.source.task, *config.tasks) if task not in known
    )
    try:
        check_options("rspar", config.options)
    except ValueError as error:
        yield str(error)
