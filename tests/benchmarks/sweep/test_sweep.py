import errno
import json
import os
import subprocess
import sys
import time

import pytest
import yaml

from benchmarks import cli
from benchmarks.job.run_folder import RunFolder, RunFolderError
from benchmarks.studies.engine.run_folders import MainJob, RunFolders
from benchmarks.studies.engine.study import Outcome
from benchmarks.studies.engine.workers import DiskFullError, LocalWorkers, WorkerStartError, attempt
from benchmarks.sweep import command as sweep
from benchmarks.sweep.config import SweepConfig
from benchmarks.sweep.results_table import SCHEMA_VERSION, read_results
from benchmarks.sweep.runner import run_sweep
from benchmarks.sweep.study import SweepFolderError, SweepStudy
from prune_gym.support.files import NotWritableError
from tests.benchmarks import sweep_tasks
from tests.benchmarks.result_folders import signed_again

IMPORTS = ("tests.benchmarks.sweep_tasks",)
GRID = {
    "name": "tiny sweep",
    "methods": ["hobs-uniform", "predicted-random"],
    "tasks": ["tiny-cnn"],
    "targets": [0.6],
    "seeds": [1, 2],
    "run": {
        "pruning": {
            "rspar": {"num_episodes": 3},
            "reconstruction": {"steps": 10, "images": 60, "candidates": [{"learning_rate": 0.004}]},
            "finetune": {"epochs": 1, "batch_size": 32},
        }
    },
}


@pytest.fixture(autouse=True)
def surroundings(tmp_path, monkeypatch):
    monkeypatch.setenv("SWEEP_TESTS_MENDED", str(tmp_path / "mended"))


def write_sweep(folder, **changes):
    path = folder / "sweep.yaml"
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump({**GRID, "save_dir": str(folder / "out"), **changes}))
    return path


def make_sweep(folder, **changes):
    return SweepConfig.load(write_sweep(folder, **changes))


class Inline:
    """Runs cells in this process, one after the other, and goes on where one fails."""

    def __init__(self, attempt=attempt):
        self.names, self.attempt = [], attempt

    def run(self, begin, cells, started):
        for cell in cells:
            started(cell)
            self.names.append(cell.name)
            yield self.attempt(begin("cpu"), cell)


