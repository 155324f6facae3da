"""Runs that die: at every write, before it, torn in the middle and after it, and at random moments; all end alike.

    python -m benchmarks.fuzz.crashes [--jobs run sweep] [--points] [--every N] [--kills N] [--json FILE]

A run of the main job on a small task (search, reconstruction, fine-tuning), or a sweep of two, is killed and started
again with the same command until it is done. Its result has to be that of a job nobody killed, but for what was timed.
``--points`` dies once at every single write of a file, in three ways; ``--kills`` sends signal 9 at random moments,
several times to one job.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from benchmarks.common.arguments import positive, writable
from benchmarks.common.command import reports_errors
from benchmarks.common.provenance import write_result
from benchmarks.fuzz.crash_jobs import JOBS, Job

WAYS = ("before", "torn", "after")
"""Moments at which a write is met: nothing is there yet; half a temporary file; the new file, and nothing after it."""

DIED = 9


@dataclass(frozen=True)
class Crashes:
    """Runs in folders of their own, in child processes.

    Attributes:
        folder: where everything lies.
        job: what is run.
    """

    folder: Path
    job: Job = JOBS["run"]

    def run(self, name: str, prepare: Callable[[], None] = lambda: None) -> int:
        """Start the run of a name, or go on with it, in a child process; returns how that ended.

        Args:
            name: of the run.
            prepare: called in the child first.
        """
        child = self.start(name, prepare)
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

    def start(self, name: str, prepare: Callable[[], None] = lambda: None) -> int:
        """The same without waiting; returns the child's process id."""
        config = self.folder / f"{name}.yaml"
        config.write_text(self.job.config.format(save_dir=(self.folder / name).as_posix()))
        sys.stdout.flush()
        child = os.fork()
        if child == 0:
            log = os.open(self.folder / "log.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            os.dup2(log, 1)
            os.dup2(log, 2)
            prepare()
            os._exit(self.job.run(config))
        return child

    def result(self, name: str) -> Any:
        """Result of a finished run, without timings."""
        return self.job.result(self.folder / name)

    def leftovers(self, name: str) -> list[str]:
        """Temporary files that lie about in a run's folder."""
        return [path.name for path in (self.folder / name).rglob("*.tmp")]


def dying_at(write: int, way: str) -> Callable[[], None]:
    """Make this process die at its n-th write of a file.

    Args:
        write: from 0.
        way: one of :data:`WAYS`.
    """

    def prepare() -> None:
        real, count = os.replace, [0]

        def replace(source: Any, target: Any, **options: Any) -> None:
            count[0] += 1
            if count[0] == write + 1:
                if way == "torn":
                    os.truncate(source, os.path.getsize(source) // 2)
                elif way == "after":
                    real(source, target, **options)
                os._exit(DIED)
            real(source, target, **options)

        os.replace = replace  # type: ignore[assignment]

    return prepare


def crash_points(
    crashes: Crashes, writes: Sequence[int] | None = None, ways: Sequence[str] = WAYS, every: int = 1
) -> list[dict[str, Any]]:
    """Die at writes in every way, go on, and compare; a row a write and way.

    Args:
        crashes: with a finished run called "base".
        writes: which; absent means all, until a run gets through.
        ways: of :data:`WAYS`.
        every: distance of two writes, where all are meant.
    """
    expected, rows, write = crashes.result("base"), [], 0
    for write in writes if writes is not None else range(0, 10_000, every):
        for way in ways:
            name = f"point-{write}-{way}"
            died = crashes.run(name, dying_at(write, way))
            again = crashes.run(name) if died else 0
            same = again == 0 and crashes.result(name) == expected
            rows.append({"write": write, "way": way, "died": died == DIED, "same": same, "leftovers": 0})
            if same:
                rows[-1]["leftovers"] = len(crashes.leftovers(name))
            shutil.rmtree(crashes.folder / name, ignore_errors=True)
            if died == 0 and writes is None:
                return rows[:-1]
    return rows


def random_kills(crashes: Crashes, kills: int, seconds: float, seed: int = 0) -> dict[str, Any]:
    """Kill runs at random moments until so many kills have hit, finish every run, and compare.

    Args:
        crashes: with a finished run called "base".
        kills: how many.
        seconds: what an undisturbed run takes.
        seed: of the moments.
    """
    expected, rng = crashes.result("base"), random.Random(seed)
    hit, runs, same, leftovers = 0, 0, 0, 0
    while hit < kills:
        name = f"killed-{runs}"
        runs += 1
        finished = False
        while not finished and hit < kills:
            child = crashes.start(name)
            time.sleep(rng.uniform(0.0, 0.7 * seconds))
            os.kill(child, signal.SIGKILL)
            finished = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
            hit += not finished
        code = 0 if finished else crashes.run(name)
        same += code == 0 and crashes.result(name) == expected
        leftovers += len(crashes.leftovers(name))
        shutil.rmtree(crashes.folder / name, ignore_errors=True)
    return {"kills": hit, "runs": runs, "same_result": same, "leftovers": leftovers}


@reports_errors(OSError, ValueError)
def main(argv: Sequence[str] | None = None) -> int:
    """Kill runs from the command line.

    Args:
        argv: arguments; absent means those of the process.

    Returns:
        Exit code: 0 all ended alike, 1 some did not, 2 bad input.

    Raises:
        ValueError: the undisturbed run failed; ends the command with exit code 2.
    """
    options = _parser().parse_args(argv)
    torch.set_num_threads(1)
    console = Console()
    found: dict[str, Any] = {}
    fine = True
    for name in options.jobs:
        with tempfile.TemporaryDirectory(prefix="prune-gym-crashes-") as scratch:
            os.environ["PRUNE_GYM_CACHE"] = str(Path(scratch) / "cache")
            found[name] = _crashed(Crashes(Path(scratch), JOBS[name]), options)
        points, kills = found[name].get("points"), found[name].get("random")
        fine &= points is None or points["same_result"] == points["crashes"]
        fine &= kills is None or kills["same_result"] == kills["runs"]
        console.print(name, found[name])
        if options.json is not None:
            write_result(options.json, found)
    return int(not fine)


def _crashed(crashes: Crashes, options: argparse.Namespace) -> dict[str, Any]:
    """Outcome of the crashes at writes, and of the kills at random moments, of one job.

    Raises:
        ValueError: the undisturbed run failed.
    """
    found: dict[str, Any] = {}
    _import_everything(crashes)
    started = time.perf_counter()
    if crashes.run("base") != 0:
        raise ValueError(f"the undisturbed run failed: {(crashes.folder / 'log.txt').read_text()[-2000:]}")
    seconds = time.perf_counter() - started
    if options.points:
        rows = crash_points(crashes, every=options.every)
        found["points"] = {
            "writes": len({row["write"] for row in rows}),
            "crashes": sum(row["died"] for row in rows),
            "same_result": sum(row["same"] for row in rows),
            "leftovers": sum(row["leftovers"] for row in rows),
        }
    if options.kills:
        found["random"] = random_kills(crashes, options.kills, seconds, options.seed)
    return found


def _import_everything(crashes: Crashes) -> None:
    """Run once in this process, so that its children have nothing left to import."""
    config = crashes.folder / "imports.yaml"
    config.write_text(crashes.job.config.format(save_dir=(crashes.folder / "imports").as_posix()))
    with contextlib.redirect_stdout(io.StringIO()):
        crashes.job.run(config)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.fuzz.crashes", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--jobs", nargs="+", choices=tuple(JOBS), default=tuple(JOBS), help="of which (default: all)")
    parser.add_argument(
        "--every", type=positive, default=1, metavar="N", help="with --points: at every n-th write only"
    )
    parser.add_argument("--points", action="store_true", help="die once at every write, in three ways")
    parser.add_argument("--kills", type=positive, metavar="N", help="kill at so many random moments")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (default: 0)")
    parser.add_argument("--json", type=writable, metavar="FILE", help="write what came of it")
    return parser


if __name__ == "__main__":
    sys.exit(main())
