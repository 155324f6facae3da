"""Numbers of a GPU: analysis, plans, reconstruction and speed-up of a network of ImageNet's size, against their limits.

    python -m benchmarks.studies.accelerator --gpu 0 --json FILE

On a CPU the command refuses: its numbers are not those of a GPU. ``--trial`` tries it out on whatever there is, and the
file says so.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Console

from benchmarks.common.arguments import command_parser, positive, prepare
from benchmarks.common.columns import Column
from benchmarks.common.command import reports_errors
from benchmarks.common.provenance import write_result
from benchmarks.common.table import Table

if TYPE_CHECKING:
    import torch

    from benchmarks.studies.accelerator.measures import Measured


@reports_errors(ValueError)
def main(argv: Sequence[str] | None = None) -> int:
    """Measure from the command line.

    Args:
        argv: arguments; absent means those of the process.

    Returns:
        Exit code: 0 done, 2 bad input (a CPU without ``--trial`` is), 130 interrupted (what was measured is written).

    Raises:
        ValueError: the device is a CPU and this is no trial.
    """
    options = _parser().parse_args(argv)
    device = prepare(options)
    if device.type == "cpu" and not options.trial:
        raise ValueError("the device is a CPU, and its numbers are not a GPU's; give --gpu, or --trial to try this out")
    from benchmarks.studies.accelerator.measures import Sizes, measure

    sizes = Sizes(**{field.name: getattr(options, field.name) for field in dataclasses.fields(Sizes)})
    console = Console()
    rows: list[Measured] = []
    try:
        for row in measure(device, sizes):
            rows.append(row)
            console.print(f"{row.name}: {row.value:.4g} {row.unit}", highlight=False)
            if options.json is not None:
                write_result(options.json, as_json(device, sizes, rows, trial=options.trial))
    finally:
        if rows:
            console.print(table(device, rows, trial=options.trial))
    return 0


def as_json(device: torch.device, sizes: object, rows: Sequence[Measured], *, trial: bool) -> dict[str, object]:
    """Content of the file: the device by its maker's name, and no verdict on limits from a trial."""
    from prune_gym.support.device import device_name

    found = [{**dataclasses.asdict(row), "kept": None if trial else row.kept} for row in rows]
    return {
        "device": device_name(device),
        "trial": trial,
        "sizes": dataclasses.asdict(sizes),  # type: ignore[call-overload]
        "rows": found,
    }


def table(device: torch.device, rows: Sequence[Measured], *, trial: bool) -> Table:
    """The rows as a table."""
    from prune_gym.support.device import device_name

    title = f"{device_name(device)}{', a trial: these are no numbers of a GPU' if trial else ''}"
    columns = ("", "measured", "limit", Column("peak MiB", ",.0f"))
    cells = [
        [
            row.name,
            f"{row.value:,.4g} {row.unit}",
            "" if row.limit is None or trial else f"{row.limit:g}, {'kept' if row.kept else 'missed'}",
            None if row.peak_bytes is None else row.peak_bytes / 2**20,
        ]
        for row in rows
    ]
    return Table(title, columns, cells)


def _parser() -> argparse.ArgumentParser:
    parser = command_parser("benchmarks.studies.accelerator", (__doc__ or "").splitlines()[0], "json", "gpu", "threads")
    add = parser.add_argument
    add("--network", default="resnet50", help="torchvision network (default: %(default)s)")
    add("--image-size", type=positive, default=224, help="pixels a side (default: %(default)s)")
    add("--analysis-images", type=positive, default=1024, help="images of the analysis (default: %(default)s)")
    add("--reward-images", type=positive, default=5000, help="images of a plan's score (default: %(default)s)")
    add("--steps", type=positive, default=1000, help="of the reconstruction (default: %(default)s)")
    add("--batch-size", type=positive, default=64, help="of analysis and throughput (default: %(default)s)")
    add("--reduction", type=float, default=0.76, help="FLOPs that leave (default: %(default)s)")
    add("--repeats", type=positive, default=10, help="timed plans and passes (default: %(default)s)")
    add("--trial", action="store_true", help="run on a CPU too: to try the command out, no numbers of a GPU")
    return parser
