"""One table of plain values for the terminal, a page of Markdown, a page of HTML, and CSV."""

import csv
import io
import re
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from benchmarks.common.columns import NOTHING, Column, Interval, Link, Spread, percent_column, points_column
from benchmarks.common.numbers import count, duration, p_value, percent, plural, span
from benchmarks.common.table import Table

TABLE = Table(
    "A [title] <b>",
    (
        "agent",
        percent_column("test [95 %]", best="max"),
        points_column("lead"),
        Column("time", ".1f", unit=" s", best="min"),
        "plans",
        Column("why", wide=True),
    ),
    [
        ["a | b", Interval(0.9, 0.85, 0.95), 0.0123, Spread(2.0, 0.5), 1234, "[x] & <i>"],
        ["second", Interval(0.95), -0.00001, Spread(1.0), None, "quick"],
        ["dense", 0.99, None, 9.0],
    ],
    "P [0, 1]",
    apart=["dense"],
)


def rendered(table, width=120):
    with io.StringIO() as file:
        Console(width=width, file=file).print(table)
        return file.getvalue()


def test_every_value_is_written_as_its_column_says():
    assert TABLE.texts() == [
        ["a | b", "90.00 [85.00, 95.00]", "+1.23", "2.0 ± 0.5 s", "1,234", "[x] & <i>"],
        ["second", "95.00", "+0.00", "1.0 s", NOTHING, "quick"],
        ["dense", "99.00", NOTHING, "9.0 s", "", ""],
    ]


def test_forms_may_be_functions_and_unrounded_numbers_take_as_few_digits_as_they_need():
    table = Table("", ("x", Column("n", count), "y"), [["a", 12_345_678, 0.5], [0.25, 3, 0.125]])
    assert table.texts() == [["a", "12.35 M", "0.5"], ["0.25", "3", "0.125"]]
    assert "12.35 M" in table.markdown()


def test_brackets_are_no_markup_on_a_terminal():
    shown = rendered(TABLE)
    for text in ("A [title] <b>", "test [95 %]", "a | b", "[x] & <i>", "P [0, 1]"):
        assert text in shown


def test_a_narrow_terminal_wraps_headings_and_texts():
    headings = [Column(f"some long heading {number}", ".3f") for number in range(4)]
    shown = rendered(Table("", ("a", *headings, Column("why", wide=True)), [["b", *[1.234] * 4, "w " * 30]]), width=72)
    assert shown.count("some long heading") < 4
    assert shown.count("1.234") == 4
    assert shown.count("w") == 31
    assert all(len(line) <= 72 for line in shown.splitlines())
    assert len([line for line in shown.splitlines() if line.startswith("b")]) == 1


@pytest.mark.parametrize("width", [34, 50, 70, 100, 200])
def test_no_terminal_is_too_narrow_for_a_number(width):
    columns = ("name", *(percent_column(f"x{number}") for number in range(8)))
    rows = [[name, *(Interval(0.5 + n / 100 + m / 10, 0.25, 0.75) for n in range(8))] for m, name in enumerate("ab")]
    table = Table("title", columns, rows, "caption")
    shown = rendered(table, width)
    assert all(len(line) <= width for line in shown.splitlines())
    for row in table.texts():
        assert all(text in shown for text in row)
    assert shown.count("title") == shown.count("caption") == 1
    lines = [line for line in shown.splitlines() if line.startswith("a ")]
    assert len(lines) > 1 or width == 200


def test_every_line_of_markdown_has_all_columns_and_the_best_is_bold():
    title, _, head, marks, first, second, third, _, caption = TABLE.markdown().splitlines()
    assert (title, caption) == ("**A [title] <b>**", "P [0, 1]")
    assert head == "| agent | test [95 %] | lead | time | plans | why |"
    assert marks == "| --- | ---: | ---: | ---: | ---: | --- |"
    assert first.startswith(r"| a \| b | 90.00 [85.00, 95.00] |")
    assert second == f"| second | **95.00** | +0.00 | **1.0 s** | {NOTHING} | quick |"
    assert third == f"| dense | 99.00 | {NOTHING} | 9.0 s |  |  |"


