"""The engine of all studies: cells run once, in parts, on workers, until a deadline, and what they say together."""

import functools
import json
import os

import pytest
from rich.console import Console

from benchmarks.common.signed import signed
from benchmarks.settings.source import ConfigError
from benchmarks.studies.engine import running
from benchmarks.studies.engine.running import Selection, run_study
from benchmarks.studies.engine.workers import CellError, DiskFullError, LocalWorkers, ThisProcess, WorkerStartError
from tests.benchmarks.studies.engine.grid import Squares, results

ALL = {"number-0": 0, "number-1": 1, "number-2": 4, "number-3": 9}


def run(study, capsys, **options):
    """Run a study; how many cells failed, and what was said."""
    failed = run_study(study, Console(width=200), **options)
    return failed, capsys.readouterr().out


def work(study, device):
    return study.run


def on_workers(study, number=2, **options):
    begin = functools.partial(work, study)
    return {"begin": begin, "workers": LocalWorkers(number, threads=1, **options)}


def test_every_cell_is_a_file_and_the_report_has_all_of_them(tmp_path, capsys):
    failed, said = run(Squares(tmp_path), capsys, copy_to=tmp_path / "elsewhere.json")
    assert failed == 0
    assert results(tmp_path) == ALL
    assert "[4/4] number-3: 9" in said
    assert "4 of 4 cells; results:" in said
    for name in ("squares.json", "elsewhere.json"):
        content = json.loads((tmp_path / name).read_text())
        assert content["sum"] == 14
        assert content["versions"]["torch"]
    assert "| number-3 | 9 |" in (tmp_path / "squares.md").read_text()
    assert (tmp_path / "squares.csv").read_text() == "x\n"
    assert (tmp_path / "squares.txt").read_text() == "a picture"
    assert json.loads((tmp_path / "cells" / "number-2.json").read_text())["versions"]["python"]


def test_finished_cells_are_not_run_again_and_a_study_grows(tmp_path, capsys):
    run(Squares(tmp_path, count=2), capsys)
    never = tuple((value, "error") for value in range(2))
    _, said = run(Squares(tmp_path, count=4, trouble=never), capsys)
    assert "2 of 4 cells finished before" in said
    assert "[2/2] number-3" in said
    assert results(tmp_path) == ALL


def test_an_interrupted_study_goes_on_and_ends_as_an_uninterrupted_one(tmp_path, capsys):
    with pytest.raises(KeyboardInterrupt):
        run(Squares(tmp_path / "cut", trouble=((2, "interrupt"),)), capsys)
    assert results(tmp_path / "cut") == {"number-0": 0, "number-1": 1}
    run(Squares(tmp_path / "cut"), capsys)
    run(Squares(tmp_path / "whole"), capsys)
    for file in ("squares.json", "squares.md"):
        assert (tmp_path / "cut" / file).read_text() == (tmp_path / "whole" / file).read_text()


@pytest.mark.parametrize(
    ("selection", "expected"),
    [
        (Selection(part=(1, 2)), ["number-0", "number-2"]),
        (Selection(part=(2, 2)), ["number-1", "number-3"]),
        (Selection(part=(2, 2), names={"number-0", "number-3"}), ["number-3"]),
        (Selection(minutes=0), []),
        (Selection(minutes=60), list(ALL)),
    ],
)
def test_a_selection_is_a_share_of_the_cells(tmp_path, capsys, selection, expected):
    run(Squares(tmp_path), capsys, selection=selection)
    assert list(results(tmp_path)) == expected


def test_parts_cover_every_cell_once():
    cells = list(range(7))
    shares = [Selection(part=(part, 3)).share(cells) for part in (1, 2, 3)]
    assert sorted(cell for share in shares for cell in share) == cells


def test_time_over_is_said_and_no_cell_begins(tmp_path, capsys, monkeypatch):
    clock = iter((0.0, 1.0, 61.0))
    monkeypatch.setattr(running.time, "monotonic", lambda: next(clock))
    _, said = run(Squares(tmp_path), capsys, selection=Selection(minutes=1))
    assert list(results(tmp_path)) == ["number-0"]
    assert "1 minutes are over; the same command goes on" in said


