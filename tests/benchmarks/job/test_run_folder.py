import os

import pytest

from benchmarks.job.run_folder import RunFolderError, RunState, open_run
from benchmarks.settings.reading import load_config, parse_config

BASE = "model: {name: resnet20}\ndataset: {name: digits}\nexperiment: {name: test, random_seeds: [1, 2]}\n"


@pytest.fixture
def config(tmp_path):
    return parse_config(BASE, [f"experiment.save_dir={tmp_path / 'results'}"])


def test_fresh_folder_becomes_resumable_then_finished(config):
    folder = open_run(config, seed=1)
    assert folder.path.name == "seed_1"
    assert folder.state is RunState.RESUMABLE
    folder.write_json("unfinished/dense.json", {"accuracy": 0.5})
    assert open_run(config, seed=1).read_json("unfinished/dense.json") == {"accuracy": 0.5}
    folder.finish({"seed": 1})
    assert open_run(config, seed=1).state is RunState.FINISHED
    assert not folder.unfinished.exists()


def test_saved_configuration_repeats_exactly_this_run(config):
    saved = load_config(open_run(config, seed=2).path / "config.yaml")
    assert saved.experiment.random_seeds == (2,)
    assert saved.differences(config) == []


def test_finished_run_keeps_its_files_until_overwrite(config):
    folder = open_run(config, seed=1)
    folder.write_json("budgets.json", {"a": 0.5})
    folder.finish({"seed": 1})
    (folder.path / "notes.txt").write_text("mine")
    assert open_run(config, seed=1).read_json("budgets.json") == {"a": 0.5}
    again = open_run(config, seed=1, overwrite=True)
    assert again.state is RunState.RESUMABLE
    assert again.read_json("budgets.json") is None
    assert (folder.path / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("finished", [False, True])
def test_run_of_another_configuration_is_refused_naming_the_difference(config, finished):
    folder = open_run(config, seed=1)
    if finished:
        folder.finish({"seed": 1})
    other = parse_config(BASE, [f"experiment.save_dir={config.experiment.save_dir}", "pruning.method=random"])
    with pytest.raises(RunFolderError, match=r"pruning\.method: 'hobs-rspar' != 'random'") as caught:
        open_run(other, seed=1)
    assert "--overwrite" in str(caught.value)
    assert folder.state is (RunState.FINISHED if finished else RunState.RESUMABLE)
    assert open_run(other, seed=1, overwrite=True).state is RunState.RESUMABLE


def test_unreadable_config_in_the_folder_is_reported(config):
    folder = open_run(config, seed=1)
    (folder.path / "config.yaml").write_text("model: [")
    with pytest.raises(RunFolderError, match="cannot be read"):
        open_run(config, seed=1)


def test_damaged_json_is_reported(config):
    folder = open_run(config, seed=1)
    (folder.path / "budgets.json").write_text('{"a": ')
    with pytest.raises(RunFolderError, match=r"budgets\.json is damaged"):
        folder.read_json("budgets.json")


def test_save_dir_below_a_file_is_refused_before_anything_is_written(tmp_path):
    (tmp_path / "file").write_text("")
    config = parse_config(BASE, [f"experiment.save_dir={tmp_path / 'file' / 'results'}"])
    with pytest.raises(RunFolderError, match="cannot write results"):
        open_run(config, seed=1)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="needs a user whom permissions bind")
def test_read_only_save_dir_is_refused(tmp_path):
    tmp_path.chmod(0o500)
    config = parse_config(BASE, [f"experiment.save_dir={tmp_path}"])
    with pytest.raises(RunFolderError, match="cannot write results"):
        open_run(config, seed=1)


def test_table_has_a_header_and_a_line_a_row(config):
    folder = open_run(config, seed=1)
    folder.write_csv("history.csv", [{"episode": 0, "return": 0.5}, {"episode": 1, "return": -0.1}])
    assert (folder.path / "history.csv").read_text() == "episode,return\n0,0.5\n1,-0.1\n"
