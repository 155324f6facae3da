"""A table of plain values that writes itself for a terminal, a page of Markdown, a page of HTML or as CSV.

What a cell holds is a number, a number with its uncertainty, a text or nothing; how numbers are written is said once,
by their column. CSV has the numbers as they are, the other forms have them rounded and scaled.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Literal

from markupsafe import Markup
from rich.box import SIMPLE_HEAD
from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table as RichTable
from rich.text import Text

from benchmarks.common.columns import Column, Columns, Interval, Link, Spread, Value, size_of

TABLE_WIDTH = 170
"""Columns of text a table may take where nobody looks at a terminal."""

MIN_TEXT = 24
"""Columns of text that a text which wraps has at least."""

GAP = 2
"""Columns of text between two columns."""


@dataclass(frozen=True)
class Table:
    """Rows of values under columns; the first column names what a row is about.

    Attributes:
        title: above it.
        columns: one a value of a row.
        rows: values; a row may be shorter than the columns.
        caption: below it, what the columns mean.
        apart: rows, by their first value, that are no candidates for the best.
    """

    title: str
    columns: Columns
    rows: Sequence[Sequence[Value]]
    caption: str = ""
    apart: Sequence[str] = ()

    def texts(self) -> list[list[str]]:
        """Return all cells as they are read, the missing ones of short rows too."""
        return [[column.text(value) for column, value in self._cells(row)] for row in self.rows]

    def rich(self) -> RichTable:
        """Return it for a terminal of any width."""
        return self._rich(dict(enumerate(self._widths()[1])))

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Print it in as many blocks as the terminal is narrow, each with the first column; no number is cut short."""
        blocks = self._blocks(options.max_width)
        for number, block in enumerate(blocks):
            table = self._rich(block)
            table.title = table.title if number == 0 else None
            table.caption = table.caption if number == len(blocks) - 1 else None
            yield table

    def markdown(self) -> str:
        """Return it for a page of Markdown."""
        best = self._best()
        marks = ("---:" if self._align(number) == "right" else "---" for number in self._numbers)
        lines = [
            *([f"**{self.title}**\n"] if self.title else []),
            _line([column.name for column in self._columns]),
            _line(marks),
            *(
                _line(f"**{text}**" if (index, number) in best else text for number, text in enumerate(row))
                for index, row in enumerate(self.texts())
            ),
        ]
        return "\n".join(lines) + "\n" + (f"\n{self.caption}\n" if self.caption else "")

    def html(self, *, caption: bool = True) -> Markup:
        """Return it for a page of HTML, all text escaped, in a box that scrolls where the screen is narrow.

        Args:
            caption: whether the caption stands below; of several tables that share one, only the last needs it.
        """
        best = self._best()
        heading, line = Markup('<th scope="col"{}>{}</th>'), Markup("<tr>{}</tr>\n")
        head = _joined(heading.format(self._side(number), column.name) for number, column in enumerate(self._columns))
        body = _joined(line.format(_joined(self._html_cells(index, best))) for index in range(len(self.rows)))
        box = Markup(
            '<div class="wide" role="region" aria-label="{0}" tabindex="0"><table><caption><span>{0}</span></caption>'
            "<thead><tr>{1}</tr></thead>\n<tbody>{2}</tbody></table></div>"
        ).format(self.title, head, body)
        return box + (Markup('<p class="soft">{}</p>').format(self.caption) if self.caption and caption else "")

    def __html__(self) -> Markup:
        """Return what a template shows."""
        return self.html()

    def csv(self) -> str:
        """Return it as CSV, numbers unrounded and unscaled; an uncertain number takes columns for its uncertainty."""
        kinds = [_kind([row[n] for row in self.rows if n < len(row)]) for n in self._numbers]
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(
            name for c, kind in zip(self._columns, kinds, strict=True) for name in (c.name, *_more(c.name, kind))
        )
        for row in self.rows:
            values = [value for _, value in self._cells(row)]
            writer.writerow(plain for v, kind in zip(values, kinds, strict=True) for plain in _plain(v, kind))
        return text.getvalue()

    @property
    def _numbers(self) -> range:
        return range(len(self.columns))

    @property
    def _columns(self) -> list[Column]:
        return [Column(column) if isinstance(column, str) else column for column in self.columns]

    def _cells(self, row: Sequence[Value]) -> list[tuple[Column, Value]]:
        padded: list[Value] = [*row, *[""] * (len(self.columns) - len(row))]
        return list(zip(self._columns, padded, strict=True))

    def _rich(self, widths: Mapping[int, int]) -> RichTable:
        title = Text(self.title, style="bold") if self.title else None
        caption = Text(self.caption) if self.caption else None
        table = RichTable(title=title, caption=caption, box=SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0))
        table.title_justify = table.caption_justify = "left"
        best, columns = self._best(), self._columns
        for number, width in widths.items():
            table.add_column(Text(columns[number].name), justify=self._align(number), width=width)
        for index, row in enumerate(self.texts()):
            cells = ((row[n], "bold" if (index, n) in best else columns[n].styles.get(row[n], "")) for n in widths)
            table.add_row(*(Text(text, style=style) for text, style in cells))
        return table

    def _widths(self) -> tuple[list[int], list[int]]:
        """Least widths, where headings and long texts wrap between words but numbers do not, and those in one line."""
        texts = self.texts()
        longest = [max((len(line) for row in texts for line in row[n].split("\n")), default=0) for n in self._numbers]
        words = [max(map(len, column.name.split()), default=0) for column in self._columns]
        short = [min(longest[n], MIN_TEXT) if self._columns[n].wide else longest[n] for n in self._numbers]
        headings = [max(map(len, column.name.split("\n"))) for column in self._columns]
        return [*map(max, words, short)], [*map(max, headings, longest)]

    def _blocks(self, width: int) -> list[dict[int, int]]:
        """Blocks of columns that fit beside each other, each number with its width; the first stands in every block."""
        least, whole = self._widths()
        blocks: list[dict[int, int]] = [{0: least[0]}]
        for number in self._numbers[1:]:
            if len(blocks[-1]) > 1 and _total(blocks[-1]) + least[number] + GAP > width:
                blocks.append({0: least[0]})
            blocks[-1][number] = least[number]
        for block in blocks:
            # Short headings are given their line first; what is left goes to long texts.
            for number in sorted(block, key=lambda number: whole[number]):
                block[number] += min(whole[number] - block[number], max(width - _total(block), 0))
        return blocks

    def _align(self, number: int) -> Literal["left", "right"]:
        column = self._columns[number]
        return column.align or ("left" if number == 0 or column.wide else "right")

    def _side(self, number: int) -> Markup:
        return Markup(' class="text"') if number and self._align(number) == "left" else Markup("")

    def _best(self) -> set[tuple[int, int]]:
        """Places, row and column, of all values that are the best of their columns."""
        places: set[tuple[int, int]] = set()
        for number, column in enumerate(self._columns):
            values = {
                index: size_of(row[number])
                for index, row in enumerate(self.rows)
                if number < len(row) and row[0] not in self.apart
            }
            numbers = [value for value in values.values() if value is not None]
            if column.best and len(numbers) > 1:
                best = max(numbers) if column.best == "max" else min(numbers)
                places |= {(index, number) for index, value in values.items() if value == best}
        return places

    def _html_cells(self, index: int, best: Set[tuple[int, int]]) -> Iterator[Markup]:
        for number, (column, value) in enumerate(self._cells(self.rows[index])):
            main, uncertainty, unit = column.parts(value)
            content = Markup.escape(main)
            if isinstance(value, Link):
                content = Markup('<a href="{}" aria-label="{}">{}</a>').format(value.target, value.about or main, main)
            if uncertainty:
                content += Markup(' <span class="interval">{}</span>').format(uncertainty.strip())
            content += unit
            if (index, number) in best:
                content = Markup("<strong>{}</strong>").format(content)
            size = size_of(value)
            if number == 0:
                yield Markup('<th scope="row">{}</th>').format(content)
            elif column.bar and size is not None:
                share = 100 * min(max(size, 0.0), 1.0)
                yield Markup('<td class="share" style="--share:{:.1f}%">{}</td>').format(share, content)
            else:
                yield Markup("<td{}>{}</td>").format(self._side(number), content)


def report_console(console: Console) -> Console:
    """Return where tables are printed: where nobody looks at a terminal, no column is cut off."""
    return console if console.is_terminal else Console(width=TABLE_WIDTH, quiet=console.quiet)


def _total(block: Mapping[int, int]) -> int:
    return sum(width + GAP for width in block.values()) - 1  # no rule follows the last column


def _kind(values: Sequence[Value]) -> type | None:
    return next((type(value) for value in values if isinstance(value, (Interval, Spread))), None)


def _more(name: str, kind: type | None) -> tuple[str, ...]:
    if kind is None:
        return ()
    return (f"{name} low", f"{name} high") if kind is Interval else (f"{name} std",)


def _plain(value: Value, kind: type | None) -> tuple[object, ...]:
    """The entries of CSV for a value, as many as its column takes."""
    if isinstance(value, Interval):
        return value.value, value.low, value.high
    if isinstance(value, Spread):
        return value.value, value.std
    first = value.text if isinstance(value, Link) else value
    return (first, *[None] * len(_more("", kind)))


def _joined(parts: Iterable[Markup]) -> Markup:
    return Markup("").join(parts)


def _line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cell.replace("|", r"\|").replace("\n", " ") for cell in cells) + " |"
