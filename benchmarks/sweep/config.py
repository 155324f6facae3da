"""The configuration of a sweep: a grid of runs as one typed tree, validated before anything is computed."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, field_validator

from benchmarks.settings.methods import method_names
from benchmarks.settings.names import is_method, is_task, known_tasks
from benchmarks.settings.reading import ConfigFile, validate_config
from benchmarks.settings.schema import Config, Count, FilePath, Name
from benchmarks.settings.source import ConfigError, ConfigSource, KeyPath, dotted
from hessian.support.names import unknown

Target = Annotated[float, Field(gt=0, lt=1)]
Seed = Annotated[int, Field(ge=0)]

GRID_KEYS: tuple[KeyPath, ...] = (
    ("model", "name"),
    ("dataset", "name"),
    ("pruning", "method"),
    ("pruning", "target_flops_reduction"),
    ("experiment",),
)
"""Keys of a run that the grid sets."""


class SweepConfig(ConfigFile):
    """A grid of runs: every method on every task at every target with every seed."""

    name: Name
    """Title of the sweep."""
    save_dir: FilePath = Path("results/sweep")
    """Folder of the results."""
    methods: Annotated[tuple[Name, ...], Field(strict=False, min_length=1)]
    """Values of ``pruning.method``."""
    tasks: Annotated[tuple[Name, ...], Field(strict=False, min_length=1)]
    """Names of tasks (``prune-gym tasks``)."""
    targets: Annotated[tuple[Target, ...], Field(strict=False)] = ()
    """FLOPs reductions, fractions in (0, 1); none: every task's own default target."""
    seeds: Annotated[tuple[Seed, ...], Field(strict=False, min_length=1)] = (42, 2024, 10086, 520, 1314)
    """Of the searches and of fine-tuning."""
    threads: Count = 1
    """CPU threads of every run. Results are equal to the bit only where this number is."""
    plots: bool = False
    """Draw the plots of every run."""
    run: dict[str, Any] = Field(default_factory=dict)
    """Keys of the run's configuration that all runs share, e.g. ``{pruning: {finetune: {epochs: 2}}}``."""

    @field_validator("methods", "tasks", "targets", "seeds")
    @classmethod
    def _distinct(cls, values: tuple[Any, ...]) -> tuple[Any, ...]:
        twice = sorted({str(value) for value in values if values.count(value) > 1})
        if twice:
            raise ValueError(f"must name each once, or cells would be duplicates; twice or more: {', '.join(twice)}")
        return values

    def cells(self) -> list[Cell]:
        """All runs, seeds outermost, so that an unfinished table has whole seeds first."""
        return [
            Cell(task, method, target, seed)
            for seed in self.seeds
            for task in self.tasks
            for target in (self.targets or (None,))
            for method in self.methods
        ]

    def problems(self, source: ConfigSource) -> list[str]:
        """Names that do not exist, cells that would share a folder, keys that are the grid's.

        Raises:
            ConfigError: a shared key of the runs that is unknown or ill-typed, where the rest is right.
        """
        found = [*_unknown_names(self), *_folder_clashes(self), *_keys_of_the_grid(self)]
        if not found:
            run_config(self, self.cells()[0], source)  # the shared keys are the same for all
        return found


@dataclass(frozen=True, order=True)
class Cell:
    """One run of the grid.

    Attributes:
        task: name of a task.
        method: how it is pruned.
        target: FLOPs reduction, a fraction; None: the task's default.
        seed: of search and fine-tuning.
    """

    task: str
    method: str
    target: float | None
    seed: int

    @property
    def folder(self) -> str:
        """Name of the folder of this cell and its siblings of other seeds."""
        target = "default" if self.target is None else f"{self.target:g}"
        return re.sub(r"[^A-Za-z0-9._-]+", "_", f"{self.task}-{self.method}-{target}")

    @property
    def name(self) -> str:
        """Name of the cell in messages, and of its run folder."""
        return f"{self.folder}/seed_{self.seed}"


def run_config(sweep: SweepConfig, cell: Cell, source: ConfigSource | None = None) -> Config:
    """The configuration of one run.

    Args:
        sweep: the grid.
        cell: of it.
        source: where the sweep was read from, for messages that name the line of a shared key.

    Raises:
        ConfigError: a shared key that is unknown or ill-typed.
    """
    dataset, model = cell.task.split("-", 1)
    origins = {} if source is None else {path[1:]: where for path, where in source.origins.items() if path[0] == "run"}
    run = ConfigSource(_copied(sweep.run), {path: where for path, where in origins.items() if path}, "the key 'run'")
    settings: dict[tuple[str, ...], Any] = {
        ("model", "name"): model,
        ("dataset", "name"): dataset,
        ("pruning", "method"): cell.method,
        ("pruning", "target_flops_reduction"): cell.target,
        ("experiment", "name"): sweep.name,
        ("experiment", "save_dir"): str(sweep.save_dir.expanduser() / "cells" / cell.folder),
        ("experiment", "random_seeds"): [cell.seed],
        ("experiment", "num_threads"): sweep.threads,
    }
    for path, value in settings.items():
        section = run.tree
        for part in path[:-1]:
            section = section.setdefault(part, {})
            if not isinstance(section, dict):
                raise ConfigError(f"{run.origin(path)}: 'run.{part}' must be a section, got {section!r}")
        section[path[-1]] = value
    return validate_config(run)


def _copied(tree: Mapping[str, Any]) -> dict[str, Any]:
    return {key: _copied(value) if isinstance(value, Mapping) else value for key, value in tree.items()}


def _unknown_names(sweep: SweepConfig) -> list[str]:
    return [
        *(unknown("method", name, method_names(), "methods") for name in sweep.methods if not is_method(name)),
        *(unknown("task", name, known_tasks(), "tasks") for name in sweep.tasks if not is_task(name)),
        *(
            f"the task {name!r} cannot be swept: a run names its task '<dataset>-<model>', so a name needs a hyphen"
            for name in sweep.tasks
            if is_task(name) and "-" not in name
        ),
    ]


def _folder_clashes(sweep: SweepConfig) -> list[str]:
    """The first two cells that would share a run folder: duplicates in all but the last digits, or characters."""
    first: dict[str, Cell] = {}
    for cell in sweep.cells():
        other = first.setdefault(cell.name, cell)
        if other != cell:
            return [f"duplicate cells: {other} and {cell} would share the folder {cell.name!r}"]
    return []


def _keys_of_the_grid(sweep: SweepConfig) -> list[str]:
    return [f"'run.{dotted(path)}' is set by the grid; leave it out" for path in GRID_KEYS if _holds(sweep.run, path)]


def _holds(tree: Mapping[str, Any], path: KeyPath) -> bool:
    section: Any = tree
    for part in path:
        if not isinstance(section, Mapping) or part not in section:
            return False
        section = section[part]
    return True
