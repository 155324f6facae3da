import json
import os
import shutil

import pytest

from benchmarks.files.models import FRACTION, MEASURED, SECONDS
from benchmarks.files.sign import sign
from benchmarks.job.run_folder import RunFolderError, RunState, open_run
from benchmarks.settings.reading import load_config, parse_config
from prune_gym.support.files import NotWritableError
from tests.benchmarks.result_folders import result

BASE = "model: {name: resnet20}\ndataset: {name: digits}\nexperiment: {name: test, random_seeds: [1, 2]}\n"


@pytest.fixture
def config(tmp_path):
    return parse_config(BASE, [f"experiment.save_dir={tmp_path / 'results'}"])


def test_fresh_folder_becomes_resumable_then_finished(config):
    folder = open_run(config, seed=1)
    assert folder.path.name == "seed_1"
    assert folder.state is RunState.RESUMABLE
    folder.write_json("unfinished/dense.json", 0.5)
    assert open_run(config, seed=1).read_json("unfinished/dense.json", FRACTION) == 0.5
    folder.finish({"seed": 1})
    assert open_run(config, seed=1).state is RunState.FINISHED
    assert not folder.unfinished.exists()


def test_saved_configuration_repeats_exactly_this_run(config):
    saved = load_config(open_run(config, seed=2).path / "config.yaml")
    assert saved.experiment.random_seeds == (2,)
    assert saved.differences(config) == []


def test_finished_run_keeps_its_files_until_overwrite(config):
    folder = open_run(config, seed=1)
    folder.write_json("unfinished/seconds.json", {"a": 0.5})
    folder.write_table("budgets.json", {"a": 0.5})
    folder.write_json("result.json", result(seed=1))
    (folder.path / "notes.txt").write_text("mine")
    assert open_run(config, seed=1).read_json("unfinished/seconds.json", SECONDS) == {"a": 0.5}
    assert open_run(config, seed=1).read_result() == result(seed=1)
    again = open_run(config, seed=1, overwrite=True)
    assert again.state is RunState.RESUMABLE
    assert again.read_json("unfinished/seconds.json", SECONDS) is None
    assert again.read_result() is None
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


DAMAGE = {
    "cut off": (lambda text: text[:-20], r"measured\.json is damaged"),
    "a digit": (lambda text: text.replace("0.25", "0.75"), r"measured\.json does not match its checksum"),
    "no checksum": (lambda text: '[{"kept": [4], "accuracy": 9.0}]', r"measured\.json carries no checksum"),
    "not a number": (lambda text: text.replace("0.25", "NaN"), "NaN is no number"),
    "a key twice": (lambda text: text.replace('"loss"', '"accuracy": 0.25, "loss"'), "a key stands in it twice"),
    "endless": (lambda text: "[" * 100_000, "without end"),
    "bytes": (lambda text: "\udcff", r"measured\.json is damaged"),
}


@pytest.mark.parametrize(("damage", "message"), DAMAGE.values(), ids=DAMAGE)
def test_progress_that_was_changed_is_never_gone_on_from(config, damage, message):
    folder = open_run(config, seed=1)
    folder.write_json("unfinished/measured.json", [{"kept": [4], "accuracy": 0.25, "soft_accuracy": 0.2, "loss": 1.0}])
    path = folder.path / "unfinished" / "measured.json"
    path.write_text(damage(path.read_text()), errors="surrogateescape")
    with pytest.raises(RunFolderError, match=message) as caught:
        folder.read_json("unfinished/measured.json", MEASURED)
    assert "--overwrite" in str(caught.value)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"kept": [0], "accuracy": 0.5, "soft_accuracy": 0.5, "loss": 1.0}, r"\[0\]\.kept\[0\]"),
        (
            {"kept": [4], "accuracy": 0.5, "soft_accuracy": 9.0, "loss": 1.0},
            "soft_accuracy' must be less than or equal",
        ),
        ({"kept": [4], "accuracy": "0.5", "soft_accuracy": 0.5, "loss": 1.0}, "accuracy' must be a valid number"),
        ({"kept": [4], "accuracy": 0.5, "soft_accuracy": 0.5}, "loss' is missing"),
    ],
)
def test_progress_that_nothing_can_have_measured_is_refused_whatever_its_checksum(config, row, message):
    folder = open_run(config, seed=1)
    folder.write_json("unfinished/measured.json", [row])
    with pytest.raises(RunFolderError, match=message):
        folder.read_json("unfinished/measured.json", MEASURED)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, "'dense' is missing"),
        ({**result(), "final": {**result()["final"], "accuracy": 7.9}}, r"'final.accuracy' must be less than or equal"),
        ({**result(), "budgets": {"a": "0.5"}}, r"'budgets.a' must be a valid number, got '0.5'"),
        ([], "valid dictionary"),
    ],
)
def test_a_result_that_no_run_can_have_is_refused_and_named(config, content, message):
    folder = open_run(config, seed=1)
    folder.write_json("result.json", content)
    with pytest.raises(RunFolderError, match=message) as caught:
        folder.read_result()
    assert str(folder.path / "result.json") in str(caught.value)


def test_a_result_of_a_version_without_checksums_is_read_once_it_is_signed(config):
    folder = open_run(config, seed=1)
    path = folder.path / "result.json"
    path.write_text(json.dumps(result()))
    with pytest.raises(RunFolderError, match=r"result\.json carries no checksum"):
        folder.read_result()
    assert sign(path)
    assert folder.read_result() == result()


def test_a_folder_removed_in_mid_run_is_noticed_and_not_made_anew(config):
    folder = open_run(config, seed=1)
    shutil.rmtree(folder.path)
    for write in (lambda: folder.write_json("unfinished/dense.json", 0.5), lambda: folder.write_csv("history.csv", [])):
        with pytest.raises(RunFolderError, match="was removed or emptied while its run went on"):
            write()
    assert not folder.path.exists()


def test_save_dir_below_a_file_is_refused_before_anything_is_written(tmp_path):
    (tmp_path / "file").write_text("")
    config = parse_config(BASE, [f"experiment.save_dir={tmp_path / 'file' / 'results'}"])
    with pytest.raises(NotWritableError, match="cannot write results"):
        open_run(config, seed=1)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="needs a user whom permissions bind")
def test_read_only_save_dir_is_refused(tmp_path):
    tmp_path.chmod(0o500)
    config = parse_config(BASE, [f"experiment.save_dir={tmp_path}"])
    with pytest.raises(NotWritableError, match="cannot write results"):
        open_run(config, seed=1)


def test_table_has_a_header_and_a_line_a_row(config):
    folder = open_run(config, seed=1)
    folder.write_csv("history.csv", [{"episode": 0, "return": 0.5}, {"episode": 1, "return": -0.1}])
    assert (folder.path / "history.csv").read_text() == "episode,return\n0,0.5\n1,-0.1\n"