def test_a_cell_that_says_why_it_failed_is_named_left_out_and_tried_again(tmp_path, capsys):
    failed, said = run(Squares(tmp_path, trouble=((1, "says so"),)), capsys)
    assert failed == 1
    assert "failed: number-1: ValueError: odd" in said
    assert json.loads((tmp_path / "squares.json").read_text())["sum"] == 13
    assert results(tmp_path)["number-1"] == "ValueError: odd"
    assert run(Squares(tmp_path), capsys)[0] == 0
    assert results(tmp_path) == ALL


def test_an_error_in_this_process_is_raised_as_it_is_and_nothing_finished_is_lost(tmp_path, capsys):
    with pytest.raises(LookupError, match="no such number"):
        run(Squares(tmp_path, trouble=((1, "error"),)), capsys)
    assert results(tmp_path) == {"number-0": 0}


def test_a_full_disk_says_what_is_safe(tmp_path, capsys, monkeypatch):
    with pytest.raises(DiskFullError, match=r"No space left.*2 finished cells are safe.*the same command goes on"):
        run(Squares(tmp_path, trouble=((2, "full"),)), capsys)
    monkeypatch.setattr(running, "write_result", lambda *_: Squares(tmp_path, trouble=((0, "full"),)).run(Zero))
    with pytest.raises(DiskFullError, match="4 finished cells are safe"):
        run(Squares(tmp_path), capsys)


class Zero:
    value = 0


def test_results_of_another_study_are_not_added_to(tmp_path, capsys):
    run(Squares(tmp_path, count=1), capsys)
    (tmp_path / "study.json").write_text(json.dumps(signed({"what": "cubes"})))
    with pytest.raises(ConfigError, match=r"runs of another study \(different: what\)"):
        run(Squares(tmp_path), capsys)


@pytest.mark.parametrize("text", ["{", json.dumps(signed([1]))])
def test_a_damaged_cell_is_named(tmp_path, capsys, text):
    run(Squares(tmp_path), capsys)
    (tmp_path / "cells" / "number-2.json").write_text(text)
    with pytest.raises(ConfigError, match=r"number-2.json is damaged .*; delete it"):
        run(Squares(tmp_path), capsys)


# ---------------------------------------------------------------- worker processes


def test_workers_give_what_one_process_gives_and_a_dead_one_costs_its_cell_only(tmp_path, capsys):
    study = Squares(tmp_path, count=5, trouble=((1, "death"),))
    with pytest.raises(CellError, match=r"number-1: the worker process was killed by SIGKILL"):
        run(study, capsys, **on_workers(study, number=1))
    (tmp_path / "mended").touch()
    failed, said = run(study, capsys, **on_workers(study))
    assert failed == 0
    assert results(tmp_path) == {**ALL, "number-4": 16}
    cells = [json.loads(path.read_text()) for path in (tmp_path / "cells").glob("*.json")]
    processes = {cell["process"] for cell in cells}
    assert os.getpid() not in processes
    assert "5 of 5 cells" in said


def test_what_a_cell_dies_of_in_a_worker_comes_back_with_its_traceback(tmp_path, capsys):
    study = Squares(tmp_path, count=1, trouble=((0, "error"),))
    with pytest.raises(CellError, match=r"number-0: Traceback(.|\n)*LookupError: no such number"):
        run(study, capsys, **on_workers(study))


def test_a_worker_that_cannot_begin_is_an_error_with_its_traceback(tmp_path, capsys):
    study = Squares(tmp_path)
    with pytest.raises(WorkerStartError, match="No module named 'no_such_module'"):
        run(study, capsys, **on_workers(study, imports=("no_such_module",)))


def test_this_process_makes_its_work_when_the_first_cell_is_begun():
    begun = []
    assert list(ThisProcess("cuda:3").run(begun.append, [], lambda cell: None)) == []
    assert begun == []