def fail(work, cell):
    return Outcome(cell.name, 0.0, error="ValueError: no", trace="Traceback ...")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The grid, run in this process without an interruption."""
    folder = tmp_path_factory.mktemp("finished")
    grid = make_sweep(folder)
    assert run_sweep(grid, Inline()) == 0
    return grid


# ---------------------------------------------------------------------- what a sweep gives


def test_every_cell_has_a_run_folder_and_a_row(finished):
    rows = read_results(finished.save_dir)
    assert [(row["method"], row["seed"]) for row in rows] == [
        *(("hobs-uniform", seed) for seed in (1, 2)),
        *(("predicted-random", seed) for seed in (1, 2)),
    ]
    for cell in finished.cells():
        result = json.loads((finished.save_dir / "cells" / cell.name / "result.json").read_text())
        (row,) = (row for row in rows if (row["method"], row["seed"]) == (cell.method, cell.seed))
        assert row["final_accuracy"] == result["final"]["accuracy"]
        assert row["num_threads"] == 1
    assert not list(finished.save_dir.glob("cells/*/*/plots"))


def test_a_predicted_search_measures_the_start_plan_and_its_best_only(finished):
    for row in read_results(finished.save_dir):
        assert row["measured_evaluations"] <= (2 if row["method"] == "predicted-random" else 1)
        assert row["flops_reduction"] >= 0.6


def test_kill_9_in_the_middle_then_resume_gives_the_table_of_an_uninterrupted_sweep(finished, tmp_path):
    path = write_sweep(tmp_path)
    command = [sys.executable, "-m", "benchmarks.sweep", str(path), "--workers", "2", "--import", *IMPORTS]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    wait_for(lambda: list((tmp_path / "out").glob("cells/*/*/result.json")), process)
    workers = children_of(process.pid)
    process.kill()
    process.wait()
    assert len(workers) >= 2
    wait_for(lambda: not any(map(alive, workers)))
    survivors = len(list((tmp_path / "out").glob("cells/*/*/result.json")))
    assert 1 <= survivors < 4

    engine = Inline()
    assert run_sweep(SweepConfig.load(path), engine) == 0
    assert len(engine.names) == 4 - survivors
    for table in ("results.csv", "results.parquet"):
        if (finished.save_dir / table).is_file():
            assert (tmp_path / "out" / table).read_bytes() == (finished.save_dir / table).read_bytes()


def test_a_killed_worker_and_a_failed_cell_cost_only_themselves_and_are_retried_on_request(tmp_path, capsys):
    path = write_sweep(
        tmp_path, tasks=["tiny-broken", "tiny-deadly", "tiny-cnn"], methods=["hobs-uniform"], seeds=[1], targets=[]
    )
    command = ["sweep", str(path), "--workers", "1", "--import", *IMPORTS]
    assert cli.main(command) == 1
    shown = capsys.readouterr().out
    assert "failed: tiny-broken-hobs-uniform-default/seed_1: LookupError: no such luck" in shown
    assert "the worker process was killed by SIGKILL" in shown
    (row,) = read_results(tmp_path / "out")
    assert row["task"] == "tiny-cnn"
    assert row["target_flops_reduction"] == 0.5
    failure = json.loads((tmp_path / "out/failures/tiny-broken-hobs-uniform-default-seed_1.json").read_text())
    assert "in broken\n" in failure["trace"]

    assert cli.main(command) == 1  # failed cells are not run again unasked
    assert "1 of 3 cells finished before, 2 failed" in capsys.readouterr().out
    (tmp_path / "mended").touch()
    assert run_sweep(SweepConfig.load(path), Inline(), retry_failed=True) == 0
    assert len(read_results(tmp_path / "out")) == 3
    assert not list((tmp_path / "out" / "failures").iterdir())


def test_ctrl_c_stops_and_the_same_command_goes_on(finished, tmp_path, monkeypatch):
    grid = make_sweep(tmp_path)

    class Interrupted(Inline):
        def run(self, begin, cells, started):
            for count, outcome in enumerate(super().run(begin, cells, started)):
                if count == 2:
                    raise KeyboardInterrupt
                yield outcome

    monkeypatch.setattr(sweep, "_workers", lambda *_: Interrupted())
    assert sweep.main([str(tmp_path / "sweep.yaml")]) == 130
    assert len(read_results(grid.save_dir)) == 3  # the table has what is finished, heard of or not
    engine = Inline()
    run_sweep(grid, engine)
    assert len(engine.names) == 1
    assert (grid.save_dir / "results.csv").read_bytes() == (finished.save_dir / "results.csv").read_bytes()


def test_a_sweep_grows_by_seeds(finished, tmp_path):
    run_sweep(make_sweep(tmp_path, seeds=[2]), Inline())
    engine = Inline()
    run_sweep(make_sweep(tmp_path, seeds=[1, 2]), engine)
    assert [name.rpartition("_")[2] for name in engine.names] == ["1", "1"]
    assert (tmp_path / "out" / "results.csv").read_bytes() == (finished.save_dir / "results.csv").read_bytes()


# ---------------------------------------------------------------------- full disks


def test_a_disk_that_fills_up_in_a_worker_stops_the_sweep_and_nothing_finished_is_lost(tmp_path):
    grid = make_sweep(
        tmp_path, tasks=["tiny-cnn", "tiny-filling", "tiny-broken"], methods=["hobs-uniform"], seeds=[1], targets=[]
    )
    fsync = os.fsync
    try:
        with pytest.raises(
            DiskFullError, match=r"(?i)no space left.*1 finished cells are safe.*the same command goes on"
        ):
            run_sweep(grid, Inline())
    finally:
        os.fsync = fsync
    assert len(list(grid.save_dir.glob("cells/*/*/result.json"))) == 1
    assert not (grid.save_dir / "failures").exists()  # a full disk is not the cell's fault
    (tmp_path / "mended").touch()
    assert run_sweep(grid, Inline()) == 0
    assert len(read_results(grid.save_dir)) == 3


def test_a_disk_too_full_for_the_tables_keeps_the_table_there_was(finished, tmp_path, monkeypatch):
    grid = make_sweep(tmp_path, seeds=[1])
    run_sweep(grid, Inline())
    before = (grid.save_dir / "results.csv").read_bytes()
    more = make_sweep(tmp_path)

    class Filling(Inline):
        def run(self, begin, cells, started):
            yield from super().run(begin, cells, started)
            monkeypatch.setattr(os, "fsync", sweep_tasks.full)

    monkeypatch.setattr("benchmarks.sweep.runner.TABLES_EVERY", float("inf"))
    with pytest.raises(DiskFullError, match=r"\[Errno 28\].*4 finished cells are safe"):
        run_sweep(more, Filling())
    assert (grid.save_dir / "results.csv").read_bytes() == before
    monkeypatch.undo()
    assert run_sweep(more, Inline()) == 0
    assert len(read_results(grid.save_dir)) == 4


def test_a_failure_that_cannot_be_written_stops_the_sweep(tmp_path, monkeypatch):
    monkeypatch.setattr(RunFolders, "keep", lambda *_: sweep_tasks.full(None))
    with pytest.raises(DiskFullError, match="0 finished cells"):
        run_sweep(make_sweep(tmp_path), Inline(fail))


# ---------------------------------------------------------------------- refused at the door


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"seeds": [1, 2, 1]}, r"sweep.yaml, line \d+: 'seeds' must name each once, or cells would be duplicates.*1"),
        ({"targets": [0.6, 0.60]}, r"'targets' must name each once"),
        (
            {"targets": [0.6, 0.60000001]},
            r"duplicate cells: .*would share the folder '.*-0.6/seed_1'",
        ),
        ({"methods": ["hobs-unifrom"]}, r"unknown method 'hobs-unifrom'; did you mean 'hobs-uniform'\?"),
        ({"tasks": ["tiny-cn"]}, r"unknown task 'tiny-cn'; did you mean 'tiny-cnn'\?"),
        ({"run": {"pruning": {"finetune": {"epoch": 1}}}}, r"line \d+: unknown key 'pruning.finetune.epoch'; did you"),
        ({"run": {"pruning": {"method": "random"}}}, r"'run.pruning.method' is set by the grid"),
        ({"run": {"pruning": 3}}, r"'run.pruning' must be a section, got 3"),
        ({"sedes": [1]}, r"unknown key 'sedes'; did you mean 'seeds'\?"),
        ({"seeds": []}, r"'seeds'"),
    ],
)
def test_bad_grids_are_refused_and_say_what_to_write(tmp_path, capsys, changes, said):
    sweep_tasks.tiny_task.register()
    path = write_sweep(tmp_path, **changes)
    assert cli.main(["sweep", str(path)]) == 2
    with pytest.raises(ValueError, match=said):
        SweepConfig.load(path)
    assert not (tmp_path / "out").exists()


def test_a_target_out_of_reach_is_found_before_anything_runs(tmp_path, capsys):
    assert cli.main(["sweep", str(write_sweep(tmp_path, targets=[0.5, 0.999]))]) == 2
    assert "task 'tiny-cnn': " in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_an_unwritable_save_dir_is_found_before_anything_runs(tmp_path, capsys):
    (tmp_path / "file").write_text("not a folder")
    engine = Inline()
    with pytest.raises(
        NotWritableError, match=r"cannot write results to .*; set save_dir to a folder you can write to"
    ):
        run_sweep(make_sweep(tmp_path, save_dir=str(tmp_path / "file" / "out")), engine)
    assert engine.names == []


def test_a_table_of_another_version_is_refused_and_kept(finished, tmp_path):
    grid = make_sweep(tmp_path)
    grid.save_dir.mkdir()
    table = signed_again((finished.save_dir / "results.csv").read_text().replace(f"\n{SCHEMA_VERSION},", "\n99,"))
    (grid.save_dir / "results.csv").write_text(table)
    engine = Inline()
    with pytest.raises(ValueError, match=r"results.csv has schema version 99, this version of the project reads \d"):
        run_sweep(grid, engine)
    assert engine.names == []
    assert (grid.save_dir / "results.csv").read_text() == table


def test_runs_of_another_configuration_or_number_of_threads_are_not_mixed(finished, capsys):
    folder = finished.save_dir.parent
    other = make_sweep(folder, run={"pruning": {"finetune": {"epochs": 0}}})
    with pytest.raises(RunFolderError, match=r"run of another configuration.*\n.*pruning.finetune"):
        run_sweep(other, Inline())
    with pytest.raises(SweepFolderError, match=r"runs with threads=1, asked for is threads=2"):
        run_sweep(make_sweep(folder, threads=2), Inline())


def test_two_sweeps_do_not_share_a_folder(tmp_path):
    grid = make_sweep(tmp_path)
    with SweepStudy(grid).locked(), pytest.raises(SweepFolderError, match="another sweep is running in"):
        run_sweep(grid, Inline())


def test_a_module_that_cannot_be_imported_is_named(tmp_path, capsys):
    assert cli.main(["sweep", str(write_sweep(tmp_path)), "--import", "no_such_module"]) == 2
    assert "--import no_such_module" in capsys.readouterr().err


def test_a_worker_that_cannot_begin_is_an_error_with_its_traceback(tmp_path):
    grid = make_sweep(tmp_path)
    workers = LocalWorkers(1, 1, imports=("no_such_module",))
    with pytest.raises(WorkerStartError, match="No module named 'no_such_module'"):
        list(workers.run(MainJob, SweepStudy(grid).cells()[:1], lambda cell: None))


def test_a_job_reports_a_full_disk_as_the_disks(monkeypatch, tmp_path):
    grid = make_sweep(tmp_path)
    monkeypatch.setattr(RunFolder, "write_json", lambda *_: (_ for _ in ()).throw(OSError(errno.EDQUOT, "quota")))
    outcome = attempt(MainJob("cpu"), SweepStudy(grid).cells()[0])
    assert outcome.disk_full
    assert "quota" in outcome.error


# ---------------------------------------------------------------------- helpers


def wait_for(condition, process=None, seconds=240):
    """Wait until something is the case; a process that ends before is an error."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        assert process is None or process.poll() is None
        time.sleep(0.02)


def children_of(pid):
    """Processes whose parent is `pid`, of Linux and macOS."""
    listed = subprocess.run(["ps", "-A", "-o", "pid=,ppid="], capture_output=True, text=True, check=True).stdout
    pairs = (line.split() for line in listed.splitlines())
    return [int(child) for child, parent in pairs if int(parent) == pid]


def alive(pid):
    state = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True).stdout.strip()
    return bool(state) and not state.startswith("Z")