class Cells(HTMLParser):
    """Texts of the cells of a table, and how elements are nested."""

    def __init__(self, page):
        super().__init__()
        self.open, self.rows, self.tags = [], [], []
        self.feed(page)
        self.close()
        assert not self.open

    def handle_starttag(self, name, attributes):
        self.open.append(name)
        self.tags.append((name, dict(attributes)))
        if name == "tr":
            self.rows.append([])
        if name in ("th", "td"):
            self.rows[-1].append("")

    def handle_endtag(self, name):
        assert self.open.pop() == name

    def handle_data(self, data):
        if {"th", "td"} & set(self.open):
            self.rows[-1][-1] += data


def test_html_says_what_the_terminal_says_and_is_escaped():
    page = Cells(TABLE.html())
    assert page.rows == [
        [column if isinstance(column, str) else column.name for column in TABLE.columns],
        *TABLE.texts(),
    ]
    assert {"script", "b", "i"}.isdisjoint(name for name, _ in page.tags)
    assert TABLE.html().count("<strong>") == 2
    assert {attributes["scope"] for name, attributes in page.tags if name == "th"} == {"col", "row"}
    assert page.tags[0][1]["aria-label"] == TABLE.title
    assert TABLE.__html__() == TABLE.html()


def test_html_has_bars_and_links():
    page = Table(
        "", ("a", percent_column("share", 0, bar=True), "more"), [["b", 0.25, Link("see", '#"x', "of <b>")]]
    ).html()
    assert '<td class="share" style="--share:25.0%">25</td>' in page
    assert '<a href="#&#34;x" aria-label="of &lt;b&gt;">see</a>' in page


@given(st.lists(st.tuples(st.text(), st.text() | st.none() | st.floats(allow_nan=False)), max_size=4), st.text())
def test_whatever_a_text_holds_html_stays_a_table_of_it(rows, title):
    page = Cells(Table(title, ("a", title), rows, title).html())
    assert len(page.rows) == len(rows) + 1
    assert all(len(row) == 2 for row in page.rows)


def test_csv_has_unrounded_numbers_and_columns_for_their_uncertainty():
    head, first, second, third = csv.reader(io.StringIO(TABLE.csv()))
    uncertain = ["test [95 %]", "test [95 %] low", "test [95 %] high", "lead", "time", "time std", "plans", "why"]
    assert head == ["agent", *uncertain]
    assert first == ["a | b", "0.9", "0.85", "0.95", "0.0123", "2.0", "0.5", "1234", "[x] & <i>"]
    assert second == ["second", "0.95", "", "", "-1e-05", "1.0", "", "", "quick"]
    assert third == ["dense", "0.99", "", "", "", "9.0", "", "", ""]


def test_texts_of_a_style_are_coloured_on_a_terminal():
    table = Table("", ("a", Column("b", styles={"missing": "red"})), [["x", "missing"]])
    assert [cell.style for cell in table.rich().columns[1].cells] == ["red"]


def test_spread_of_values():
    assert Spread.of([1.0, 3.0]) == Spread(2.0, pytest.approx(2**0.5))
    assert Spread.of([1.0]) == Spread(1.0, None)


def test_numbers_for_people():
    assert percent(0.98765) == "98.77"
    assert span([0.751, 0.7512]) == "75.1"
    assert span([0.76, 0.75]) == "75.0 – 76.0"
    assert [count(value) for value in (3, 1500, 2.5e7, 1e9, 3e12)] == ["3", "1.50 k", "25.00 M", "1.00 G", "3.00 T"]
    assert [duration(value) for value in (1, 180, 7200)] == ["1.0 s", "3.0 min", "2.0 h"]
    assert [p_value(value) for value in (0.0, 0.0406)] == ["<0.001", "0.041"]
    assert [plural(number, "run") for number in (0, 1, 2000)] == ["0 runs", "1 run", "2,000 runs"]
    assert not re.search("e", count(9.99e14))
