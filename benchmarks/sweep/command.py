"""A grid of runs, methods x tasks x targets x seeds, on worker processes of this machine or on a Ray cluster.

    python -m benchmarks.sweep FILE [--workers N] [--threads T] [--devices LIST] [--ray [ADDRESS]] [--retry-failed]
        [--import MODULE] [--overwrite] [KEY=VALUE ...]

The same as ``prune-gym sweep``. Every cell is a run of the main job in a folder of its own. Stop it with Ctrl-C, or let
it be killed: the same command goes on, inside a cell too, and ends with the table of an uninterrupted sweep.
"""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Sequence

from rich.console import Console

from benchmarks.common.arguments import default_threads, positive
from benchmarks.common.command import BAD_INPUT, INTERRUPTED
from benchmarks.job.run_folder import RunFolderError
from benchmarks.settings.source import ConfigError
from benchmarks.sweep.config import SweepConfig
from benchmarks.sweep.folder import SweepFolderError
from benchmarks.sweep.results_table import ResultsError
from benchmarks.sweep.runner import DiskFullError, run_sweep
from benchmarks.sweep.workers import LocalWorkers, Workers, WorkerStartError
from prune_gym.support.device import available_devices, resolve_device

FAILED = 1


def main(argv: Sequence[str] | None = None, prog: str | None = None) -> int:
    """Run the sweep, or what is left of it.

    Args:
        argv: arguments; absent means those of the process.
        prog: name of the command in the help text.

    Returns:
        Exit code: 0 done, 1 cells failed or the disk is full, 2 bad input, 130 interrupted.
    """
    options = _parser(prog).parse_intermixed_args(argv)
    errors = Console(stderr=True)
    try:
        import_modules(options.imports)
        sweep = SweepConfig.load(options.file, _overrides(options))
        workers = _workers(sweep, options)
        console = Console()
        failed = run_sweep(
            sweep, workers, retry_failed=options.retry_failed, overwrite=options.overwrite, console=console
        )
    except (ConfigError, RunFolderError, SweepFolderError, ResultsError, FileNotFoundError, ImportError) as error:
        return _report_error(errors, error, BAD_INPUT)
    except (DiskFullError, WorkerStartError) as error:
        return _report_error(errors, error, FAILED)
    except KeyboardInterrupt:
        errors.print("interrupted: nothing finished is lost, the same command goes on", style="yellow")
        return INTERRUPTED
    return FAILED if failed else 0


def _report_error(errors: Console, error: Exception, code: int) -> int:
    errors.print(f"error: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
    return code


def import_modules(names: Sequence[str]) -> None:
    """Import modules that register tasks.

    Raises:
        ImportError: one cannot be imported.
    """
    for name in names:
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise ImportError(f"--import {name}: {error}") from error


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
        ConfigError: a device that is not there.
    """
    if given is None:
        return [str(device) for device in available_devices()[1:]] or ["cpu"]
    try:
        return [str(resolve_device(name.strip())) for name in given.split(",")]
    except ValueError as error:
        raise ConfigError(f"--devices {given}: {error}") from None


def _overrides(options: argparse.Namespace) -> list[str]:
    """Options are shorthand for overrides, so that they get the same checks and messages."""
    return [*options.overrides, *([] if options.threads is None else [f"threads={options.threads}"])]


def _parser(prog: str | None) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=prog or "python -m benchmarks.sweep", description="Run a grid of methods x tasks x targets x seeds."
    )
    add = parser.add_argument
    add("file", metavar="FILE", help="YAML configuration of the sweep")
    add("--workers", type=positive, metavar="N", help="runs at a time (default: one a GPU, else one for every T cores)")
    add("--threads", type=positive, metavar="T", help="CPU threads of every run (default: threads of FILE, else 1)")
    add("--devices", metavar="LIST", help="cpu, or GPU indices such as 0,1 (default: every GPU, else cpu)")
    add("--ray", nargs="?", const="", metavar="ADDRESS", help="run on Ray: a cluster's address, or a local one")
    add("--retry-failed", action="store_true", help="run cells again that failed")
    add("--overwrite", action="store_true", help="start again, whatever save_dir holds")
    add("--import", dest="imports", action="append", default=[], metavar="MODULE", help="module that registers tasks")
    add("overrides", nargs="*", metavar="KEY=VALUE", help="set a key of the sweep, e.g. seeds=[1,2]")
    return parser
