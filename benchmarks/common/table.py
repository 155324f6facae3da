"""A table of text that goes to a terminal and into a page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

TABLE_WIDTH = 170
"""Columns of text a table may take where nobody looks at a terminal."""


@dataclass(frozen=True)
class TextTable:
    """Rows of cells under headings; the first column names what the others are about.

    Attributes:
        title: above it.
        headings: one a column.
        rows: cells; a row may be shorter than the headings.
        caption: below it, what the columns mean.
    """

    title: str
    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str = ""

    def rich(self) -> Table:
        """For a terminal."""
        table = Table(title=_escaped(self.title), title_justify="left", box=SIMPLE_HEAD)
        for number, heading in enumerate(self.headings):
            table.add_column(_escaped(heading), justify="left" if number == 0 else "right", no_wrap=True)
        for row in self.rows:
            table.add_row(*map(_escaped, row))
        table.caption, table.caption_justify = _escaped(self.caption), "left"
        return table

    def markdown(self) -> str:
        """For a page."""
        lines = [
            f"**{self.title}**\n",
            _line(self.headings),
            "| --- |" + " ---: |" * (len(self.headings) - 1),
            *(_line([*row, *[""] * (len(self.headings) - len(row))]) for row in self.rows),
        ]
        return "\n".join(lines) + "\n" + (f"\n{self.caption}\n" if self.caption else "")


def report_console(console: Console) -> Console:
    """Where tables are printed: where nobody looks at a terminal, no column is cut off."""
    return console if console.is_terminal else Console(width=TABLE_WIDTH, quiet=console.quiet)


def percent(value: float) -> str:
    """A fraction in percent, two digits."""
    return f"{100 * value:.2f}"


def percent_range(low: float, high: float) -> str:
    """Both ends in percent."""
    return f"{percent(low)} - {percent(high)}"


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |"


def _escaped(text: str) -> str:
    return text.replace("[", r"\[")
