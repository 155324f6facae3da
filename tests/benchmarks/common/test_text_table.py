"""One table for the terminal and the page."""

from rich.console import Console

from benchmarks.common.table import TextTable, percent, percent_range

TABLE = TextTable("A [title]", ("agent", "[95 %]"), [["a | b", percent_range(0.1, 0.25)], ["short"]], "P [0, 1]")


def test_brackets_are_no_markup(capsys):
    Console(width=80).print(TABLE.rich())
    shown = capsys.readouterr().out
    for text in ("A [title]", "[95 %]", "a | b", "10.00 - 25.00", "P [0, 1]"):
        assert text in shown


def test_every_line_of_the_page_has_all_columns():
    title, _, *lines, empty, caption = TABLE.markdown().splitlines()
    assert (title, empty, caption) == ("**A [title]**", "", "P [0, 1]")
    assert lines[0] == "| agent | [95 %] |"
    assert lines[1] == "| --- | ---: |"
    assert lines[2] == r"| a \| b | 10.00 - 25.00 |"
    assert lines[3] == "| short |  |"


def test_percent():
    assert percent(0.98765) == "98.77"
