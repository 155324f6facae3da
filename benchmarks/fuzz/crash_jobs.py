"""Jobs that are killed and started again: what runs them, and what has to come of them whatever happened on the way."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import main as job
from benchmarks.files.models import read_result
from benchmarks.fuzz import crash_task
from benchmarks.job import pipeline
from benchmarks.job.pipeline import without_timings
from benchmarks.studies.engine.workers import ThisProcess
from benchmarks.sweep.config import SweepConfig
from benchmarks.sweep.runner import run_sweep


@dataclass(frozen=True)
class Job:
    """A command that writes a folder.

    Attributes:
        config: text of its configuration, with a place for ``save_dir``.
        run: runs it, or goes on with it, by the path of the configuration; returns an exit code.
        result: what it found, without timings, by its folder.
    """

    config: str
    run: Callable[[Path], int]
    result: Callable[[Path], Any]


def _run(config: Path) -> int:
    """The main job, but for its plots, which take longer than all else and are drawn from the result."""
    pipeline.save_plots = lambda *_: None
    return job.main(["--config", str(config), "--threads", "1", "--gpu", "cpu"])


def _result_of_run(folder: Path) -> Any:
    return without_timings(read_result(folder / "seed_3" / "result.json"))


def _sweep(config: Path) -> int:
    """A sweep whose cells run in this process, so that every write is its own."""
    return run_sweep(SweepConfig.load(config, ()), ThisProcess())


def _result_of_sweep(folder: Path) -> Any:
    cells = sorted((folder / "cells").rglob("result.json"))
    found = {str(path.parent.relative_to(folder)): without_timings(read_result(path)) for path in cells}
    return found, (folder / "results.csv").read_bytes()


JOBS = {
    "run": Job(crash_task.CONFIG, _run, _result_of_run),
    "sweep": Job(crash_task.SWEEP, _sweep, _result_of_sweep),
}
"""The main job with search, reconstruction and fine-tuning; a grid of two methods."""
