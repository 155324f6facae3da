"""A run that dies at a write, and is started again, ends as if nothing had happened.

The runs are forked off a process of their own: this one may have threads that other tests left, and locks they hold.
"""

import importlib
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import pytest
import torch

from benchmarks.fuzz import crashes as module
from benchmarks.fuzz.crash_jobs import JOBS
from benchmarks.fuzz.crashes import DIED, Crashes, crash_points, dying_at


def begin():
    """What training and cutting import when they first need it is imported here, or every fork would import it anew."""
    torch.set_num_threads(1)
    for name in ("torch._dynamo", "torch_pruning"):
        importlib.import_module(name)


@pytest.fixture(scope="module")
def process():
    with ProcessPoolExecutor(1, get_context("spawn"), initializer=begin) as pool:
        yield lambda work, *args: pool.submit(work, *args).result()


def started(folder, name):
    crashes = Crashes(folder, JOBS[name])
    assert crashes.run("base") == 0, (crashes.folder / "log.txt").read_text()[-2000:]
    return crashes


def crashed(folder, name, writes, ways=module.WAYS):
    return crash_points(started(folder, name), writes=writes, ways=ways)


def died_at(folder, write, way):
    crashes = Crashes(folder, JOBS["run"])
    code = crashes.run("dies", dying_at(write, way))
    return code, bool(crashes.leftovers("dies")), (folder / "dies" / "seed_3" / "result.json").exists()


def test_a_crash_at_a_write_changes_no_result_and_leaves_nothing_behind(process, tmp_path):
    rows = process(crashed, tmp_path, "run", [12])
    assert len(rows) == len(module.WAYS)
    assert all(row["died"] and row["same"] for row in rows)
    assert not any(row["leftovers"] for row in rows)


def test_a_sweep_that_dies_in_its_second_cell_ends_with_the_same_table(process, tmp_path):
    rows = process(crashed, tmp_path, "sweep", [14], ["torn"])
    assert rows == [{"write": 14, "way": "torn", "died": True, "same": True, "leftovers": 0}]


def test_a_run_dies_where_it_is_told_to(process, tmp_path):
    code, leftovers, finished = process(died_at, tmp_path, 1, "torn")
    assert code == DIED
    assert leftovers or not finished
