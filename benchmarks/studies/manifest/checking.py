"""Numbers of the evidence made once more: a sample of them, compared with what the files say."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.common.provenance import write_result
from benchmarks.studies.manifest.parts import Part

NO_RESULT = re.compile(r"second|_ms$|latency|throughput|speed|version|sha256|machine|seed|threads|images|schema")
"""Keys below which numbers are times, or were given."""

Where = tuple[str | int, ...]
"""Keys and places that lead to a number."""


@dataclass(frozen=True)
class Checked:
    """A number that was made again.

    Attributes:
        part: it is of.
        where: its keys and places in the file.
        stored: what the file says.
        again: what came out this time; None where nothing did.
        tolerance: largest difference that counts as none, relative above 1.
    """

    part: str
    where: str
    stored: float
    again: float | None
    tolerance: float

    @property
    def same(self) -> bool:
        """True where it came out again."""
        return self.again is not None and abs(self.again - self.stored) <= self.tolerance * max(1.0, abs(self.stored))


def numbers(content: Any, where: Where = ()) -> Iterator[tuple[Where, float]]:
    """All measured numbers of a result with their keys, times and settings left out."""
    if isinstance(content, dict):
        for key, value in content.items():
            if not NO_RESULT.search(str(key)):
                yield from numbers(value, (*where, key))
    elif isinstance(content, list):
        for place, value in enumerate(content):
            yield from numbers(value, (*where, place))
    elif isinstance(content, float):
        yield where, content


def draw(parts: Sequence[Part], count: int, seed: int, results: Path) -> list[tuple[Part, Where, float]]:
    """Numbers drawn at random: a part first, then one of its numbers, none twice.

    Args:
        parts: of one JSON file each.
        count: how many; fewer where there are fewer.
        seed: of the draw.
        results: folder of the files.
    """
    generator = random.Random(seed)
    left = {part.name: (part, list(numbers(_read(results / part.results[0])))) for part in parts}
    drawn: list[tuple[Part, Where, float]] = []
    while len(drawn) < count and any(found for _, found in left.values()):
        part, found = left[generator.choice([name for name, (_, found) in left.items() if found])]
        drawn.append((part, *found.pop(generator.randrange(len(found)))))
    return drawn


def check(drawn: Sequence[tuple[Part, Where, float]], make: Callable[[Part], Path], tolerance: float) -> list[Checked]:
    """Make the parts of drawn numbers again, and compare.

    Args:
        drawn: of :func:`draw`.
        make: runs a part once more and returns the folder of its results; called once a part.
        tolerance: see :class:`Checked`.
    """
    again = {part.name: _read(make(part) / part.results[0]) for part in dict.fromkeys(part for part, _, _ in drawn)}
    return [
        Checked(part.name, "/".join(map(str, where)), stored, _at(again[part.name], where), tolerance)
        for part, where, stored in drawn
    ]


def write_checked(path: Path, seed: int, checked: Sequence[Checked]) -> Path:
    """Write what came of a check."""
    rows = [{**asdict(one), "same": one.same} for one in checked]
    return write_result(path, {"seed": seed, "numbers": rows})


def _read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def _at(content: Any, where: Where) -> float | None:
    for key in where:
        try:
            content = content[key]
        except (KeyError, IndexError, TypeError):
            return None
    return float(content) if isinstance(content, (int, float)) else None
