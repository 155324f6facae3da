"""The command of a GPU's numbers: every number is there, and a CPU's are not passed off as a GPU's."""

import json

import pytest

from benchmarks.common.errors import BAD_INPUT
from benchmarks.studies.accelerator import measures
from benchmarks.studies.accelerator.command import main
from benchmarks.studies.accelerator.measures import Measured
from benchmarks.studies.speed.random_networks import ResidualNetwork, enliven

SMALL = ("--image-size", "16", "--analysis-images", "24", "--reward-images", "32", "--steps", "3", "--batch-size", "8")


def test_a_trial_measures_every_number_and_says_that_it_is_one(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(measures, "random_network", lambda name: enliven(ResidualNetwork(4, 16)))
    monkeypatch.setattr(measures, "SMALL_PLANS", 2)
    monkeypatch.setattr(measures, "SMALL_PIXELS", 8)
    path = tmp_path / "gpu.json"
    assert main(["--gpu", "cpu", "--trial", "--threads", "1", "--repeats", "2", *SMALL, "--json", str(path)]) == 0
    content = json.loads(path.read_text())
    assert (content["device"], content["trial"], content["sizes"]["steps"]) == ("cpu", True, 3)
    rows = {row["name"]: row for row in content["rows"]}
    assert list(rows) == [
        "analysis_24_images",
        "plan_on_32_images",
        "plan_over_its_forward_pass",
        "plan_of_resnet20_one_of_2",
        "plans_together",
        "reconstruction_3_steps",
        "throughput_at_8",
        "dense_throughput",
    ]
    assert all(row["value"] > 0 and row["kept"] is None for row in rows.values())
    without = {"plan_over_its_forward_pass", "plan_of_resnet20_one_of_2", "plans_together"}
    assert {name for name, row in rows.items() if row["peak_bytes"] is None} == without
    assert "no numbers of a GPU" in capsys.readouterr().out


def test_a_cpu_is_refused(capsys):
    assert main(["--gpu", "cpu", *SMALL]) == BAD_INPUT
    assert "its numbers are not a GPU's" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("row", "kept"),
    [
        (Measured("seconds", 19.0, "s", 20.0), True),
        (Measured("seconds", 21.0, "s", 20.0), False),
        (Measured("throughput", 3.2, "x dense", 3.1), True),
        (Measured("throughput", 3.0, "x dense", 3.1), False),
        (Measured("throughput", 3.0, "images/s"), None),
    ],
)
def test_a_limit_is_kept_from_the_right_side(row, kept):
    assert row.kept is kept
