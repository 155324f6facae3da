"""What the commands share that run a study cell by cell: options, time, consoles, refusals."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from rich.console import Console

from benchmarks.common.arguments import chosen_device, default_threads, positive
from benchmarks.settings.source import ConfigError
from benchmarks.studies.engine.config import StudyFile
from prune_gym.problem.problem import PruningProblem


class Deadline:
    """When to start nothing new.

    Args:
        minutes: from now; None: never.
        console: where it is said.
    """

    def __init__(self, minutes: float | None, console: Console) -> None:
        self._minutes, self._console = minutes, console
        self._started = time.monotonic()

    def passed(self) -> bool:
        """Whether time is over, which is also said."""
        over = self._minutes is not None and time.monotonic() - self._started > 60 * self._minutes
        if over:
            self._console.print(f"{self._minutes:g} minutes are over; the same command goes on", highlight=False)
        return over


def study_parser(module: str, description: str) -> argparse.ArgumentParser:
    """The options of a study that a file describes."""
    parser = argparse.ArgumentParser(prog=f"python -m {module}", description=description)
    add = parser.add_argument
    add("--config", required=True, metavar="FILE", help="YAML configuration of the study")
    add("--minutes", type=float, help="start no new run after so long")
    add("--gpu", metavar="ID", help="GPU index, or cpu (default: the only GPU, else the CPU)")
    add("--threads", type=positive, metavar="N", help="CPU threads (default: num_threads of the configuration)")
    add("overrides", nargs="*", metavar="KEY=VALUE", help="set a key of the configuration")
    return parser


def prepared_device(options: argparse.Namespace, study: StudyFile) -> torch.device:
    """The device of a study's runs; the threads it may use are set.

    Args:
        options: of :func:`study_parser`.
        study: its configuration.

    Raises:
        ConfigError: no such device.
    """
    device = chosen_device(options.gpu)
    torch.set_num_threads(options.threads or study.num_threads or default_threads())
    return device


def warn(console: Console, text: str | None) -> None:
    """Print a warning, if there is one."""
    if text is not None:
        console.print(text, style="yellow", highlight=False, soft_wrap=True)


def refuse_changes(folder: Path, changed: Sequence[str], option: str = "save_dir") -> None:
    """Refuse to mix runs of different studies.

    Args:
        folder: of the study.
        changed: keys that differ from those of the runs in it.
        option: what names the folder, for the message.

    Raises:
        ConfigError: there are any.
    """
    if changed:
        raise ConfigError(
            f"{folder} holds runs of another study (different: {', '.join(changed)}); choose another {option}, or "
            "delete it"
        )


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
