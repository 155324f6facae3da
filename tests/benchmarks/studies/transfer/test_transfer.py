"""Policies carried to other tasks: what a run records, that it resumes, and what is refused."""

import json
import shutil
from dataclasses import replace

import pytest
import torch

from benchmarks.configs.files import CONFIG_DIR
from benchmarks.studies.transfer.command import main
from benchmarks.studies.transfer.config import TransferConfig
from benchmarks.studies.transfer.tables import summarise
from prune_gym.problem import PruningProblem
from tests.benchmarks import tiny_task

STUDY = """\
name: tiny
save_dir: "{folder}"
num_threads: 1
source: {{task: tiny-cnn, targets: [0.4, 0.6], evaluations: 6}}
tasks: [tiny-shallow]
targets: [0.5]
evaluations: 4
seeds: [0, 1]
options: {{hidden_dim: 8}}
"""


@pytest.fixture(autouse=True, scope="module")
def surroundings():
    tiny_task.register()
    tiny_task.register("tiny-shallow", tiny_task.shallow)


def study(folder):
    path = folder / "transfer.yaml"
    path.write_text(STUDY.format(folder=folder / "out"))
    return path, folder / "out"


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    path, folder = study(tmp_path_factory.mktemp("transfer"))
    assert main(["--config", str(path)]) == 0
    return path, folder


def rows(folder):
    return {path.name: json.loads(path.read_text()) for path in sorted((folder / "cells").glob("*.json"))}


def test_every_seed_has_a_policy_that_acts_and_learns_on_the_other_network(finished):
    _, folder = finished
    assert len(list((folder / "agents").glob("*.safetensors"))) == 2
    for row in rows(folder).values():
        assert len(row["zero_shot"]["kept"]) == 2
        assert row["zero_shot"]["flops_reduction"] >= 0.5
        for name in ("transferred", "scratch"):
            curve = row[name]["curve"]
            assert len(curve) == 4
            assert curve == sorted(curve)
            assert curve[0] == row["start"]["soft_accuracy"]
            assert row[name]["best"]["soft_accuracy"] == curve[-1]
            assert 0 <= row[name]["best"]["test_accuracy"] <= 1


def test_it_goes_on_with_what_is_left(finished, capsys):
    path, folder = finished
    before = rows(folder)
    name = "tiny-shallow-0.5-seed1.json"
    (folder / "cells" / name).unlink()
    capsys.readouterr()
    assert main(["--config", str(path)]) == 0
    shown = capsys.readouterr().out
    assert "seed0: start" not in shown
    assert "2 of 2 cells" in shown
    assert rows(folder) == before
    assert json.loads((folder / "transfer.json").read_text())["rows"][0]["runs"] == 2


def test_no_run_starts_when_time_is_over(tmp_path):
    path, folder = study(tmp_path)
    assert main(["--config", str(path), "--minutes", "0"]) == 0
    assert not (folder / "cells").exists()


def test_the_summary_compares_at_equal_evaluations():
    def run(transferred, scratch, zero_shot):
        plan = {"soft_accuracy": zero_shot, "test_accuracy": zero_shot}
        learned = {"best": {"test_accuracy": 0.5, "soft_accuracy": 0.5}}
        return {
            "task": "a",
            "target": 0.5,
            "start": {"soft_accuracy": 0.1, "test_accuracy": 0.1},
            "zero_shot": plan,
            "transferred": {**learned, "curve": transferred},
            "scratch": {**learned, "curve": scratch},
        }

    (found,) = summarise(5 * [run([0.1, 0.3, 0.4, 0.4], [0.1, 0.2, 0.2, 0.6], 0.3)], 4)
    assert found["soft_accuracy"]["transferred 1"]["value"] == pytest.approx(0.1)
    assert found["chances"]["transferred 4 > scratch 4"]["value"] == 0
    assert found["chances"]["zero_shot > start"]["value"] == 1


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("tasks=[tiny-shalow]", "did you mean 'tiny-shallow'"),
        ("source.task=tiny-cn", "did you mean 'tiny-cnn'"),
        ("options.hiden_dim=8", "did you mean 'hidden_dim'"),
        ("targets=[]", "targets"),
        ("seeds=[0, 1, 0]", "'seeds' must name each once"),
        ("targets=[0.9999]", "task 'tiny-shallow'"),
        ("source.targets=[0.9999]", "task 'tiny-cnn'"),
        ("sed=[1]", "unknown key 'sed'"),
    ],
)
def test_bad_input_is_refused_before_anything_runs(override, said, tmp_path, capsys):
    path, folder = study(tmp_path)
    assert main(["--config", str(path), override]) == 2
    assert said in capsys.readouterr().err
    assert not (folder / "cells").exists()


def test_runs_of_another_study_are_not_mixed_in(finished, capsys):
    path, _ = finished
    assert main(["--config", str(path), "evaluations=5"]) == 2
    assert "different: evaluations" in capsys.readouterr().err


def test_neither_task_is_exchanged_for_another_network(finished, tmp_path, capsys, monkeypatch):
    path, folder = finished
    copied = shutil.copytree(folder, tmp_path / "out")
    name, original = "tiny-shallow-0.5-seed1.json", PruningProblem._build_task
    (copied / "cells" / name).unlink()

    def retrained(task, model):
        def build(problem):
            return replace(original(problem), model=model()) if problem.name == task else original(problem)

        return build

    def run():
        capsys.readouterr()
        code = main(["--config", str(path), f"save_dir={copied}"])
        return code, " ".join(capsys.readouterr().err.split())

    def another_shallow():
        model = tiny_task.shallow().model
        torch.nn.init.ones_(model[-1].bias)
        return model

    monkeypatch.setattr(PruningProblem, "_build_task", retrained("tiny-shallow", another_shallow))
    code, said = run()
    assert code == 2
    assert "results of 'tiny-shallow' measured on the network" in said
    monkeypatch.setattr(PruningProblem, "_build_task", retrained("tiny-cnn", lambda: tiny_task.another().model))
    (copied / "agents" / "tiny-cnn-seed1.safetensors").unlink()
    code, said = run()
    assert code == 2
    assert "results of 'tiny-cnn' measured on the network" in said
    assert not (copied / "cells" / name).exists()


def test_policies_that_do_not_say_their_network_carry_nothing_over(finished, tmp_path, capsys):
    path, folder = finished
    copied = shutil.copytree(folder, tmp_path / "out")
    (copied / "cells" / "tiny-shallow-0.5-seed1.json").unlink()
    (copied / "agents" / "tiny-cnn-seed1.json").unlink()
    assert main(["--config", str(path), f"save_dir={copied}"]) == 2
    assert "holds results of 'tiny-cnn'" in " ".join(capsys.readouterr().err.split())


def test_the_shipped_study_is_valid():
    assert TransferConfig.load(CONFIG_DIR / "transfer_digits.yaml").tasks
