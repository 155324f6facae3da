"""The main job from task to report, resumable between stages and inside the long one.

What a finished stage found is written to the run folder before the next begins; a resumed run reads it back
instead of doing it again. Every stage is a deterministic function of the configuration, the seed and the stages before
it, so an interrupted run ends with the numbers of an uninterrupted one.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter
from rich.console import Console
from torch import nn

from agents import RSPARAgent
from benchmarks.common.provenance import describe_machine, versions
from benchmarks.files.models import BUDGETS, FINE_TUNING, FRACTION, MEASURED, SECONDS, VERSIONS
from benchmarks.job import stages
from benchmarks.job.budgets import (
    Archive,
    Budgets,
    archive_from_json,
    archive_to_json,
    budget_table,
    load_network,
    save_network,
)
from benchmarks.job.run_folder import RunFolder, RunFolderError
from benchmarks.job.run_plots import save_plots
from benchmarks.job.summary import measure_networks
from benchmarks.job.task import load_task, make_problem, target_of
from benchmarks.settings.methods import METHODS
from benchmarks.settings.schema import Config
from hessian.support.progress import Progress
from prune_gym.problem.problem import PruningProblem
from prune_gym.support.files import sha256_of
from prune_gym.support.stage_progress import StageProgress
from prune_gym.tasks.task import PruningTask

TIMED_KEYS = frozenset({"latency_ms", "latency_std_ms", "throughput_imgs_per_sec", "seconds", "sha256"})
"""Keys of ``result.json`` that hold times or depend on them, which no two runs share."""

Result = dict[str, Any]


def run_experiment(
    config: Config,
    seed: int,
    folder: RunFolder,
    *,
    device: torch.device,
    progress: StageProgress | None = None,
    plots: bool = True,
) -> Result:
    """Run or resume the main job for one seed.

    Args:
        config: the validated configuration.
        seed: of the search and of fine-tuning.
        folder: where results go, from :func:`benchmarks.job.run_folder.open_run`.
        device: where networks run.
        progress: bars to draw on; absent means none.
        plots: whether to draw the run's plots.

    Returns:
        What ``result.json`` holds.

    Raises:
        ConfigError: the configuration contradicts the task, or the target is out of reach.
        FileNotFoundError: the task's data or weights are missing.
    """
    return _Run(config, seed, folder, device, progress or StageProgress(Console(quiet=True)), plots).execute()


def without_timings(result: Any) -> Any:
    """Return a result without what was timed: what the same seed reproduces."""
    if isinstance(result, Mapping):
        return {key: without_timings(value) for key, value in result.items() if key not in TIMED_KEYS}
    return result


class _Run:
    """One run: the order of the stages, and what each leaves in the folder."""

    def __init__(
        self,
        config: Config,
        seed: int,
        folder: RunFolder,
        device: torch.device,
        progress: StageProgress,
        plots: bool,
    ) -> None:
        self.config, self.seed, self.folder, self.device = config, seed, folder, device
        self._progress, self._plots = progress, plots
        self._forget_other_versions()
        self._seconds: dict[str, float] = folder.read_json("unfinished/seconds.json", SECONDS) or {}

    def execute(self) -> Result:
        with self._stage("load task"):
            task = load_task(self.config, self.device)
            problem = make_problem(self.config, task)
        with self._stage("test dense network"):
            dense = self._once("dense", lambda: stages.accuracy_on_test(task.model, task))
        prune = self._search_and_cut if self.config.pruning.method in METHODS else self._prune_by_baseline
        budgets, pruned = prune(task, problem)
        with self._stage("test one-shot"):
            one_shot = self._once("one_shot", lambda: stages.accuracy_on_test(pruned, task))
        with self._stage("reconstruct") as report:
            make = partial(stages.reconstruct_network, self.config, self.seed, task, pruned, report)
            path = self.folder.unfinished / "reconstructed.safetensors"
            state = self.folder.unfinished / "reconstruction.safetensors"
            reconstructed = self._network(path, task, problem, budgets, lambda: make(state))
        with self._stage("test reconstructed"):
            known = self._once("reconstructed_accuracy", lambda: stages.accuracy_on_test(reconstructed, task))
        with self._stage("fine-tune with KD") as report:
            final = self._network(
                self.folder.checkpoint, task, problem, budgets, lambda: self._tune(task, budgets, reconstructed, report)
            )
        with self._stage("final report"):
            accuracies = {
                "dense": dense,
                "one_shot": one_shot,
                "reconstructed": known,
                "final": stages.accuracy_on_test(final, task),
            }
            networks = {"dense": task.model, "one_shot": pruned, "reconstructed": reconstructed, "final": final}
            result = self._result(task, problem, budgets, networks, accuracies)
            if self._plots:
                save_plots(self.folder.plots, result, budgets, problem)
        result["seconds"] = self._seconds
        self.folder.finish(result)
        return result

    def _tune(self, task: PruningTask, budgets: Budgets, network: nn.Module, report: Progress) -> nn.Module:
        tuned, choice = stages.tune(self.config, self.seed, task, budgets.plan, network, report)
        self.folder.write_json("unfinished/finetuning.json", choice)
        return tuned

    # ------------------------------------------------------------------ two ways to a pruned network

    def _search_and_cut(self, task: PruningTask, problem: PruningProblem) -> tuple[Budgets, nn.Module]:
        """Search for budgets on the environment; H-OBS selects and repairs."""
        with self._stage("H-OBS") as report:
            stages.analyse(problem, report)
        with self._stage(f"search: {self.config.pruning.method}") as report:
            budgets = self._search(problem, report)
        with self._stage("cut and repair"):
            make = partial(stages.cut, self.config, problem, budgets)
            return budgets, self._network(self._cut_path, task, problem, budgets, make)

    def _prune_by_baseline(self, task: PruningTask, problem: PruningProblem) -> tuple[Budgets, nn.Module]:
        """A published method decides, cuts and trains as it does; no curvature is computed."""
        with self._stage(f"prune: {self.config.pruning.method}") as report:
            stored = self.folder.read_json("unfinished/budgets.json", BUDGETS)
            if stored is None:
                budgets, network = stages.prune_by_baseline(self.config, self.seed, task, report)
                save_network(self._cut_path, network, task, problem, budgets)
                self.folder.write_json("unfinished/budgets.json", asdict(budgets))
            else:
                budgets = Budgets(**stored)
            self.folder.write_table("budgets.json", budget_table(problem, budgets))
            return budgets, load_network(self._cut_path, task).to(self.device)

    @property
    def _cut_path(self) -> Path:
        """Path of the pruned network until it is fine-tuned."""
        return self.folder.unfinished / "cut.safetensors"

    # ------------------------------------------------------------------ stages with a memory

    @contextmanager
    def _stage(self, name: str) -> Iterator[Progress]:
        before, started = self._seconds.get(name, 0.0), time.perf_counter()
        try:
            with self._progress.stage(name) as report:
                yield report
        finally:
            # What an interrupted attempt took counts, too.
            self._seconds[name] = before + time.perf_counter() - started
            self.folder.write_json("unfinished/seconds.json", self._seconds)

    def _forget_other_versions(self) -> None:
        """Start afresh where other software left off: numbers of two versions must not mix in one result."""
        try:
            found = self.folder.read_json("unfinished/versions.json", VERSIONS)
        except RunFolderError:
            found = {}  # of a version that wrote it without a checksum, or nobody knows of which
        if found not in (None, versions()):
            self.folder.forget_progress()
        self.folder.write_json("unfinished/versions.json", versions())

    def _once(self, name: str, compute: Callable[[], Any], model: TypeAdapter[Any] = FRACTION) -> Any:
        stored = self.folder.read_json(f"unfinished/{name}.json", model)
        if stored is None:
            stored = compute()
            self.folder.write_json(f"unfinished/{name}.json", stored)
        return stored

    def _search(self, problem: PruningProblem, report: Progress) -> Budgets:
        def remember(archive: Archive) -> None:
            self.folder.write_json("unfinished/measured.json", archive_to_json(archive))

        def search() -> dict[str, Any]:
            measured = archive_from_json(self.folder.read_json("unfinished/measured.json", MEASURED))
            budgets, agent = stages.search_budgets(
                self.config, self.seed, problem, report, measured=measured, remember=remember
            )
            if isinstance(agent, RSPARAgent):
                agent.save(self.folder.agent)
            return asdict(budgets)

        budgets = Budgets(**self._once("budgets", search, BUDGETS))
        self.folder.write_table("budgets.json", budget_table(problem, budgets))
        self.folder.write_csv("history.csv", [_csv_row(record) for record in budgets.history])
        return budgets

    def _network(
        self,
        path: Path,
        task: PruningTask,
        problem: PruningProblem,
        budgets: Budgets,
        make: Callable[[], nn.Module],
    ) -> nn.Module:
        """Make a pruned network and keep it, or read it back."""
        if not path.with_suffix(".json").is_file():
            save_network(path, make(), task, problem, budgets)
        return load_network(path, task).to(self.device)

    # ------------------------------------------------------------------ the result

    def _result(
        self,
        task: PruningTask,
        problem: PruningProblem,
        budgets: Budgets,
        networks: Mapping[str, nn.Module],
        accuracies: Mapping[str, float],
    ) -> Result:
        reports = measure_networks(networks, accuracies, task.example_input)
        ratios = (1 - kept / group.num_units for kept, group in zip(budgets.kept, problem.groups, strict=True))
        return {
            **{name: report.as_dict() for name, report in reports.items()},
            "flops_reduction": 1 - reports["final"].flops / reports["dense"].flops,
            "target_flops_reduction": target_of(self.config, task),
            "test_images": len(task.test) if task.test is not None else None,
            "warnings": stages.doubts_about(task, accuracies["dense"]),
            "budgets": dict(zip(problem.layer_names, ratios, strict=True)),
            "search": {
                "measured_evaluations": budgets.measured_evaluations,
                "reward_accuracy": budgets.accuracy,
                "reward_soft_accuracy": budgets.soft_accuracy,
                **self._initial_agent(),
            },
            "finetuning": self.folder.read_json("unfinished/finetuning.json", FINE_TUNING) or {},
            "experiment": self.config.experiment.name,
            "task": task.name,
            "method": self.config.pruning.method,
            "seed": self.seed,
            "device": str(self.device),
            "num_threads": torch.get_num_threads(),
            "machine": describe_machine(),
            "versions": versions(),
        }

    def _initial_agent(self) -> dict[str, str]:
        """Digest of the agent the search went on from, if there was one."""
        path = self.config.pruning.rspar.initial_agent
        return {} if path is None else {"initial_agent": sha256_of(path.expanduser().read_bytes())}


def _csv_row(record: Mapping[str, Any]) -> dict[str, Any]:
    """A record as a table holds it: lists become words."""
    return {key: " ".join(map(str, value)) if isinstance(value, list) else value for key, value in record.items()}
