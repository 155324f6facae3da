"""benchmarks/results/files.md: its tables are those of the result files."""

import json

from benchmarks.fuzz.command import FAILURES, fuzz_table
from tests.pages import ROOT

RESULTS = ROOT / "benchmarks" / "results"
PAGE = (RESULTS / "files.md").read_text()


def test_the_table_of_damaged_files_is_that_of_the_file_and_nothing_failed():
    rows = json.loads((RESULTS / "fuzz.json").read_text())["rows"]
    lines = [line for line in fuzz_table(rows).markdown().splitlines() if line.startswith("|")]
    assert len(lines) == len(rows) + 2
    assert all(line in PAGE for line in lines)
    assert all(row["mutations"] >= 2000 for row in rows)
    assert not any(row[failure] for row in rows for failure in FAILURES)


def test_the_numbers_of_killed_runs_are_those_of_the_file():
    found = json.loads((RESULTS / "crashes.json").read_text())["run"]["random"]
    words = " ".join(PAGE.split())
    assert f"{found['kills']} kills at random moments of {found['runs']} runs" in words
    assert found["same_result"] == found["runs"]
    assert found["kills"] >= 60


def test_the_numbers_of_crashes_at_writes_of_a_sweep_are_those_of_the_file():
    found = json.loads((RESULTS / "crashes_sweep.json").read_text())["sweep"]["points"]
    assert f"{found['crashes']} crashes, {found['same_result']} with the same table" in " ".join(PAGE.split())
    assert found["crashes"] == found["same_result"] == 3 * found["writes"]
    assert found["leftovers"] == 0


def test_a_run_died_at_every_write_and_the_numbers_are_those_of_the_file():
    found = json.loads((RESULTS / "crashes.json").read_text())["run"]["points"]
    assert found["crashes"] == found["same_result"] == 3 * found["writes"]
    assert f"{found['writes']} writes of\nthe run" in PAGE
    assert f"{found['crashes']} crashes, {found['same_result']} with the same result" in PAGE
