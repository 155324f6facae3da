"""Files of results as they are read: whole, and with numbers that are numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.common.signed import FileError, read_signed


class UnreadableError(ValueError):
    """A file or a row that a report cannot show; the message says which and why."""


def read_json(path: Path, source: str) -> Any:
    """Return the content of a JSON file.

    Raises:
        UnreadableError: it cannot be read, or is damaged.
    """
    try:
        return read_signed(path, "it is left out")
    except (OSError, FileError) as error:
        raise UnreadableError(f"{source} is damaged or cannot be read: {error}") from None


def read_text(path: Path) -> str:
    """Return a file's text; "" where it cannot be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def check_finite(content: Any, source: str) -> None:
    """Refuse content with a number that is none.

    Raises:
        UnreadableError: NaN or an infinity; its place is named.
    """
    place = _not_finite(content, "")
    if place is not None:
        raise UnreadableError(f"{source}: the value of {place or 'the file'} is not a finite number")


def _not_finite(content: Any, place: str) -> str | None:
    if isinstance(content, float):
        return None if math.isfinite(content) else place
    entries: list[tuple[str, Any]] = []
    if isinstance(content, Mapping):
        entries = [(f"{place}.{key}" if place else str(key), value) for key, value in content.items()]
    elif isinstance(content, list):
        entries = [(f"{place}[{number}]", value) for number, value in enumerate(content)]
    found = (_not_finite(value, inside) for inside, value in entries)
    return next((bad for bad in found if bad is not None), None)
