"""The ablation as a study: every variant a run of the main job a seed, and what they say together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from benchmarks.ablation.plot import plot_ablation
from benchmarks.ablation.tables import ablation_table, runs_csv, summarise
from benchmarks.ablation.variants import Plan
from benchmarks.job.run_folder import RunFolderError, RunState, open_run
from benchmarks.studies.engine.run_folders import MainJob, RunCell, RunFolders, accuracies
from benchmarks.studies.engine.study import Report, Result

if TYPE_CHECKING:
    from rich.console import Console


@dataclass(frozen=True)
class AblationStudy:
    """Variants x seeds.

    Attributes:
        plan: the variants' configurations.
        chosen: variants that are run now; the others are told of where they are finished.
        overwrite: start those again.
        retry_failed: run cells again that failed.
        console: where the stages of runs are shown; None: nowhere.
        device: where networks run.
    """

    plan: Plan
    chosen: tuple[str, ...]
    overwrite: bool
    retry_failed: bool
    console: Console | None
    device: torch.device

    name = "ablation"

    @property
    def store(self) -> RunFolders:
        """A run folder a cell below ``<save_dir>/ablation``."""
        return RunFolders(self.plan.folder, self.retry_failed)

    def cells(self) -> list[RunCell]:
        """Return all runs, seeds outermost, so that an unfinished ablation has whole seeds first."""
        by_variant = [self.plan.cells(name) for name in self.plan.configs]
        return [cell for cells in zip(*by_variant, strict=True) for cell in cells]

    def open(self) -> None:
        """Make the folders of the chosen variants ready, and look at those others have finished.

        Raises:
            NotWritableError: a folder cannot be written.
            RunFolderError: a folder holds a run of another configuration.
        """
        self.store.open((cell for name in self.chosen for cell in self.plan.cells(name)), overwrite=self.overwrite)
        for cell in self.cells():
            if cell.folder.state is RunState.FINISHED:
                open_run(cell.config, cell.seed)

    def run(self, cell: RunCell) -> Result:
        """Run or resume a run."""
        return MainJob(str(self.device), plots=True, console=self.console)(cell)

    def in_short(self, result: Result) -> str:
        """Return the accuracies of a run."""
        return accuracies(result)

    def report(self, results: Mapping[RunCell, Result]) -> Report:
        """Return a table of the variants all of whose seeds are finished.

        Raises:
            RunFolderError: runs of different software versions.
        """
        by_variant = {name: [results.get(cell) for cell in self.plan.cells(name)] for name in self.plan.configs}
        whole = {name: runs for name, runs in by_variant.items() if None not in runs}
        finished = {name: [run for run in runs if run is not None] for name, runs in whole.items()}
        check_versions(finished, str(self.plan.folder))
        if not finished:
            return Report([])
        base = next(iter(self.plan.configs.values()))
        rows, target = summarise(finished), next(iter(finished.values()))[0]["target_flops_reduction"]
        title = f"{base.task_name}: {100 * target:g} % of the FLOPs removed"
        content = {
            "task": base.task_name,
            "target_flops_reduction": target,
            "configuration": base.model_dump(mode="json", exclude={"experiment": {"save_dir"}}),
            "rows": rows,
        }
        plot = partial(plot_ablation, rows, title, save_path=self.plan.folder / "ablation")
        return Report([ablation_table(rows, title)], content, {"ablation.csv": runs_csv(finished)}, [plot])


def check_versions(results: Mapping[str, Sequence[Mapping[str, Any]]], folder: str) -> None:
    """Refuse runs of different software versions.

    Args:
        results: variant -> contents of its runs' ``result.json``.
        folder: of the ablation, for the message.

    Raises:
        RunFolderError: the message names what differs.
    """
    distinct = {str(run["versions"]): run["versions"] for runs in results.values() for run in runs}
    if len(distinct) > 1:
        one, other = list(distinct.values())[:2]
        changed = [f"{key} {one.get(key)} and {other.get(key)}" for key in one if one.get(key) != other.get(key)]
        raise RunFolderError(
            f"{folder} holds runs of different software versions ({', '.join(changed)}); their differences would not "
            "be those of the variants: pass --overwrite, or set another experiment.save_dir"
        )
