"""A run that dies at a write, and is started again, ends as if nothing had happened."""

import pytest

from benchmarks.fuzz import crashes as module
from benchmarks.fuzz.crash_jobs import JOBS
from benchmarks.fuzz.crashes import DIED, Crashes, crash_points, dying_at


def started(folder, name):
    crashes = Crashes(folder, JOBS[name])
    assert crashes.run("base") == 0, (crashes.folder / "log.txt").read_text()[-2000:]
    return crashes


@pytest.fixture(scope="module")
def crashes(tmp_path_factory):
    return started(tmp_path_factory.mktemp("crashes"), "run")


def test_a_crash_at_a_write_changes_no_result_and_leaves_nothing_behind(crashes):
    rows = crash_points(crashes, writes=[12])
    assert len(rows) == len(module.WAYS)
    assert all(row["died"] and row["same"] for row in rows)
    assert not any(row["leftovers"] for row in rows)


def test_a_sweep_that_dies_in_its_second_cell_ends_with_the_same_table(tmp_path):
    rows = crash_points(started(tmp_path, "sweep"), writes=[14], ways=["torn"])
    assert rows == [{"write": 14, "way": "torn", "died": True, "same": True, "leftovers": 0}]


def test_a_run_dies_where_it_is_told_to(crashes):
    assert crashes.run("dies", dying_at(1, "torn")) == DIED
    assert crashes.leftovers("dies") or not (crashes.folder / "dies" / "seed_3" / "result.json").exists()
