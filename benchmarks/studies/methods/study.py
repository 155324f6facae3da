"""The comparison of methods as a study: what its cells run on, and what they say together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial

import torch

from benchmarks.common.provenance import describe_machine, versions
from benchmarks.studies.engine.networks import NETWORK, WEIGHTS, MeasuredNetworks, dense_name
from benchmarks.studies.engine.store import CellFiles
from benchmarks.studies.engine.study import Report, Result
from benchmarks.studies.methods.cells import Contest
from benchmarks.studies.methods.config import Cell, MethodsConfig
from benchmarks.studies.methods.plots import plot_methods
from benchmarks.studies.methods.tables import cells_csv, comparison_tables, summarise
from prune_gym.data.augmentation import Augmentation
from prune_gym.problem.problem import PruningProblem
from prune_gym.tasks.named import named_task
from prune_gym.tasks.registry import make_task

EXPECTED = (ValueError, RuntimeError, ArithmeticError)
"""Errors a method may die of without costing other cells."""


@dataclass(frozen=True)
class MethodStudy:
    """Methods x targets x seeds, every seed on the task's dense network or on one of its own.

    Attributes:
        config: which.
        device: where networks run.
    """

    config: MethodsConfig
    device: torch.device

    name = "comparison"

    @property
    def store(self) -> CellFiles:
        """A file a cell in ``cells``."""
        return CellFiles(self.config.folder)

    def cells(self) -> list[Cell]:
        """Return all runs."""
        return self.config.cells()

    def open(self) -> None:
        """Refuse to mix cells of different studies; more methods, targets or seeds of the same one are welcome.

        Raises:
            ConfigError: cells of another task or budget, or of several dense networks of one name.
            OptionError: a method that does not exist.
        """
        self.config.cells()
        same, stored = self.config.same_study, self.store.study()
        changed = [] if stored is None else [key for key in same if stored[key] != same[key]]
        about = {"versions": versions(), "threads": torch.get_num_threads(), "machine": describe_machine()}
        self.store.open({**same, **about}, changed, option="--out, or --overwrite")
        _ = self._networks

    def run(self, cell: Cell) -> Result:
        """Return what a method is worth at every stage of repair, or why that cannot be said."""
        contest = self._contest(cell.weights)
        digest = contest.problem.network_key
        self._networks.admit(cell.weights_name or self.config.task, digest)
        try:
            result = contest.measure(cell.method, cell.target, cell.seed)
        except EXPECTED as error:
            result = {"method": cell.method, "target": cell.target, "seed": cell.seed}
            result["error"] = f"{type(error).__name__}: {error}"
        return {**result, WEIGHTS: cell.weights_name, NETWORK: digest}

    def in_short(self, result: Result) -> str:
        """Return a method's accuracy, or why there is none."""
        return result.get("error") or f"fine-tuned {100 * result['accuracy']['finetuned']:.1f} %"

    def report(self, results: Mapping[Cell, Result]) -> Report:
        """Return a table a target, every cell as CSV, and one picture."""
        cells, config = list(results.values()), self.config
        rows, seeds = summarise(cells), len({cell["seed"] for cell in cells})
        failed = [error for cell in self.cells() if (error := self.store.failed(cell)) is not None]
        content = {**config.same_study, "rows": rows, "failed": failed}
        title = f"{config.task}, {seeds} seed{'s' * (seeds != 1)}"
        plots = [partial(plot_methods, rows, title, config.folder / "comparison.png")]
        return Report(comparison_tables(rows), content, {"comparison.csv": cells_csv(cells)}, plots)

    @cached_property
    def _networks(self) -> MeasuredNetworks:
        cells = self.store.finished()
        return MeasuredNetworks(
            self.config.folder, ((dense_name(cell, self.config.task), cell.get(NETWORK)) for cell in cells)
        )

    @cached_property
    def _contests(self) -> dict[str | None, Contest]:
        """The contest of the dense network that was measured last."""
        return {}

    def _contest(self, weights: str | None) -> Contest:
        if weights not in self._contests:
            self._contests.clear()  # one at a time: data and curvature are large
            self._contests[weights] = open_contest(self.config, weights, self.device)
        return self._contests[weights]


def open_contest(config: MethodsConfig, weights: str | None, device: torch.device) -> Contest:
    """Return what all cells of a dense network share, loaded.

    Args:
        config: the comparison.
        weights: file of dense weights; None for the task's own.
        device: where networks run.

    Raises:
        ValueError: the task lacks a split.
    """
    task = make_task(config.task, **({} if weights is None else {"weights": weights}))
    if task.test is None or task.train is None:
        raise ValueError(f"the task {config.task!r} lacks a test or a train split, which the comparison needs")
    task = replace(task, reward=task.reward.subset(slice(config.budget.reward_images)))
    return Contest(PruningProblem(task, device=device).load(), config.budget, augmentation_of(config.task))


def augmentation_of(task: str) -> Augmentation:
    """Return the random changes a dense network was trained with; none where the task is not the package's."""
    try:
        recipe = named_task(task).recipe
    except KeyError:
        return Augmentation()
    return Augmentation(recipe.max_shift, recipe.max_rotation, recipe.flip)
