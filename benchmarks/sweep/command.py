"""A grid of runs, methods x tasks x targets x seeds, on worker processes of this machine or on a Ray cluster.

    python -m benchmarks.sweep FILE [--workers N] [--threads T] [--devices LIST] [--ray [ADDRESS]] [--retry-failed]
        [--import MODULE] [--overwrite] [KEY=VALUE ...]

The same as ``prune-gym sweep``. Every cell is a run of the main job in a folder of its own. Stop it with Ctrl-C, or let
it be killed: the same command goes on, inside a cell too, and ends with the table of an uninterrupted sweep.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

from benchmarks.common.arguments import command_parser, default_threads, positive
from benchmarks.common.command import reports_errors
from benchmarks.common.errors import FAILED, OptionError
from benchmarks.common.modules import import_modules
from benchmarks.studies.engine.command import INTERRUPTED
from benchmarks.studies.engine.workers import LocalWorkers, Workers

if TYPE_CHECKING:
    from benchmarks.sweep.config import SweepConfig


@reports_errors(ImportError, interrupted=INTERRUPTED)
def main(argv: Sequence[str] | None = None, prog: str | None = None) -> int:
    """Run the sweep, or what is left of it.

    Args:
        argv: arguments; absent means those of the process.
        prog: name of the command in the help text.

    Returns:
        Exit code: 0 done, 1 cells failed or the disk is full, 2 bad input, 130 interrupted.
    """
    options = _parser(prog).parse_intermixed_args(argv)
    from rich.console import Console

    from benchmarks.sweep.config import SweepConfig
    from benchmarks.sweep.runner import run_sweep

    import_modules(options.imports)
    sweep = SweepConfig.load(options.file, _overrides(options))
    failed = run_sweep(
        sweep,
        _workers(sweep, options),
        retry_failed=options.retry_failed,
        overwrite=options.overwrite,
        console=Console(),
    )
    return FAILED if failed else 0


def _workers(sweep: SweepConfig, options: argparse.Namespace) -> Workers:
    devices = devices_of(options.devices)
    if options.ray is not None:
        from benchmarks.sweep.ray_workers import RayWorkers

        return RayWorkers(options.ray or None, options.workers, sweep.threads, options.imports, gpu=devices[0] != "cpu")
    number = options.workers or (len(devices) if devices[0] != "cpu" else max(1, default_threads() // sweep.threads))
    return LocalWorkers(number, sweep.threads, devices, options.imports)


def devices_of(given: str | None) -> list[str]:
    """Devices that workers get in turn.

    Args:
        given: names or GPU indices, separated by commas; None: every GPU, else the CPU.

    Raises:
        OptionError: a device that is not there.
    """
    from prune_gym.support.device import available_devices, resolve_device

    if given is None:
        return [str(device) for device in available_devices()[1:]] or ["cpu"]
    try:
        return [str(resolve_device(name.strip())) for name in given.split(",")]
    except ValueError as error:
        raise OptionError(f"--devices {given}: {error}") from None


def _overrides(options: argparse.Namespace) -> list[str]:
    """Options are shorthand for overrides, so that they get the same checks and messages."""
    from benchmarks.settings.source import Override

    threads = options.threads
    given = [] if threads is None else [Override.of(f"--threads {threads}", "threads", str(threads))]
    return [*options.overrides, *given]


def _parser(prog: str | None) -> argparse.ArgumentParser:
    what = "Run a grid of methods x tasks x targets x seeds."
    shared = ("retry-failed", "overwrite", "import")
    parser = command_parser("benchmarks.sweep", what, *shared, prog=prog)
    add = parser.add_argument
    add("file", metavar="FILE", help="YAML configuration of the sweep")
    add("--workers", type=positive, metavar="N", help="runs at a time (default: one a GPU, else one for every T cores)")
    add("--threads", type=positive, metavar="T", help="CPU threads of every run (default: threads of FILE, else 1)")
    add("--devices", metavar="LIST", help="cpu, or GPU indices such as 0,1 (default: every GPU, else cpu)")
    add("--ray", nargs="?", const="", metavar="ADDRESS", help="run on Ray: a cluster's address, or a local one")
    add("overrides", nargs="*", metavar="KEY=VALUE", help="set a key of the sweep, e.g. seeds=[1,2]")
    return parser
