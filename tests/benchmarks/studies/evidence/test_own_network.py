import json

import pytest

from benchmarks.prune.options import parser
from benchmarks.studies.evidence import own_network


@pytest.mark.parametrize("name", own_network.RUNS)
def test_every_run_is_a_command_of_the_program(name):
    command = f"{own_network.SHARED} {own_network.LOOKS} {own_network.RUNS[name]}"
    assert parser(None).parse_args(command.split()).onnx is not None


def test_what_is_there_is_not_made_again_and_rows_say_what_the_runs_say(tmp_path, monkeypatch, capsys):
    network = {"accuracy": 0.9, "held_out_accuracy": 0.91}
    prune = {
        "asked_for": "50 % of the FLOPs removed",
        "scored_by": "accuracy",
        "scored_on": "test",
        "images": 100,
        "standard_error": 0.03,
        "params_reduction": 0.8,
        "latency_share": 0.6,
        "batch_size": 32,
        "warnings": [],
        "tier": "reconstructed",
        "onnx": {"largest_difference": 1e-7},
    }
    result = {
        **dict.fromkeys(("dense", "one_shot", "final"), network),
        "prune": prune,
        "flops_reduction": 0.5,
        "search": {"measured_evaluations": 0},
        "seconds": {"all, CPU time": 100.0, "reconstruct": 60.0},
    }
    started = []

    def python(arguments, folder, threads):
        started.append(arguments)
        if "--out" in arguments:
            path = folder / arguments[arguments.index("--out") + 1] / "result.json"
            path.parent.mkdir()
            path.write_text(json.dumps(result))
        else:
            (folder / "weights.pth").touch()

    monkeypatch.setattr(own_network, "_python", python)
    assert own_network.main([str(tmp_path), "--only", "flops", "latency"]) == 0
    assert len(started) == 3
    assert own_network.main([str(tmp_path), "--only", "flops", "max_drop"]) == 0
    assert len(started) == 4
    rows = json.loads((tmp_path / "prune_resnet18.json").read_text())["rows"]
    assert [row["name"] for row in rows] == ["flops", "latency", "max_drop"]
    assert rows[0]["cpu_seconds"] == 100
    assert "0.60x" in capsys.readouterr().out


def test_a_command_that_fails_ends_the_study(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(own_network, "EXAMPLES", tmp_path)
    assert own_network.main([str(tmp_path / "out")]) == 1
    assert "exit code" in capsys.readouterr().err
