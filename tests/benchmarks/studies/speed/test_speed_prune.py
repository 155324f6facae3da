"""The pruning part of the speed benchmark: its rows are there, named, and consistent with each other."""

import json

import pytest

from benchmarks.common.errors import BAD_INPUT
from benchmarks.studies.speed import command as speed
from benchmarks.studies.speed import prune
from benchmarks.studies.speed.random_networks import ResidualNetwork, enliven

SMALL = ("--network", "resnet18", "--image-size", "32", "--repeats", "1", "--surgery-repeats", "1")


def test_every_promised_row_is_measured(tmp_path, monkeypatch):
    monkeypatch.setattr(prune, "random_network", lambda name: enliven(ResidualNetwork(4, 32)))
    path = tmp_path / "rows.json"
    arguments = ("prune", "--threads", "1", "--gpu", "cpu", "--json", str(path), *SMALL, "--batch-sizes", "1", "2")
    assert speed.main(arguments) == 0
    rows = {row["name"]: row for row in json.loads(path.read_text())["rows"]}
    names = ["prune_resnet18_s"]
    for batch in (1, 2):
        pairs = [(what, suffix) for suffix in ("", "_auto") for what in ("speedup", "share_of_ideal")]
        names += [f"resnet18_{what}_b{batch}{suffix}" for what, suffix in pairs]
        names += [f"resnet18_ceiling_b{batch}_auto", f"choose_auto_resnet18_b{batch}_s"]
    assert list(rows) == names
    for batch in (1, 2):
        for suffix in ("", "_auto"):
            share, speedup = (rows[f"resnet18_{what}_b{batch}{suffix}"] for what in ("share_of_ideal", "speedup"))
            ideal = float(share["baseline"].removeprefix("ratio of FLOPs, ").removesuffix("x"))
            assert ideal >= 1 / (1 - 0.76) - 0.005
            assert share["value"] == pytest.approx(speedup["value"] / ideal, rel=2e-3)


@pytest.mark.parametrize("option", [("--repeats", "0"), ("--batch-sizes", "0"), ("--reduction", "0.9999")])
def test_bad_options_are_explained(capsys, option):
    assert speed.main(["prune", "--threads", "1", "--gpu", "cpu", *SMALL, *option]) == BAD_INPUT
    assert "error: " in capsys.readouterr().err
