"""Configuration of a comparison of methods: names, targets, seeds, dense networks, and the budget all methods share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.common.arguments import check_distinct
from benchmarks.common.errors import OptionError
from hessian.support.names import suggest

VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {"adaprune-activation": ("adaprune", {"variant": "activation"})}
"""Name of a variant of a baseline -> the baseline and its options."""
OURS = ("hobs-uniform", "hobs-knapsack", "hobs-gp", "hobs-rspar")
TARGETS = (0.5, 0.76, 0.9)
SEEDS = (0, 1, 2, 3, 4)


@dataclass(frozen=True)
class Budget:
    """Budget of every method, and the equal treatment after it.

    Attributes:
        images: training images methods and fine-tuning draw from, the first of the train split.
        own_training: images a method that trains by itself may train on, passes counted.
        evaluations: plans a method that searches may measure.
        reconstruction_steps: steps of the equal reconstruction; 0 leaves the refit as it is.
        reconstruction_images: images it learns from, the first of ``images``.
        finetune_epochs: passes of the equal fine-tuning.
        finetune_lr: its peak learning rate.
        timed_passes: passes timed for the speed-up.
        reward_images: images a plan is measured on, the first of the reward split; None for all.
        test_images: images the stages are scored on, the first of the test split; None for all.
    """

    images: int = 10_000
    own_training: int = 20_000
    evaluations: int = 100
    reconstruction_steps: int = 1000
    reconstruction_images: int = 5000
    finetune_epochs: int = 2
    finetune_lr: float = 0.02
    timed_passes: int = 30
    reward_images: int | None = None
    test_images: int | None = None


@dataclass(frozen=True)
class Cell:
    """A method at a target with a seed.

    Attributes:
        method: a name of :func:`method_names`.
        target: FLOPs reduction.
        seed: of the method and of fine-tuning.
        weights: file of dense weights; None for the task's own.
    """

    method: str
    target: float
    seed: int
    weights: str | None = None

    @property
    def weights_name(self) -> str | None:
        """Name of the dense weights; None where they are the task's."""
        return None if self.weights is None else Path(self.weights).stem

    @property
    def name(self) -> str:
        """Name in messages and of the file."""
        dense = "" if self.weights is None else f"-{self.weights_name}"
        return f"{self.method}-{self.target:g}-seed{self.seed}{dense}"


@dataclass(frozen=True)
class MethodsConfig:
    """Methods, targets and seeds that are compared.

    Attributes:
        task: name of a task.
        folder: where results are.
        methods: names; none: all.
        targets: FLOPs reductions.
        seeds: of methods and fine-tuning.
        weights: a file of dense weights a seed, or nothing for the task's own.
        budget: what every method may spend.

    Raises:
        OptionError: something named twice or out of range, or not a file of weights a seed.
    """

    task: str
    folder: Path
    methods: Sequence[str] = ()
    targets: Sequence[float] = TARGETS
    seeds: Sequence[int] = SEEDS
    weights: Sequence[str] = ()
    budget: Budget = field(default_factory=Budget)

    def __post_init__(self) -> None:
        if self.weights and len(self.weights) != len(self.seeds):
            raise OptionError(
                f"--weights gives every seed a dense network: {len(self.seeds)} files, got {len(self.weights)}"
            )
        for name in ("methods", "targets", "seeds"):
            check_distinct(f"--{name}", getattr(self, name))
        if not all(0 < target < 1 for target in self.targets):
            raise OptionError(f"--targets are shares of the FLOPs removed, in (0, 1); got {list(self.targets)}")
        if self.budget.finetune_epochs < 0 or self.budget.finetune_lr <= 0:
            raise OptionError("--finetune-epochs is at least 0 and --finetune-lr positive")

    def cells(self) -> list[Cell]:
        """Return all runs, seeds outermost, so that an unfinished table has whole seeds first.

        Raises:
            OptionError: a method that does not exist.
        """
        known = method_names()
        for name in self.methods:
            if name not in known:
                raise OptionError(f"unknown method {name!r}{suggest(name, known)}")
        weights: Sequence[str | None] = self.weights or [None] * len(self.seeds)
        return [
            Cell(method, target, seed, dense)
            for seed, dense in zip(self.seeds, weights, strict=True)
            for target in self.targets
            for method in self.methods or known
        ]

    @property
    def same_study(self) -> dict[str, Any]:
        """Facts that all cells of a folder have in common; JSON-able."""
        return {"task": self.task, "budget": asdict(self.budget)}


def method_names() -> list[str]:
    """Return everything that can be compared: baselines, their variants, and H-OBS with and without a search."""
    import baselines

    return [*baselines.available(), *VARIANTS, *OURS]
