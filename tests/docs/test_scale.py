"""speed_scale.md: its tables are those of the result file; a deep network has its first plan in a minute."""

import json

from benchmarks.studies.speed.scale import scale_tables
from tests.pages import ROOT

ROWS = json.loads((ROOT / "benchmarks" / "results" / "speed_scale.json").read_text())["rows"]
PAGE = (ROOT / "benchmarks" / "results" / "speed_scale.md").read_text()


def test_the_tables_are_those_of_the_file():
    for table in scale_tables(ROWS):
        lines = [line for line in table.markdown().splitlines() if line.startswith("|")]
        assert len(lines) > 2
        assert all(line in PAGE for line in lines)


def test_a_network_of_320_layers_has_its_first_plan_in_a_minute():
    first = [row["value"] for row in ROWS if row["name"].endswith("_320x32_first_plan")]
    assert first
    assert max(first) <= 60
