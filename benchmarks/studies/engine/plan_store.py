"""Measured plans on disk: what one agent or run measured is free for the next, in wall time but not in its count.

Every measurement is appended as a line the moment it is there, to a file of the run's own; all files of a problem are
read back together. So runs may go on side by side, and a killed one loses nothing.
"""

from __future__ import annotations

import json
import logging
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.common.signed import FileError, parse_json
from benchmarks.common.signed_table import DIGITS
from benchmarks.files.models import STORED_PLAN, check
from hessian.support.files import CHECKSUM_KEY, sha256_of
from prune_gym.measuring.evaluation import Evaluation
from prune_gym.problem.problem import PruningProblem

logger = logging.getLogger(__name__)

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
        """Read the sound lines of a file; what a kill tore, or anything else damaged, is measured again."""
        lines = path.read_bytes().split(b"\n")
        damaged = 0
        for line in lines:
            row = self._checked(line, path)
            if row is None:
                damaged += bool(line.strip())
                continue
            evaluation = Evaluation(row["accuracy"], row["soft_accuracy"], row["loss"])
            self.measurements.setdefault(tuple(row["kept"]), Measurement(evaluation, row["seconds"]))
        if damaged:
            logger.warning("%d of %d lines of %s are damaged; they are measured again", damaged, len(lines), path)

    def _checked(self, line: bytes, path: Path) -> dict[str, Any] | None:
        """A line's content, if its checksum matches and it is a plan of this problem."""
        try:
            row = parse_json(line, path, "")
            digest = row.pop(CHECKSUM_KEY, None) if isinstance(row, dict) else None
            if digest is None or digest != sha256_of(row)[:DIGITS]:
                return None
            check(row, STORED_PLAN, path, "")
        except FileError:
            return None
        units = self._problem.cost.units.tolist()
        fits = len(row["kept"]) == len(units) and all(map(int.__le__, row["kept"], units))
        return row if fits else None

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
                row = {"kept": list(plan), **asdict(found.evaluation), "seconds": found.seconds}
                file.write(json.dumps({**row, CHECKSUM_KEY: sha256_of(row)[:DIGITS]}) + "\n")
            file.flush()
