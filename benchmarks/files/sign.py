"""Give results of versions that wrote no checksum one, so that they are read again.

    python -m benchmarks.files.sign PATH [PATH ...]

What a file says stays as it is; from then on a change shows. Look at old files before: nobody can tell whether they
were changed until now.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.common.command import reports_errors
from benchmarks.common.signed import CONTENT, FileError, parse_json, read_signed, signed
from benchmarks.common.signed_table import parse_csv, read_csv, signed_csv
from hessian.support.files import CHECKSUM_KEY, write_atomic

REMEDY = "look at it, and take it from where it was made"


@reports_errors(OSError)
def main(argv: Sequence[str] | None = None) -> int:
    """Sign from the command line.

    Args:
        argv: arguments; absent means those of the process.

    Returns:
        Exit code: 0 done, 2 a file that is damaged or of another kind.
    """
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.files.sign", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument(
        "paths",
        nargs="+",
        type=Path,
        metavar="PATH",
        help=".json and .csv files, or folders of runs, sweeps and studies",
    )
    found = [sign(path) for given in parser.parse_args(argv).paths for path in _files(given)]
    print(f"{sum(found)} of {len(found)} files signed; the others had a checksum")  # noqa: T201 - what the command says
    return 0


def sign(path: Path) -> bool:
    """Write a file anew with its checksum; returns whether it had none.

    Args:
        path: a .json or .csv file.

    Raises:
        OSError: it cannot be read or written.
        FileError: it is damaged, of another kind, or does not match the checksum it has.
    """
    if path.suffix == ".csv":
        return _sign_table(path)
    if path.suffix != ".json":
        raise FileError(f"{path} is neither a .json nor a .csv file, and only those are signed")
    content = parse_json(path.read_bytes(), path, REMEDY)
    if isinstance(content, dict) and "manifest_sha256" in content:
        raise FileError(f"{path} is the manifest of a pruned network, which has a checksum of its own")
    if isinstance(content, dict) and CHECKSUM_KEY in content:
        read_signed(path, REMEDY)
        return False
    # Numbers stay as they are written: the checksum is put behind them.
    body = path.read_text(encoding="utf-8").strip()
    if signed(content).keys() == {CONTENT, CHECKSUM_KEY}:
        body = f'{{"{CONTENT}":{body}}}'
    start = body.removesuffix("}").rstrip()
    end = body[len(start) : -1]  # a line's end, where entries stand on lines of their own
    indent = re.findall(r"^ *", start, flags=re.MULTILINE)[-1] if end else ""
    comma = "" if start == "{" else ","
    digest = signed(content)[CHECKSUM_KEY]
    write_atomic(path, f'{start}{comma}{end}{indent}"{CHECKSUM_KEY}":{" " * bool(end)}"{digest}"{end}}}\n')
    return True


def _sign_table(path: Path) -> bool:
    rows = parse_csv(path, REMEDY)
    if not rows:
        raise FileError(f"{path} has no rows; {REMEDY}")
    columns = list(rows[0])
    if CHECKSUM_KEY in columns:
        read_csv(path, REMEDY)
        return False
    write_atomic(path, signed_csv(rows, columns))
    return True


def _files(path: Path) -> Iterator[Path]:
    """The path itself, or what is read again of the runs, sweeps and studies in a folder."""
    if not path.is_dir():
        yield path
        return
    names = ("result.json", "results.csv", "timings.csv", "study.json", "comparison.json", "transfer.json")
    for found in sorted(path.rglob("*")):
        if found.name in names or (found.suffix == ".json" and found.parent.name == "cells"):
            yield found


if __name__ == "__main__":
    sys.exit(main())
