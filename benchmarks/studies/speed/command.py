"""Speed: every sub-command measures one part of the project against named baselines, interleaved in one run.

    python -m benchmarks.studies.speed hessian [--json FILE] [--rows NAME ...] [--threads N]
    python -m benchmarks.studies.speed prune [--json FILE] [--threads N]
    python -m benchmarks.studies.speed scale [--json FILE] [--layers N ...] [--widths N ...]

A row a number: the median, and its ratio to the baseline measured next to it. On a machine that others use too, ratios
can be believed and seconds cannot.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Console

from benchmarks.common.arguments import add_options, command_parser, default_threads, prepare
from benchmarks.common.columns import Column
from benchmarks.common.command import reports_errors
from benchmarks.common.provenance import write_result
from benchmarks.common.table import Table
from benchmarks.studies.speed import options as options_of

if TYPE_CHECKING:
    from benchmarks.studies.speed.rows import SpeedRow

SUBCOMMANDS = {
    "hessian": "curvature, sweeps and their memory",
    "env": "candidates, measured and predicted",
    "prune": "surgery, and what it gains in speed",
    "scale": "growth with layers and width, and exponents",
}
"""Sub-command -> what it measures; each is a module ``benchmarks.studies.speed.<name>`` and its options, a function of
:mod:`benchmarks.studies.speed.options`."""


@reports_errors(ValueError, KeyError)
def main(argv: Sequence[str] | None = None) -> int:
    """Measure from the command line.

    Args:
        argv: arguments; absent means those of the process.

    Returns:
        Exit code: 0 done, 2 bad input, 130 interrupted (rows measured so far are written).
    """
    options = _parser().parse_args(argv)
    console = Console()
    module = importlib.import_module(f"benchmarks.studies.speed.{options.subcommand}")
    rows: list[SpeedRow] = []
    options.device = prepare(options)
    options.threads = options.threads or default_threads()
    try:
        for row in module.measure(options, lambda line: console.print(line, style="dim", highlight=False)):
            rows.append(row)
            console.print(f"{row.name}: {row.value:.4g} {row.unit}, ratio {row.ratio}", highlight=False)
            _write(options, rows)
    finally:
        if rows:
            console.print(speed_table(f"{options.subcommand}, {options.threads} threads, {options.device}", rows))
    return 0


def speed_table(title: str, rows: Sequence[SpeedRow]) -> Table:
    """Return the rows as a table."""
    columns = ("", "median", Column("ratio", ",.3g"), Column("baseline", wide=True))
    return Table(title, columns, [[row.name, f"{row.value:,.4g} {row.unit}", row.ratio, row.baseline] for row in rows])


def _write(options: argparse.Namespace, rows: Sequence[SpeedRow]) -> None:
    if options.json is not None:
        machine = {"threads": options.threads, "device": str(options.device)}
        write_result(options.json, {**machine, "rows": [dataclasses.asdict(row) for row in rows]})


def _parser() -> argparse.ArgumentParser:
    parser = command_parser("benchmarks.studies.speed", (__doc__ or "").splitlines()[0])
    subcommands = parser.add_subparsers(dest="subcommand", required=True)
    for name, what in SUBCOMMANDS.items():
        subcommand = subcommands.add_parser(name, help=what)
        getattr(options_of, name)(subcommand)
        add_options(subcommand, "json", "gpu", "threads")
    return parser
