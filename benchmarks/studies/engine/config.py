"""Common parts of the configurations of studies of agents."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from benchmarks.settings.reading import ConfigFile
from benchmarks.settings.schema import LAMBDA_0, TAU, Count, FilePath, Name, NonNegative, Section

Target = Annotated[float, Field(gt=0, lt=1)]
Targets = Annotated[tuple[Target, ...], Field(strict=False)]
Seeds = Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(strict=False, min_length=1)]
Budget = Annotated[int, Field(ge=2)]


def each_once(values: tuple[Any, ...]) -> tuple[Any, ...]:
    """Refuse values that are named twice: a run counted twice is no second run; for validators of fields.

    Raises:
        ValueError: there are any.
    """
    if len(set(values)) != len(values):
        raise ValueError(f"must name each once, got {list(values)}")
    return values


class EnvironmentConfig(Section):
    """The environment all agents act in, from the knapsack plan."""

    constraint: Literal["soft", "hard"] = "soft"
    """``soft`` penalises a missed target, ``hard`` projects every plan onto it."""
    reward: Name = "accuracy_flops"
    """Reward that scores plans, by name."""
    repair: Name = "sequential"
    """Repair of the weights before a plan is measured."""
    max_pruning_ratio: Target = 0.95
    """Largest fraction of a layer's channels that may go."""
    lambda_0: NonNegative = LAMBDA_0
    """Weight of a missed target."""
    tau: NonNegative = TAU
    """Rate at which that weight adapts; 0 keeps it fixed."""


class SourceConfig(Section):
    """Training of an agent before it meets the tasks of a study."""

    task: Name
    """Name of a task."""
    targets: Annotated[Targets, Field(min_length=1)] = (0.5, 0.6, 0.7, 0.76, 0.8, 0.84, 0.91, 0.94)
    """FLOPs reductions that episodes ask for in turn."""
    evaluations: Budget = 128
    """Measured evaluations in all."""


class StudyFile(ConfigFile):
    """A study whose runs are files in a folder."""

    name: Name
    """Title of tables and plots."""
    save_dir: FilePath = Path("results/study")
    """Folder of the results."""
    plans_dir: FilePath | None = None
    """Folder of measured plans, shared by studies that name the same one; absent: ``plans`` in ``save_dir``."""
    num_threads: Count | None = None
    """CPU threads; absent: one a core, at most 8."""

    @property
    def plans_folder(self) -> Path:
        """Folder of measured plans."""
        return self.plans_dir if self.plans_dir is not None else self.save_dir / "plans"
