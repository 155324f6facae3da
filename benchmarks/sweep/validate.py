"""Check of a sweep against its configuration: rows of its table, run again and compared.

    python -m benchmarks.sweep.validate RESULTS [--sample N] [--seed S] [--tolerance X] [--workers N] [--import MODULE]

The same as ``prune-gym validate``. A run is a deterministic function of its configuration and seed, so on the machine
and with the versions and threads it was made with, a row comes out equal to the bit and the default tolerance is 0.
Elsewhere floating-point sums differ in their last digits, which fine-tuning amplifies: allow a tolerance there.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.common.arguments import command_parser, positive
from benchmarks.common.command import reports_errors
from benchmarks.common.errors import FAILED
from benchmarks.common.modules import import_modules
from benchmarks.common.provenance import versions
from benchmarks.studies.engine.workers import LocalWorkers, Workers
from benchmarks.sweep.command import devices_of
from benchmarks.sweep.config import Cell, SweepConfig
from benchmarks.sweep.results_table import COLUMNS, KEY, ResultsError, Row, read_results, result_row, run_key

GIVEN = ("schema_version", "versions", "device", "num_threads", *KEY)
COMPARED = tuple(column for column in COLUMNS if column not in GIVEN)
"""Columns a validated row has to reproduce."""


@dataclass(frozen=True)
class Difference:
    """A number that did not come out again.

    Attributes:
        run: task, method, target and seed.
        column: of the table.
        stored: what the table says.
        again: what the run gave this time; None where it failed.
    """

    run: tuple[Any, ...]
    column: str
    stored: Any
    again: Any


@reports_errors(ImportError)
def main(argv: Sequence[str] | None = None, prog: str | None = None) -> int:
    """Validate a table from the command line.

    Args:
        argv: arguments; absent means those of the process.
        prog: name of the command in the help text.

    Returns:
        Exit code: 0 all rows came out again, 1 some did not, 2 bad input, 130 interrupted.
    """
    options = _parser(prog).parse_args(argv)
    console, errors = Console(), Console(stderr=True)
    import_modules(options.imports)
    rows, sweep = load_rows(options.results)
    chosen = sample(rows, options.sample, options.seed)
    _warn_of_versions(chosen, errors)
    workers = LocalWorkers(options.workers, sweep.threads, devices_of(options.devices), options.imports)
    differences = validate(chosen, sweep, workers, options.tolerance, console)
    return FAILED if differences else 0


def load_rows(path: Path) -> tuple[list[Row], SweepConfig]:
    """Read a table and the sweep that made it, which lies beside it.

    Args:
        path: the folder of a sweep, or a table in it.

    Raises:
        FileNotFoundError: no table there, or no ``sweep.yaml`` beside it.
        ResultsError: the table cannot be used, or has no rows.
        ConfigError: the sweep's configuration cannot be used.
    """
    rows = read_results(path)
    if not rows:
        raise ResultsError(f"{path} has no rows, so there is nothing to run again")
    folder = path if path.is_dir() else path.parent
    if not (folder / "sweep.yaml").is_file():
        raise FileNotFoundError(f"{folder} has no sweep.yaml, so nobody knows how its results were made")
    return rows, SweepConfig.load(folder / "sweep.yaml")


def sample(rows: Sequence[Row], count: int | None, seed: int) -> list[Row]:
    """So many rows drawn at random, in the table's order; all of them for None or where there are fewer."""
    if count is None or count >= len(rows):
        return list(rows)
    return [rows[index] for index in sorted(random.Random(seed).sample(range(len(rows)), count))]


