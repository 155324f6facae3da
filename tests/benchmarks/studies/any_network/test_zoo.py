"""Published networks, narrow: cut to the oracle's numbers; and the command over whole ones."""

import json

import pytest
import torch

from benchmarks.studies.any_network import zoo
from benchmarks.studies.any_network.architectures import architectures
from benchmarks.studies.any_network.judge import RIGHT, WRONG, enliven, judge
from benchmarks.studies.any_network.zoo import main_reason, zoo_summary, zoo_table
from tests.narrow_networks import NARROW, NARROW_ZOO


@pytest.mark.parametrize("name", [*NARROW_ZOO, *NARROW])
def test_narrow_networks_are_cut_to_the_oracles_numbers(name):
    pytest.importorskip("timm")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = enliven({**NARROW, **NARROW_ZOO}[name]())
        # A GroupNorm with one channel a group wants more than one place.
        size = 64 if name.endswith("gn") else 32
        found = judge(model, torch.randn(2, 3, size, size).double(), singles=0)
    assert found.verdict == RIGHT, found.message
    assert found.parameters_kept < 0.75


def test_the_zoo_is_large_enough():
    names = list(architectures())
    assert sum(name.startswith("timm/") for name in names) >= 60
    assert sum(name.startswith("torchvision/") for name in names) >= 40
    assert {each.task for each in architectures().values()} == {"classification", "video", "segmentation", "detection"}


def row(name, verdict=RIGHT, kept=0.3, **other):
    base = {"network": name, "layers": 3, "pins": [], "flops_removed": 0.7, "gap": 1e-15, "message": ""}
    return {**base, "verdict": verdict, "parameters_kept": kept, "discovery_cpu_seconds": 0.5, **other}


def test_tables_tell_what_was_cut_what_stays_and_what_failed():
    pins = [["a", "stay in 'b'"], ["c", "stay in 'd'"], ["e", "reach an output"]]
    rows = [row("timm/one", pins=pins), row("timm/two", kept=0.9), row("timm/three", WRONG, message="2 of the output")]
    assert main_reason(pins) == "stay in ..."
    table = zoo_table(rows).markdown()
    assert "| timm/one | 3 | 30 | 70 | 1e-15 | 0.5 | 3 | stay in ... |" in table
    assert "| timm/three | 3 | – | – | – | – | WRONG | 2 of the output |" in table
    summary = zoo_summary(rows)
    assert "of 3 networks 2 are cut to the oracle's numbers" in summary
    assert "1 wrongly, 0 not at all; 1 keep under 75 %" in summary


def test_a_run_goes_on_where_the_last_one_ended(tmp_path, monkeypatch):
    path, asked = tmp_path / "zoo.json", []

    def judged(architecture, limit):
        asked.append(architecture.key)
        return row(architecture.key, WRONG if len(asked) == 1 else RIGHT, cpu_seconds=1.0)

    monkeypatch.setattr(zoo, "_judged_apart", judged)
    names = ["torchvision/resnet18", "torchvision/squeezenet"]
    assert zoo.main([names[0], "--json", str(path)]) == 1
    assert zoo.main([*names, "--json", str(path)]) == 1
    assert asked == ["torchvision/resnet18", "torchvision/squeezenet1_0", "torchvision/squeezenet1_1"]
    assert zoo.main([*names, "--failed", "--json", str(path)]) == 0
    assert asked[3:] == ["torchvision/resnet18"]
    assert [each["network"] for each in json.loads(path.read_text())["networks"]] == asked[:3]


def test_an_unknown_name_is_refused(capsys):
    with pytest.raises(SystemExit) as ended:
        zoo.main(["keras/resnet50"])
    assert ended.value.code == 2
    assert "no network is called 'keras/resnet50'" in capsys.readouterr().err
