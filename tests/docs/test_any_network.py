"""docs/any_network.md: its tables are those of the result files."""

import json

from benchmarks.studies.any_network.command import kinds_table
from benchmarks.studies.any_network.zoo import zoo_summary, zoo_table
from tests.pages import DOCS, ROOT, run_page

RESULTS = ROOT / "benchmarks" / "results"
PAGE = (DOCS / "any_network.md").read_text(encoding="utf-8")


def test_the_zoo_is_that_of_the_file():
    rows = json.loads((RESULTS / "zoo.json").read_text())["networks"]
    assert zoo_table(rows).markdown() in (RESULTS / "zoo.md").read_text(encoding="utf-8")
    assert zoo_summary(rows) in PAGE


def test_block_kinds_are_those_of_the_file():
    assert kinds_table(json.loads((RESULTS / "any_network.json").read_text())).markdown() in PAGE


def test_the_block_runs_as_it_stands(capsys):
    run_page(DOCS / "any_network.md")
    groups, *pins = capsys.readouterr().out.splitlines()
    assert groups == "['first', 'hidden']"
    assert [pin.split(":")[0] for pin in pins] == ["second", "out"]
