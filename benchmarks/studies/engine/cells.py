"""Finished cells of a study, a file each: read back so that the same command goes on with what is left."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from benchmarks.common.signed import FileError, read_signed
from benchmarks.settings.source import ConfigError


def read_object(path: Path) -> dict[str, Any]:
    """Return the object a JSON file of a study holds.

    Raises:
        ConfigError: it is damaged; the message names it and says what to do.
    """
    try:
        content = read_signed(path, "delete it, and the same command makes it again", unsigned=True)
    except FileError as error:
        raise ConfigError(str(error)) from None
    if not isinstance(content, dict):
        raise ConfigError(f"{path} is damaged (it holds no object); delete it, and the same command makes it again")
    return content


def read_cells(folder: Path) -> list[dict[str, Any]]:
    """Every finished cell of a study, sorted by the names of their files.

    Args:
        folder: of the cells.

    Raises:
        ConfigError: one is damaged.
    """
    cells = (read_object(path) for path in sorted(folder.glob("*.json")))
    return [cell for cell in cells if "error" not in cell]


def mixed_versions(cells: Iterable[Mapping[str, Any]]) -> str | None:
    """What to say where a study's cells were measured by several versions of the same software; None where not.

    Args:
        cells: finished; those that record no versions are passed over.
    """
    seen: dict[str, set[str]] = {}
    for cell in cells:
        for package, version in cell.get("versions", {}).items():
            seen.setdefault(package, set()).add(version)
    several = [f"{package} {' and '.join(sorted(found))}" for package, found in seen.items() if len(found) > 1]
    return f"cells of several versions: {', '.join(several)}" if several else None
