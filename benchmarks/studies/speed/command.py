"""How fast? Every sub-command measures one part of the project against named baselines, interleaved in one run.

    python -m benchmarks.studies.speed hessian [--json FILE] [--rows NAME ...] [--threads N]
    python -m benchmarks.studies.speed prune [--json FILE] [--threads N]

A row a number: the median, and its ratio to the baseline measured next to it. On a machine that others use too, ratios
can be believed and seconds cannot.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib
from collections.abc import Sequence

import torch
from rich.console import Console

from benchmarks.common.arguments import default_threads, positive, writable
from benchmarks.common.columns import Column
from benchmarks.common.command import reports_errors
from benchmarks.common.provenance import write_result
from benchmarks.common.table import Table
from benchmarks.studies.speed.rows import SpeedRow
from prune_gym.support.device import resolve_device

SUBCOMMANDS = {
    "hessian": "curvature, sweeps and their memory",
    "env": "candidates, measured and predicted",
    "prune": "surgery, and what it gains in speed",
}
"""Sub-command -> what it measures; each is a module ``benchmarks.studies.speed.<name>``."""


@reports_errors(OSError, ValueError, KeyError)
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
    options.device = resolve_device(options.gpu)
    options.threads = options.threads or default_threads()
    torch.set_num_threads(options.threads)
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
    parser = argparse.ArgumentParser(prog="python -m benchmarks.studies.speed", description=__doc__.splitlines()[0])
    subcommands = parser.add_subparsers(dest="subcommand", required=True)
    for name, what in SUBCOMMANDS.items():
        subcommand = subcommands.add_parser(name, help=what)
        importlib.import_module(f"benchmarks.studies.speed.{name}").add_arguments(subcommand)
        subcommand.add_argument("--json", type=writable, metavar="FILE", help="write the rows")
        subcommand.add_argument("--gpu", metavar="ID", help="GPU index, or cpu (default: the only GPU, else the CPU)")
        subcommand.add_argument(
            "--threads", type=positive, metavar="N", help="CPU threads (default: one a core, at most 8)"
        )
    return parser
