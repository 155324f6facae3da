"""Statements of pages that hold numbers, made from result files; what no statement covers is a number nobody checks."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from tests.pages import prose

Source = Callable[[], Iterable[str]]

NAMES = re.compile(
    r"\]\([^)]*\)|`[^`]*`|<!--.*?-->|(ResNet|VGG)-\d+|https?:\S+|Python \d\.\d+ to \d\.\d+|HOBSPrune-v0|H-OBS",
    re.DOTALL,
)
"""What holds digits and is no number: targets of links, code, names."""
NUMBER = re.compile(r"(?<![\w.])[-+±]?\d[\d,]*(?:\.\d+)?")


class Page:
    """A page and the statements that tests make of it.

    Args:
        path: the page.
        given: texts with numbers that are settings, and so in no result file.
    """

    def __init__(self, path: Path, *given: str) -> None:
        self.text = " ".join(prose(path).split())
        self.given = given
        self.sources: list[Source] = []

    def says(self, source: Source) -> Source:
        """Decorate a function that makes statements of this page."""
        self.sources.append(source)
        return source

    def missing(self, source: Source) -> list[str]:
        """Statements that the page does not make."""
        return [text for text in source() if text not in self.text]

    def unchecked(self) -> list[str]:
        """Numbers that stand in no statement, each with what is around it."""
        left = self.text
        for text in sorted({*self._statements(), *self.given}, key=len, reverse=True):
            left = left.replace(text, " ~ ")
        left = NAMES.sub(" ~ ", left)
        return [left[max(0, found.start() - 40) : found.end() + 20] for found in NUMBER.finditer(left)]

    def _statements(self) -> Iterator[str]:
        for source in self.sources:
            yield from source()
