"""Arguments of commands: what cannot be used is refused before anything is measured."""

import argparse

import pytest

from benchmarks.common.arguments import check_distinct, writable
from benchmarks.studies.agents import command as compare_agents
from benchmarks.studies.any_network import command as any_network
from benchmarks.studies.any_network import zoo
from benchmarks.studies.audit import command as audit
from benchmarks.studies.evidence import feature_evidence, ppo_parity, reward_signal
from benchmarks.studies.methods import command as compare_methods
from benchmarks.studies.methods import costs as method_costs
from benchmarks.studies.speed import command as speed

WRITING = {
    audit: ["--task", "digits-resnet20"],
    any_network: [],
    zoo: [],
    feature_evidence: [],
    method_costs: [],
    ppo_parity: [],
    reward_signal: [],
    speed: ["env"],
}


@pytest.mark.parametrize(("command", "arguments"), WRITING.items(), ids=lambda found: getattr(found, "__name__", ""))
def test_a_result_that_cannot_be_written_is_refused_at_once(command, arguments, capsys):
    with pytest.raises(SystemExit) as ended:
        command.main([*arguments, "--json", "/dev/null/x/result.json"])
    assert ended.value.code == 2
    assert "argument --json: cannot write results" in " ".join(capsys.readouterr().err.split())


def test_a_file_to_write_is_no_folder_and_may_be_at_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert writable("~/new/result.json") == tmp_path / "new" / "result.json"
    assert list((tmp_path / "new").iterdir()) == []
    with pytest.raises(argparse.ArgumentTypeError, match="is a folder"):
        writable(str(tmp_path))


THREADED = {
    compare_agents: ["--config", "x"],
    compare_methods: ["--task", "digits-resnet20", "--out", "x"],
    feature_evidence: [],
    method_costs: [],
}


@pytest.mark.parametrize(("command", "arguments"), THREADED.items(), ids=lambda found: getattr(found, "__name__", ""))
def test_threads_are_at_least_one(command, arguments, capsys):
    with pytest.raises(SystemExit):
        command.main([*arguments, "--threads", "-1"])
    assert "must be at least 1, got -1" in capsys.readouterr().err


def test_a_value_named_twice_is_refused():
    check_distinct("--seeds", [1, 2])
    with pytest.raises(ValueError, match=r"--seeds must name each once, got \[1, 1\]"):
        check_distinct("--seeds", [1, 1])


def test_a_machine_without_the_gpu_is_told_in_one_line(capsys, tmp_path):
    assert feature_evidence.main(["--gpu", "7", "--json", str(tmp_path / "evidence.json")]) == 2
    assert capsys.readouterr().err.startswith("error: ")


def test_a_task_without_its_data_is_told_in_one_line(capsys, monkeypatch):
    def missing(task):
        raise FileNotFoundError("no data")

    monkeypatch.setattr("prune_gym.tasks.registry.make_task", missing)
    assert method_costs.main([]) == 2
    assert capsys.readouterr().err == "error: no data\n"
