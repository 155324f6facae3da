"""Ledger of the evidence: when and with which code every part was made, and whether that is today's."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from benchmarks.common.provenance import versions
from benchmarks.common.signed import read_signed, write_signed
from benchmarks.studies.manifest.code import Sources
from benchmarks.studies.manifest.parts import RESULTS, ROOT, Part

MANIFEST = RESULTS / "manifest.json"
DECIDES_NOTHING = ("benchmarks.common", "benchmarks.visualization", "benchmarks.report")
"""Rooms that show numbers and make none."""

NEVER = "never made"


@dataclass(frozen=True)
class Record:
    """Making of a part: when, with what, and how long it took.

    Attributes:
        made: day, ISO 8601.
        seconds: processor time of its commands; None where it was not taken.
        code: room -> digest of what its commands could run.
        versions: of Python and of the packages it depends on.
        commit: that brought the results in, of those made before there was a ledger.
    """

    made: str
    seconds: float | None = None
    code: Mapping[str, str] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    commit: str | None = None


class Ledger:
    """Records of parts in one file.

    Args:
        path: the file; need not exist.
        root: folder of the packages, whose code is today's.
        results: folder of what was made.
    """

    def __init__(self, path: Path = MANIFEST, root: Path = ROOT, results: Path = RESULTS) -> None:
        self.path = path
        self._results = results
        self._sources = Sources(root)
        content = read_signed(path, "take it from the repository again") if path.is_file() else {"parts": {}}
        self.records = {name: Record(**record) for name, record in content["parts"].items()}

    def code(self, part: Part) -> dict[str, str]:
        """Room -> digest of what the part's commands can run today."""
        digests = self._sources.digests(part.entries)
        return {room: digest for room, digest in digests.items() if room not in DECIDES_NOTHING}

    def changed(self, part: Part) -> list[str]:
        """Rooms that are not what the part was made with; :data:`NEVER` alone where it was not made."""
        record = self.records.get(part.name)
        if record is None or not all((self._results / name).exists() for name in part.results):
            return [NEVER]
        return [room for room, digest in self.code(part).items() if record.code.get(room) != digest]

    def note(self, part: Part, seconds: float | None, code: Mapping[str, str]) -> None:
        """Write down that a part was made today.

        Args:
            part: which.
            seconds: processor time.
            code: that made it, of :meth:`code`.
        """
        today = datetime.datetime.now(datetime.timezone.utc).date().isoformat()
        self.records[part.name] = Record(today, seconds, dict(code), versions())
        self.write()

    def write(self) -> None:
        """Write the file."""
        parts = {name: asdict(record) for name, record in sorted(self.records.items())}
        write_signed(self.path, {"parts": parts}, indent=1)
