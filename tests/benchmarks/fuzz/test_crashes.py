"""A run that dies at a write, and is started again, ends as if nothing had happened."""

import pytest

from benchmarks.fuzz import crashes as module
from benchmarks.fuzz.crashes import DIED, Crashes, crash_points, dying_at


@pytest.fixture(scope="module")
def crashes(tmp_path_factory):
    started = Crashes(tmp_path_factory.mktemp("crashes"))
    assert started.run("base") == 0, (started.folder / "log.txt").read_text()[-2000:]
    return started


def test_a_crash_at_a_write_changes_no_result_and_leaves_nothing_behind(crashes):
    rows = crash_points(crashes, writes=[12])
    assert len(rows) == len(module.WAYS)
    assert all(row["died"] and row["same"] for row in rows)
    assert not any(row["leftovers"] for row in rows)


def test_a_run_dies_where_it_is_told_to(crashes):
    assert crashes.run("dies", dying_at(1, "torn")) == DIED
    assert crashes.leftovers("dies") or not (crashes.folder / "dies" / "seed_3" / "result.json").exists()
