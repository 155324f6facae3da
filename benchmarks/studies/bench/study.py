"""The measuring of the bench as a study: a cell a network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks.common.columns import Column
from benchmarks.common.provenance import describe_machine, versions
from benchmarks.common.table import Table
from benchmarks.studies.bench.measuring import measure_network
from benchmarks.studies.engine.store import CellFiles
from benchmarks.studies.engine.study import Report, Result
from prune_gym.problem.problem import PruningProblem
from prune_gym.tasks.family.draws import SPLITS, family_names, kind_of, split_of
from prune_gym.tasks.family.tasks import family_task


@dataclass(frozen=True)
class NetworkCell:
    """One network of the family.

    Attributes:
        name: of the network.
    """

    name: str


@dataclass(frozen=True)
class BenchStudy:
    """Every network of the family, trained, analysed and measured.

    Attributes:
        folder: where cells are kept.
        plans: distinct plans a network.
        device: where networks run.
    """

    folder: Path
    plans: int
    device: torch.device

    name = "measured"

    @property
    def store(self) -> CellFiles:
        """A file a cell in ``cells``."""
        return CellFiles(self.folder)

    def cells(self) -> list[NetworkCell]:
        """Return the networks, kinds and splits in turn, so that a part of them is a small bench."""
        return [NetworkCell(name) for name in interleaved(family_names())]

    def open(self) -> None:
        """Refuse to mix cells of different numbers of plans.

        Raises:
            ConfigError: cells of another number.
        """
        stored, same = self.store.study(), {"plans": self.plans}
        changed = [] if stored is None else [key for key in same if stored[key] != same[key]]
        about = {"versions": versions(), "threads": torch.get_num_threads(), "machine": describe_machine()}
        self.store.open({**same, **about}, changed, option="--out")

    def run(self, cell: NetworkCell) -> Result:
        """Train, analyse and measure a network."""
        task = family_task(cell.name).to(self.device)
        return measure_network(PruningProblem(task), cell.name, self.plans)

    def in_short(self, result: Result) -> str:
        """Return what was measured."""
        seconds = sum(result["cpu_seconds"].values())
        plans = len(result["plans"]["kept"])
        return f"dense {100 * result['dense'][3]:.1f} %, {plans} plans in {seconds:.0f} s of CPU time"

    def report(self, results: Mapping[NetworkCell, Result]) -> Report:
        """Return how many networks of every split are there."""
        rows = []
        for split in SPLITS:
            found = [result for result in results.values() if result["split"] == split]
            if found:
                accuracy = [100 * result["dense"][3] for result in found]
                plans = sum(len(result["plans"]["kept"]) for result in found)
                rows.append([split, len(found), plans, min(accuracy), max(accuracy)])
        columns: list[Column | str] = [
            "split",
            "networks",
            "plans",
            Column("lowest dense accuracy %", ".1f"),
            Column("highest", ".1f"),
        ]
        return Report([Table("Measured networks", columns, rows)])


def interleaved(names: Sequence[str]) -> list[str]:
    """Names in an order in which every beginning holds each kind and split in proportion."""
    groups: dict[tuple[str, str], list[str]] = {}
    for name in names:
        groups.setdefault((split_of(name), kind_of(name)), []).append(name)
    places = {name: (i + 0.5) / len(group) for group in groups.values() for i, name in enumerate(group)}
    return sorted(names, key=lambda name: (places[name], name))
