"""Damage every kind of file in every way, read it, and count what comes of it.

    python -m benchmarks.fuzz [--mutations N] [--json FILE] [--formats WORD ...]

A reader may say what the sound file says (a space more in JSON changes nothing), or refuse with an error that names the
file. It may never say something else without a word, end in another kind of error, or hang.
"""

from __future__ import annotations

import argparse
import logging
import random
import shutil
import signal
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from benchmarks.common.arguments import positive, writable
from benchmarks.common.command import reports_errors
from benchmarks.common.provenance import write_result
from benchmarks.common.table import Table, report_console
from benchmarks.fuzz.formats import Format, formats
from benchmarks.fuzz.mutations import MUTATIONS
from benchmarks.fuzz.samples import Samples

OUTCOMES = ("same", "refused", "warned", "other", "silent", "traceback", "hang")
"""Outcomes of reading a damaged file: the sound one's content, a clean error, other content with a logged warning,
other content of a file that people write (which nobody can know), and the three that must not be."""

FAILURES = ("silent", "traceback", "hang")
SECONDS = 10
"""After which a reader hangs."""


@reports_errors(OSError, ValueError)
def main(argv: Sequence[str] | None = None) -> int:
    """Fuzz from the command line.

    Args:
        argv: arguments; absent means those of the process.

    Returns:
        Exit code: 0 every reader held, 1 one did not, 2 bad input.
    """
    options = _parser().parse_args(argv)
    torch.set_num_threads(1)
    console = Console()
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="prune-gym-fuzz-") as scratch:
        for form in formats(Samples(Path(scratch))):
            if options.formats and not any(word in form.name for word in options.formats):
                continue
            found = fuzz(form, Path(scratch) / "files", options.mutations, options.seed)
            rows.append(found)
            console.print(f"{form.name}: {found}", style="dim", highlight=False)
    report_console(console).print(fuzz_table(rows))
    if options.json is not None:
        write_result(options.json, {"mutations": options.mutations, "seed": options.seed, "rows": rows})
    return int(any(row[failure] for row in rows for failure in FAILURES))


def fuzz(form: Format, folder: Path, count: int, seed: int = 0) -> dict[str, Any]:
    """Read so many damaged files of a format.

    Args:
        form: the format.
        folder: to write them in; emptied before and after.
        count: how many.
        seed: of the damage.

    Returns:
        Name, number of files, number of every outcome, and up to three examples of failures.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    path = form.write(folder)
    sound, expected = path.read_bytes(), form.read(path)
    rng, outcomes = random.Random(seed), Counter[str]()
    examples: list[str] = []
    names = list(MUTATIONS)
    for number in range(count):
        name = names[number % len(names)]
        data = MUTATIONS[name](sound, rng)
        path.write_bytes(data)
        outcome, what = outcome_of(form, path, expected)
        outcomes[outcome] += 1
        if outcome in FAILURES and len(examples) < 3:
            examples.append(f"{name}: {what}")
    shutil.rmtree(folder)
    row: dict[str, Any] = {"format": form.name, "ours": form.ours, "mutations": count}
    return {**row, **{outcome: outcomes[outcome] for outcome in OUTCOMES}, "examples": examples}


def outcome_of(form: Format, path: Path, expected: str) -> tuple[str, str]:
    """Read a file and judge: the outcome, and the error or answer in words."""
    with _listening() as told:
        try:
            with _within(SECONDS):
                found = form.read(path)
        except TimeoutError:
            return "hang", f"{SECONDS} s"
        except form.refusals as error:
            # An error that does not say which file it is about helps nobody.
            return ("refused" if path.stem in str(error) else "traceback"), f"{type(error).__name__}: {error}"
        except Exception as error:
            return "traceback", f"{type(error).__name__}: {str(error)[:200]}"
    if found == expected:
        return "same", ""
    if not form.ours:
        return "other", ""
    return ("warned", told[0]) if told else ("silent", found[:200])


class _TimeUp(TimeoutError):
    pass


@contextmanager
def _within(seconds: float) -> Iterator[None]:
    def end(*_: object) -> None:
        raise _TimeUp

    before = signal.signal(signal.SIGALRM, end)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@contextmanager
def _listening() -> Iterator[list[str]]:
    """Collect logged warnings, and keep them and Python's own from the terminal."""
    told: list[str] = []

    class Ear(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            told.append(record.getMessage())

    root, ear = logging.getLogger(), Ear(logging.WARNING)
    before = root.handlers[:]
    root.handlers[:] = [ear]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield told
    finally:
        root.handlers[:] = before


def fuzz_table(rows: Sequence[dict[str, Any]]) -> Table:
    """A row a format."""
    title = "Damaged files, read: what came of them"
    return Table(
        title,
        ("format", "files", *OUTCOMES),
        [[row["format"], row["mutations"], *(row[outcome] for outcome in OUTCOMES)] for row in rows],
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fuzz", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--mutations", type=positive, default=2000, metavar="N", help="files a format (default: 2000)")
    parser.add_argument("--formats", nargs="+", metavar="WORD", help="only formats whose names hold one of these words")
    parser.add_argument("--seed", type=int, default=0, help="of the damage (default: 0)")
    parser.add_argument("--json", type=writable, metavar="FILE", help="write the table")
    return parser
