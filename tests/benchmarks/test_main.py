import errno
import json
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import benchmarks.main
from benchmarks.common.arguments import MAX_THREADS, default_threads
from benchmarks.job import pipeline
from benchmarks.main import main
from tests.benchmarks import tiny_task

ENTRY = Path(benchmarks.main.__file__)


@pytest.fixture(autouse=True)
def surroundings(quick_job):
    tiny_task.register()
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "tiny.yaml"
    path.write_text(tiny_task.CONFIG.format(save_dir=(tmp_path / "results").as_posix()))
    return path


def launch(config, *arguments):
    return main(["--config", str(config), "--threads", "1", "pruning.method=hobs-uniform", *arguments])


def interrupt(*args, **kwargs):
    raise KeyboardInterrupt


def test_run_ends_with_a_table_of_three_networks_and_says_where_results_are(config, capsys):
    assert launch(config) == 0
    shown = capsys.readouterr().out
    for words in ("dense", "pruned,", "one-shot", "fine-tuned"):
        assert words in shown
    for row in ("test accuracy", "FLOPs", "parameters", "latency", "throughput", "size on disk"):
        assert row in shown
    assert str(config.parent / "results" / "seed_3") in shown
    for stage in ("load task", "H-OBS", "search: hobs-uniform", "fine-tune with KD", "final report"):
        assert f"{stage}: " in shown  # one line a stage where there is no terminal to draw bars on


def test_finished_run_is_shown_again_but_not_run_again(config, capsys, monkeypatch):
    assert launch(config) == 0
    stored = (config.parent / "results" / "seed_3" / "result.json").read_bytes()
    monkeypatch.setattr(pipeline, "run_experiment", interrupt)
    assert launch(config) == 0
    shown = capsys.readouterr().out
    assert "--overwrite" in shown
    assert (config.parent / "results" / "seed_3" / "result.json").read_bytes() == stored
    assert launch(config, "--overwrite") == 130  # now it does run


def test_interruption_says_how_to_go_on_and_the_same_command_does(config, capsys, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr("benchmarks.job.stages.cut", interrupt)
        assert launch(config) == 130
    assert "the same command resumes" in capsys.readouterr().err
    assert launch(config) == 0


def test_a_full_disk_is_one_line(config, capsys, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(pipeline, "run_experiment", full)
    assert launch(config) == 2
    assert "No space left on device" in capsys.readouterr().err


def test_seed_option_runs_that_seed_only_and_seeds_of_the_config_all_run(config):
    assert launch(config, "--seed", "11") == 0
    folders = sorted(path.name for path in (config.parent / "results").iterdir())
    assert folders == ["seed_11"]
    assert launch(config, "experiment.random_seeds=[1, 2]") == 0
    folders = sorted(path.name for path in (config.parent / "results").iterdir())
    assert folders == ["seed_1", "seed_11", "seed_2"]


def test_method_option_and_overrides_may_stand_anywhere(config):
    before, after = "pruning.target_flops_reduction=0.5", "pruning.finetune.epochs=0"
    assert main([before, "--config", str(config), "--method", "hobs-knapsack", after, "--threads", "1"]) == 0
    result = json.loads((config.parent / "results" / "seed_3" / "result.json").read_text())
    assert result["method"] == "hobs-knapsack"
    assert result["target_flops_reduction"] == 0.5


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--method", "hobs-rspr"], "did you mean 'hobs-rspar'?"),
        (["--seed", "x"], "'experiment.random_seeds[0]'"),
        (["--seed", "-1"], "'experiment.random_seeds[0]'"),
        (["--gpu", "97"], "--gpu 97"),
        (["pruning.targt_flops_reduction=0.9"], "did you mean 'pruning.target_flops_reduction'?"),
        (["dataset.name=tinny"], "did you mean 'tiny-cnn'?"),
        (["pruning.target_flops_reduction=0.9999"], "reaches [0, "),
        (["experiment.save_dir=/dev/null/results"], "cannot write results"),
    ],
)
def test_bad_input_ends_with_code_2_and_says_what_to_write_instead(config, capsys, arguments, said):
    assert launch(config, *arguments) == 2
    assert said in capsys.readouterr().err


def test_missing_config_file_lists_those_there_are(config, capsys):
    assert launch(config.with_name("tyny.yaml")) == 2
    errors = capsys.readouterr().err
    assert "tiny.yaml" in errors
    assert "digits_resnet20.yaml" in errors


def test_unwritable_folder_of_any_seed_is_found_before_the_first_seed_runs(config, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(pipeline, "run_experiment", interrupt)
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "seed_2").write_text("a file where a folder should be")
    assert launch(config, "experiment.random_seeds=[1, 2]") == 2
    assert "seed_2" in capsys.readouterr().err


def test_threads_option_sets_pytorchs_threads_and_defaults_to_the_cores_there_are(config):
    assert launch(config) == 0
    assert torch.get_num_threads() == 1
    assert 1 <= default_threads() <= MAX_THREADS


@pytest.mark.parametrize("command", [[str(ENTRY)], ["-m", "benchmarks.main"]])
def test_entry_works_as_a_file_and_as_a_module(command):
    root = str(ENTRY.parent.parent)
    done = subprocess.run(
        [sys.executable, *command, "--help"],
        env={"PYTHONPATH": root, "PATH": ""},
        cwd=root,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "KEY=VALUE" in done.stdout


def test_file_entry_without_the_package_installed_says_how_to_install_it(monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] == "benchmarks"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [NotInstalled(), *sys.meta_path])
    with pytest.raises(SystemExit, match=r"pip install -e \."):
        runpy.run_path(str(ENTRY), run_name="__main__")


class NotInstalled:
    """Import hook of an environment where this project is not."""

    def find_spec(self, name, path=None, target=None):
        if name == "benchmarks":
            raise ModuleNotFoundError(name=name)
