"""CSV tables with a checksum: every row ends with the digest of all, so that none changes or goes missing unseen."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.common.signed import UNSIGNED, FileError
from hessian.support.files import CHECKSUM_KEY, sha256_of

DIGITS = 16
"""Hexadecimal digits of a digest, which stands in every row."""


def signed_csv(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> str:
    """A table as CSV, with a last column ``"sha256"``.

    Args:
        rows: with these columns.
        columns: in order.
    """
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, (*columns, CHECKSUM_KEY), lineterminator="\n")
    digest = table_digest([{column: _as_read(row[column]) for column in columns} for row in rows])
    writer.writeheader()
    writer.writerows({**row, CHECKSUM_KEY: digest} for row in rows)
    return text.getvalue()


def read_csv(path: Path, remedy: str) -> list[dict[str, str]]:
    """Rows of a table, verified and without the checksum.

    Args:
        path: an existing file.
        remedy: what to do when it cannot be believed, for the message.

    Raises:
        OSError: it cannot be read.
        FileError: it is no CSV in UTF-8, has rows of different lengths, was changed or damaged, or carries no checksum.
    """
    return verified(parse_csv(path, remedy), path, remedy)


def parse_csv(path: Path, remedy: str) -> list[dict[str, str]]:
    """Rows of a table as they stand there, with their checksum where they have one.

    Raises:
        OSError: it cannot be read.
        FileError: it is no CSV in UTF-8, or has rows of different lengths.
    """
    try:
        with open(path, newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file, strict=True))
    except (ValueError, csv.Error) as error:
        raise FileError(f"{path} is damaged or no CSV file ({error}); {remedy}") from None
    for number, row in enumerate(rows, start=1):
        if None in row or None in row.values():
            raise FileError(f"{path}, row {number}: more or fewer values than columns; {remedy}")
    return rows


def verified(rows: list[dict[str, Any]], path: Path, remedy: str) -> list[dict[str, Any]]:
    """Rows without their checksum, which has to match.

    Raises:
        FileError: it does not, or there is none.
    """
    digests = {row.get(CHECKSUM_KEY) for row in rows}
    plain = [{column: value for column, value in row.items() if column != CHECKSUM_KEY} for row in rows]
    if digests == {None}:
        raise FileError(f"{path} carries no checksum, {UNSIGNED}; {remedy}")
    if rows and digests != {
        table_digest([{column: _as_read(value) for column, value in row.items()} for row in plain])
    }:
        raise FileError(f"{path} does not match its checksum: a value was changed, or rows are missing; {remedy}")
    return plain


def table_digest(rows: Sequence[Mapping[str, str]]) -> str:
    """Digest of rows as text, in order."""
    return sha256_of([dict(row) for row in rows])[:DIGITS]


def _as_read(value: Any) -> str:
    """Value as CSV gives it back."""
    return "" if value is None else str(value)
