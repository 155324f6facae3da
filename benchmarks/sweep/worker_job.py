"""One run of a sweep in a worker process: what it is given, what it reports.

Nothing here needs PyTorch before a job runs, so that a worker can set its threads before PyTorch reads them.
"""

from __future__ import annotations

import errno
import importlib
import os
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass

DISK_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO})
"""System errors that are about the disk, not about the run that met them."""


@dataclass(frozen=True)
class Job:
    """A run to do.

    Attributes:
        name: of the run, for messages.
        config: its configuration as YAML.
        seed: of search and fine-tuning.
        plots: whether it draws its plots.
    """

    name: str
    config: str
    seed: int
    plots: bool = False


@dataclass(frozen=True)
class Outcome:
    """The end of a run.

    Attributes:
        name: of the run.
        seconds: wall time (s).
        error: what went wrong, one line; None: the run is finished.
        trace: the traceback's text, or None.
        disk_full: whether no other run can be written either.
    """

    name: str
    seconds: float
    error: str | None = None
    trace: str | None = None
    disk_full: bool = False


def prepare_process(threads: int, imports: Sequence[str]) -> None:
    """Set up a fresh process for jobs.

    Args:
        threads: of PyTorch and of what it calls.
        imports: modules to import; they register tasks.
    """
    for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[variable] = str(threads)
    import torch

    torch.set_num_threads(threads)
    for module in imports:
        importlib.import_module(module)


def run_job(job: Job, device: str) -> Outcome:
    """Run or resume a job, whatever comes of it.

    Jobs do not depend on which ones ran before in this process: each starts from the same global random state.

    Args:
        job: what to run.
        device: where, a name of :func:`prune_gym.support.device.resolve_device`.
    """
    started = time.perf_counter()
    try:
        _run(job, device)
    except Exception as error:  # whatever a run dies of is that run's outcome, and must not cost the others
        full = isinstance(error, OSError) and error.errno in DISK_FULL
        message = f"{type(error).__name__}: {error}"
        return Outcome(job.name, time.perf_counter() - started, message, traceback.format_exc(), full)
    return Outcome(job.name, time.perf_counter() - started)


def _run(job: Job, device: str) -> None:
    import torch

    from benchmarks.job.pipeline import run_experiment
    from benchmarks.job.run_folder import RunState, open_run
    from benchmarks.settings.reading import parse_config
    from prune_gym.support.device import resolve_device

    config = parse_config(job.config, name=job.name)
    folder = open_run(config, job.seed)
    if folder.state is not RunState.FINISHED:
        with torch.random.fork_rng():
            run_experiment(config, job.seed, folder, device=resolve_device(device), plots=job.plots)
