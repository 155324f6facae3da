"""Measured plans on disk: what one agent or run measured is free for the next, in wall time but not in its count.

Every measurement is appended as a line the moment it is there, to a file of the run's own; all files of a problem are
read back together. So runs may go on side by side, and a killed one loses nothing.
"""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path

from prune_gym.measuring.evaluator import Evaluation
from prune_gym.problem.problem import PruningProblem

Plan = tuple[int, ...]


@dataclass(frozen=True)
class Measurement:
    """A plan's score and what it cost.

    Attributes:
        evaluation: on the reward split.
        seconds: wall time of measuring it (s).
    """

    evaluation: Evaluation
    seconds: float


class PlanStore:
    """Measured plans of one problem: its task, data, curvature and repair.

    Args:
        folder: where stores of all problems lie.
        problem: loaded.
        writer: name of this process's file.
    """

    def __init__(self, folder: Path, problem: PruningProblem, writer: str) -> None:
        readable = re.sub(r"[^A-Za-z0-9._-]+", "_", problem.name)
        self._folder = folder / f"{readable}-{problem.measurement_key[:20]}"
        self._path = self._folder / f"{writer}.jsonl"
        self._problem = problem
        self.measurements: dict[Plan, Measurement] = {}
        for path in sorted(self._folder.glob("*.jsonl")):
            self._read(path)
        archive = {plan: found.evaluation for plan, found in self.measurements.items()}
        problem.evaluator.archive.update(archive)

    def _read(self, path: Path) -> None:
        """Read the whole lines of a file; the last one may be torn by a kill."""
        for line in path.read_text().splitlines():
            try:
                row = json.loads(line)
                plan = tuple(int(count) for count in row["kept"])
                evaluation = Evaluation(row["accuracy"], row["soft_accuracy"], row["loss"])
                self.measurements.setdefault(plan, Measurement(evaluation, row["seconds"]))
            except (ValueError, KeyError, TypeError):
                continue

    def sync(self) -> None:
        """Append what the problem's evaluator measured since."""
        evaluator = self._problem.evaluator
        new = [plan for plan in evaluator.seconds if plan in evaluator.archive and plan not in self.measurements]
        if not new:
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        torn = self._path.is_file() and not self._path.read_bytes().endswith(b"\n")
        with open(self._path, "a") as file:
            file.write("\n" * torn)
            for plan in new:
                found = Measurement(evaluator.archive[plan], evaluator.seconds[plan])
                self.measurements[plan] = found
                file.write(
                    json.dumps({"kept": list(plan), **asdict(found.evaluation), "seconds": found.seconds}) + "\n"
                )
            file.flush()
