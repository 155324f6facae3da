"""The ladder as a study: agents x contests of the test networks x seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks.common.columns import Column
from benchmarks.common.provenance import versions
from benchmarks.common.table import Table
from benchmarks.studies.engine.store import CellFiles
from benchmarks.studies.engine.study import Report, Result
from benchmarks.studies.ladder.cells import ABOUT, LadderCell, run_cell
from benchmarks.studies.ladder.submission import FORMAT, Networks, asked_for, write_submission
from prune_gym.bench.networks import bench_network
from prune_gym.bench.problem import BenchProblem


@dataclass(frozen=True)
class LadderStudy:
    """Every agent on every contest.

    Attributes:
        folder: where cells are kept.
        agents: keys of :data:`benchmarks.studies.ladder.cells.ABOUT`.
        seeds: of the runs.
        networks: file of the bench; None: the package's.
        device: unused; agents of this size learn on the CPU.
    """

    folder: Path
    agents: tuple[str, ...]
    seeds: tuple[int, ...]
    networks: Networks
    device: torch.device

    name = "ladder"

    @property
    def store(self) -> CellFiles:
        """A file a run in ``cells``."""
        return CellFiles(self.folder)

    def cells(self) -> Sequence[LadderCell]:
        """Return all runs, seeds outermost."""
        contests = asked_for(self.networks)
        return [
            LadderCell(agent, *contest, seed) for seed in self.seeds for contest in contests for agent in self.agents
        ]

    def open(self) -> None:
        """Nothing is refused: what a run depends on is in its own file."""
        self.store.open({"study": self.name, "versions": versions()}, [], option="--out")

    def run(self, cell: LadderCell) -> Result:
        """Let an agent search."""
        network = BenchProblem(bench_network(cell.network, self.networks)).network_key
        return {**run_cell(cell, self.networks), "network_key": network}

    def in_short(self, result: Result) -> str:
        """Return how good the best plan is."""
        return f"normalised score {result['score']:.2f} with {result['scored']} plans, {result['cpu_seconds']:.0f} s"

    def report(self, results: Mapping[LadderCell, Result]) -> Report:
        """Return the mean score of every agent over its runs so far."""
        rows = []
        for agent in self.agents:
            own = [result for result in results.values() if result["agent"] == agent]
            if own:
                mean = [sum(result[key] for result in own) / len(own) for key in ("score", "cpu_seconds")]
                rows.append([agent, len(own), *mean])
        columns: list[Column | str] = [
            "agent",
            "runs",
            Column("mean normalised score", ".2f"),
            Column("CPU seconds a run", ".1f"),
        ]
        return Report([Table("The ladder so far", columns, rows)])

    def publish(self, folder: Path) -> list[Path]:
        """Write a submission an agent of the runs whose network is still the bench's.

        Args:
            folder: of submissions.

        Raises:
            SubmissionError: a run breaks a rule.
        """
        written, contests = [], set(asked_for(self.networks))
        names = {network for network, _ in contests}
        keys = {name: BenchProblem(bench_network(name, self.networks)).network_key for name in names}
        for agent in self.agents:
            runs = [
                {key: cell[key] for key in ("network", "target", "seed", "plans")}
                for cell in self.store.finished()
                if cell["agent"] == agent
                and (cell["network"], cell["target"]) in contests
                and cell["network_key"] == keys[cell["network"]]
            ]
            if runs:
                content = {
                    "format": FORMAT,
                    "agent": agent,
                    "about": ABOUT[agent],
                    "runs": runs,
                    "versions": versions(),
                }
                written.append(write_submission(folder / f"{agent}.json", content))
        return written
