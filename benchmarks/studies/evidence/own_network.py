"""A network of one's own, pruned by one command: a torchvision ResNet-18 trained on Fashion-MNIST, for every target.

    python -m benchmarks.studies.evidence.own_network DIR [--threads N] [--only NAME ...]

``DIR`` gets the network and the images of ``docs/examples/fashion_resnet18.py``, a folder a run, and
``prune_resnet18.json``. What is there is not made again, so the same command goes on.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.common.arguments import positive
from benchmarks.common.columns import Column, Columns, percent_column
from benchmarks.common.command import reports_errors
from benchmarks.common.errors import CommandError
from benchmarks.common.provenance import describe_machine, write_result
from benchmarks.common.table import Table, report_console

EXAMPLES = Path(__file__).parents[3] / "docs" / "examples"
NETWORK = (
    "torchvision ResNet-18, one input channel, 3x3 stem of stride 2, trained four epochs "
    "(docs/examples/fashion_resnet18.py)"
)
SHARED = "--model fashion_resnet18:build --weights weights.pth --images train --val val --test test"
LOOKS = "--mean 0.286 --std 0.353 --onnx small.onnx"
RUNS = {
    "flops": "--flops 0.5",
    "unlabelled": "--flops 0.5 --labels none",
    "latency": "--latency 0.6x",
    "max_drop": "--max-drop 1",
    "minutes": "--flops 0.5 --minutes 5",
}
"""Name of a run -> what is asked for; all else is the same."""

Row = dict[str, Any]


@reports_errors(ValueError, interrupted="interrupted: the same command goes on")
def main(argv: Sequence[str] | None = None) -> int:
    """Train the network, prune it for every target, and write the rows.

    Args:
        argv: arguments; absent means those of the process.

    Returns:
        Exit code: 0 done, 1 a command failed, 2 bad input.
    """
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.studies.evidence.own_network", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("folder", type=Path, metavar="DIR", help="where everything goes")
    parser.add_argument("--threads", type=positive, default=1, help="of every command (default: %(default)s)")
    parser.add_argument("--only", nargs="+", choices=RUNS, default=list(RUNS), metavar="NAME", help="some of the runs")
    options = parser.parse_args(argv)
    folder = options.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "weights.pth").is_file():
        _python([str(EXAMPLES / "fashion_resnet18.py"), str(folder)], folder, options.threads)
    for name in options.only:
        if not (folder / name / "result.json").is_file():
            arguments = [*SHARED.split(), *LOOKS.split(), *RUNS[name].split(), "--threads", str(options.threads)]
            arguments += ["--out", name, "--overwrite"]
            _python(["-m", "benchmarks.prune", *arguments], folder, options.threads)
    rows = [row(name, folder / name / "result.json") for name in RUNS if (folder / name / "result.json").is_file()]
    report_console(Console()).print(runs_table(rows))
    described = {"network": NETWORK, "data": "Fashion-MNIST, 28x28", "machine": describe_machine()}
    write_result(folder / "prune_resnet18.json", {**described, "num_threads": options.threads, "rows": rows})
    return 0


def _python(arguments: Sequence[str], folder: Path, threads: int) -> None:
    """Run Python in the folder; modules of the examples can be imported there.

    Raises:
        CommandError: it failed.
    """
    path = os.pathsep.join(filter(None, (str(EXAMPLES), str(EXAMPLES.parents[1]), os.environ.get("PYTHONPATH"))))
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": str(threads)}
    done = subprocess.run([sys.executable, *arguments], cwd=folder, env=environment, check=False)
    if done.returncode:
        raise CommandError(f"python {' '.join(arguments)} ended with exit code {done.returncode}; nothing else is lost")


def row(name: str, path: Path) -> Row:
    """One run in numbers.

    Args:
        name: of :data:`RUNS`.
        path: its ``result.json``.
    """
    result: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    prune, seconds = result["prune"], dict(result["seconds"])
    return {
        "name": name,
        "command": f"prune-gym prune {SHARED} {LOOKS} {RUNS[name]}",
        **{key: prune[key] for key in ("asked_for", "scored_by", "scored_on", "images", "standard_error")},
        **{name: result[stage]["accuracy"] for name, stage in STAGES.items()},
        "dense_held_out": result["dense"]["held_out_accuracy"],
        "pruned_held_out": result["final"]["held_out_accuracy"],
        "flops_reduction": result["flops_reduction"],
        **{key: prune[key] for key in ("params_reduction", "latency_share", "batch_size", "tier", "warnings")},
        "onnx_largest_difference": prune["onnx"]["largest_difference"],
        "plans_measured": result["search"]["measured_evaluations"],
        "cpu_seconds": seconds["all, CPU time"],
        "wall_seconds": seconds,
    }


STAGES = {"dense": "dense", "one_shot": "one_shot", "pruned": "final"}


def runs_table(rows: Sequence[Row]) -> Table:
    """Table of the runs: what was asked for, what came."""
    columns: Columns = (
        *("asked for", "scored by"),
        *(percent_column(name) for name in ("dense", "pruned")),
        *(percent_column(name, 1) for name in ("FLOPs removed", "parameters removed")),
        Column("latency", ".2f", unit="x"),
        Column("CPU seconds", ".0f"),
    )
    keys = ("dense", "pruned", "flops_reduction", "params_reduction", "latency_share", "cpu_seconds")
    values = [[RUNS[entry["name"]], entry["scored_by"], *(entry[key] for key in keys)] for entry in rows]
    return Table("", columns, values, "scores and shares in %; latency of a batch, relative to dense")


if __name__ == "__main__":
    sys.exit(main())
