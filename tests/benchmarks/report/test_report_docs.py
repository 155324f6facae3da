"""docs/report.md: its block runs, its commands parse, it names what reports are made of."""

import re
import shlex

from benchmarks.report import command as report_page
from benchmarks.report.sources import LOOKED_FOR
from tests.pages import DOCS, code_blocks, run_page

PAGE = DOCS / "report.md"


def test_the_page_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    run_page(PAGE)
    shown = capsys.readouterr().out
    assert "digits-resnet20, 90 %, hobs-rspar [42] {42: 0.99}" in shown
    assert "left out: nothing" in shown


def test_its_commands_are_understood():
    for line in "".join(code_blocks(PAGE, "bash")).splitlines():
        words = shlex.split(line)
        assert words[:2] == ["prune-gym", "report"]
        report_page._parser(None).parse_args(words[2:])


def test_it_names_every_file_that_is_looked_for():
    text = PAGE.read_text()
    for line in LOOKED_FOR:
        for name in re.findall(r"[\w<>/]+\.(?:json|csv)", line):
            assert name in text
