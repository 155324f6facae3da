"""Runs of parts: in a folder of their own that keeps what is done, until the whole part is there."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from benchmarks.common.errors import CommandError
from benchmarks.studies.manifest.parts import ROOT, Part
from hessian.support.files import write_atomic

STAMP = "made_with.json"
"""File of a part's folder that says with which code what lies there was made, and how long it took so far."""

LEFT_BEHIND = shutil.ignore_patterns("plans", "agents", "*.lock", STAMP)
"""Files that studies keep to go on, and nobody reads."""


class PartError(CommandError):
    """A command of a part that did not succeed."""


def run_part(part: Part, code: Mapping[str, str], folder: Path) -> float:
    """Run the commands of a part, or go on with them where they stopped.

    Args:
        part: which.
        code: that runs, room -> digest; what other code left in the folder is thrown away.
        folder: its own; may exist.

    Returns:
        Processor seconds of all calls that it took.

    Raises:
        PartError: a command failed; the folder is left as it is.
    """
    seconds = _begin(folder, code)
    for command in part.commands:
        started = _children()
        done = subprocess.run([sys.executable, *shlex.split(command.format(out=folder))], cwd=ROOT, check=False)
        seconds += _children() - started
        _stamp(folder, code, seconds)
        if done.returncode:
            raise PartError(
                f"part {part.name}: python {command.format(out=folder)} ended with exit code {done.returncode}; the "
                "same command goes on"
            )
    return seconds


def publish(part: Part, folder: Path, results: Path) -> None:
    """Put a part's results into the folder of results, in place of those there.

    Raises:
        PartError: a result that the commands did not leave.
    """
    for name in part.results:
        made, kept = folder / name, results / name
        if not made.exists():
            raise PartError(f"part {part.name}: its commands left no {name} in {folder}")
        if made.is_dir():
            shutil.rmtree(kept, ignore_errors=True)
            shutil.copytree(made, kept, ignore=LEFT_BEHIND)
        else:
            write_atomic(kept, made.read_bytes())


def _begin(folder: Path, code: Mapping[str, str]) -> float:
    """Seconds spent on what lies in the folder; it is emptied where other code left it."""
    try:
        stamp = json.loads((folder / STAMP).read_text(encoding="utf-8"))
        if stamp["code"] == dict(code):
            return float(stamp["seconds"])
    except (OSError, ValueError, KeyError):
        pass
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    _stamp(folder, code, 0.0)
    return 0.0


def _stamp(folder: Path, code: Mapping[str, str], seconds: float) -> None:
    write_atomic(folder / STAMP, json.dumps({"code": dict(code), "seconds": seconds}) + "\n")


def _children() -> float:
    """Processor seconds of finished child processes."""
    times = os.times()
    return times.children_user + times.children_system
