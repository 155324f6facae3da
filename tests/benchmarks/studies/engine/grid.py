"""A study that costs nothing: the squares of numbers, with cells that fail where they are told to."""

import errno
import json
import os
import signal
from dataclasses import dataclass
from pathlib import Path

from benchmarks.common.table import Table
from benchmarks.studies.engine.store import CellFiles
from benchmarks.studies.engine.study import Report


@dataclass(frozen=True)
class Number:
    """A cell: a number to square."""

    value: int

    @property
    def name(self):
        return f"number-{self.value}"


@dataclass(frozen=True)
class Squares:
    """Numbers below `count`, squared.

    `trouble` names, by number, what happens instead: an error, a cell that says why it failed, an interrupt, a full
    disk, or the death of the process; it is over where the file `mended` lies in the folder.
    """

    folder: Path
    count: int = 4
    trouble: tuple[tuple[int, str], ...] = ()
    device: object = "cpu"

    name = "squares"

    @property
    def store(self):
        return CellFiles(self.folder)

    def open(self):
        stored = self.store.study()
        changed = [] if stored is None or stored["what"] == "squares" else ["what"]
        self.store.open({"what": "squares"}, changed)

    def cells(self):
        return [Number(value) for value in range(self.count)]

    def run(self, cell):
        trouble = None if (self.folder / "mended").exists() else dict(self.trouble).get(cell.value)
        if trouble == "error":
            raise LookupError("no such number")
        if trouble == "interrupt":
            raise KeyboardInterrupt
        if trouble == "full":
            raise OSError(errno.ENOSPC, "No space left on device")
        if trouble == "death":
            os.kill(os.getpid(), signal.SIGKILL)
        if trouble == "says so":
            return {"error": "ValueError: odd"}
        return {"square": cell.value**2, "process": os.getpid()}

    def in_short(self, result):
        return str(result.get("square", result.get("error")))

    def report(self, results):
        rows = [[cell.name, result["square"]] for cell, result in results.items()]
        plot = self.folder / "squares.txt"
        return Report(
            [Table("squares", ("number", "square"), rows)],
            {"sum": sum(square for _, square in rows)},
            {"squares.csv": "x\n"},
            [lambda: plot.write_text("a picture")],
        )


def results(folder):
    """Name of every cell on disk -> its square or its error."""
    found = {path.stem: json.loads(path.read_text()) for path in sorted((folder / "cells").glob("*.json"))}
    return {name: content.get("square", content.get("error")) for name, content in found.items()}
