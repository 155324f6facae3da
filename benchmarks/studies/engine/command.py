"""Common parts of the commands of studies: options, devices, workers, and targets that are refused at once."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Collection, Iterable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.common.arguments import command_parser, default_threads, prepare
from benchmarks.settings.source import ConfigError
from benchmarks.studies.engine.study import CellT, Study
from benchmarks.studies.engine.workers import LocalWorkers, Work

if TYPE_CHECKING:
    import torch

    from prune_gym.problem.problem import PruningProblem

SHARED = ("part", "minutes", "workers", "gpu", "threads", "import")
"""Options of every study."""

INTERRUPTED = "interrupted: nothing is lost, the same command goes on"
"""Message after Ctrl-C."""


def study_parser(
    module: str, description: str, *options: str, required: Collection[str] = ()
) -> argparse.ArgumentParser:
    """Return the parser of a study with the options all studies share.

    Args:
        module: what ``python -m`` runs.
        description: one line.
        *options: further shared options (:func:`benchmarks.common.arguments.command_parser`).
        required: those that have to be given.
    """
    return command_parser(module, description, *options, *SHARED, required=required)


def run_command(
    open_study: Callable[[torch.device], Study[CellT]],
    options: argparse.Namespace,
    threads: int | None = None,
    copy_to: Path | None = None,
    names: Collection[str] | None = None,
) -> int:
    """Run a study as its options say and publish its report.

    Args:
        open_study: makes the study for a device; sent to worker processes where there are any.
        options: of :func:`study_parser`.
        threads: CPU threads where ``--threads`` is not given.
        copy_to: write the report's JSON file here too.
        names: of the cells to run; None: all.

    Returns:
        Exit code: 0 done (or out of time), 1 cells failed.
    """
    from rich.console import Console

    from benchmarks.studies.engine.running import Selection, run_study

    device = prepare(options, threads)
    begin = workers = None
    if options.workers is not None:
        each = options.threads or threads or max(1, default_threads() // options.workers)
        begin = partial(_work, open_study)
        workers = LocalWorkers(options.workers, each, (str(device),), options.imports)
    selection = Selection(options.part, options.minutes, names)
    return run_study(open_study(device), Console(), selection=selection, begin=begin, workers=workers, copy_to=copy_to)


def _work(open_study: Callable[[torch.device], Study[CellT]], device: str) -> Work:
    """Return the function that runs cells in a worker process."""
    import torch

    return open_study(torch.device(device)).run


def check_targets(task: str, problem: PruningProblem, max_ratio: float, targets: Iterable[float]) -> None:
    """Refuse targets out of reach, before anything is computed.

    Args:
        task: its name, for messages.
        problem: of the task; need not be loaded.
        max_ratio: largest pruning ratio of a layer.
        targets: FLOPs reductions.

    Raises:
        ConfigError: a target out of reach; the reachable range is named.
    """
    limits = problem.cost.limits(max_ratio)
    for target in targets:
        try:
            problem.cost.check_target(target, limits)
        except ValueError as error:
            raise ConfigError(f"task {task!r}: {error}") from None