def validate(
    rows: Sequence[Row], sweep: SweepConfig, workers: Workers, tolerance: float = 0.0, console: Console | None = None
) -> list[Difference]:
    """Run rows again, in a folder that is thrown away, and compare.

    Args:
        rows: of :func:`benchmarks.sweep.results_table.read_results`.
        sweep: what made them.
        workers: what runs them.
        tolerance: largest accepted difference: absolute for fractions (accuracies, FLOPs reductions, ratios of layers),
            relative for counts.
        console: where to show what happens; absent means nowhere.

    Returns:
        What differs by more.

    Raises:
        ResultsError: a row that the sweep's configuration has no cell for.
    """
    from benchmarks.studies.engine.run_folders import MainJob
    from benchmarks.sweep.study import SweepStudy

    console = console or Console(quiet=True)
    differences: list[Difference] = []
    with tempfile.TemporaryDirectory(prefix="prune-gym-validate-") as scratch:
        again = SweepStudy(sweep.model_copy(update={"save_dir": Path(scratch)}))
        names = [cell.name for cell in _cells_of(rows, sweep)]
        cells = {cell.name: cell for cell in again.cells()}
        wanted = {name: (cells[name], row) for name, row in zip(names, rows, strict=True)}
        with closing(workers.run(MainJob, [cell for cell, _ in wanted.values()], lambda cell: None)) as outcomes:
            for outcome in outcomes:
                cell, row = wanted[outcome.name]
                result = again.store.result(cell)
                if result is None:
                    found = [Difference(run_key(row), "the run itself", "finished", outcome.error)]
                else:
                    found = compare(row, result_row(result), tolerance)
                differences += found
                _show(console, outcome.name, found)
    reproduced = len(rows) - len({difference.run for difference in differences})
    console.print(f"{reproduced} of {len(rows)} rows came out again (tolerance {tolerance:g})", highlight=False)
    return differences


def _cells_of(rows: Sequence[Row], sweep: SweepConfig) -> list[Cell]:
    """The cells that made rows.

    A table names the target a run really had; a sweep without targets left it to the task.

    Raises:
        ResultsError: the table has a run that is not in the grid.
    """
    cells = sweep.cells()
    found = []
    for row in rows:
        task, method, target, seed = run_key(row)
        wanted = Cell(task, method, target if sweep.targets else None, seed)
        if wanted not in cells:
            raise ResultsError(
                f"the table has the run {run_key(row)}, which its sweep.yaml does not; was one of them edited?"
            )
        found.append(wanted)
    return found


def compare(stored: Row, again: Row, tolerance: float = 0.0) -> list[Difference]:
    """Differences between two rows of the same run.

    Args:
        stored: of the table.
        again: of the run's repetition.
        tolerance: see :func:`validate`.
    """
    return [
        Difference(run_key(stored), column, stored[column], again[column])
        for column in COMPARED
        if not _agree(column, stored[column], again[column], tolerance)
    ]


def _agree(column: str, stored: Any, again: Any, tolerance: float) -> bool:
    if column == "budgets":
        ratios, repeated = json.loads(stored), json.loads(again)
        return ratios.keys() == repeated.keys() and all(
            abs(ratios[layer] - repeated[layer]) <= tolerance for layer in ratios
        )
    scale = max(abs(stored), 1) if COLUMNS[column] is int else 1.0
    return bool(abs(stored - again) <= tolerance * scale)


def _show(console: Console, name: str, differences: Sequence[Difference]) -> None:
    console.print(f"{name}: {'differs' if differences else 'the same'}", highlight=False, markup=False, soft_wrap=True)
    for difference in differences:
        text = f"  {difference.column}: {difference.stored} in the table, {difference.again} this time"
        console.print(text, style="red", highlight=False, markup=False, soft_wrap=True)


def _warn_of_versions(rows: Sequence[Row], errors: Console) -> None:
    """Say which versions differ from those of the table, as an explanation of differences to come."""
    here = versions()
    for text in sorted({row["versions"] for row in rows}):
        there = json.loads(text)
        changed = [f"{name} {there[name]} (here {here.get(name)})" for name in there if there[name] != here.get(name)]
        if changed:
            errors.print(f"the table was made with {', '.join(changed)}: expect small differences", style="yellow")


def _parser(prog: str | None) -> argparse.ArgumentParser:
    what = "Run rows of a sweep's results again and compare."
    parser = command_parser("benchmarks.sweep.validate", what, "import", prog=prog)
    add = parser.add_argument
    add("results", type=Path, metavar="RESULTS", help="folder of a sweep, or its results.csv or results.parquet")
    add("--sample", type=positive, metavar="N", help="only N rows, drawn at random (default: all)")
    add("--seed", type=int, default=0, metavar="S", help="of that draw (default: %(default)s)")
    add(
        "--tolerance",
        type=float,
        default=0.0,
        metavar="X",
        help="accepted difference of fractions; relative for counts",
    )
    add("--devices", metavar="LIST", help="cpu, or GPU indices such as 0,1 (default: every GPU, else cpu)")
    add("--workers", type=positive, default=1, metavar="N", help="runs at a time (default: %(default)s)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
