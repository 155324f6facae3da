"""The speed benchmark: rows that add up, on a small network."""

import json

import pytest
from torch import nn

from benchmarks.studies.speed import command as speed
from benchmarks.studies.speed import hessian
from benchmarks.studies.speed.random_networks import ResidualNetwork, enliven
from benchmarks.studies.speed.rows import SpeedRow, interleaved, median_ratio


def run(tmp_path, *arguments):
    path = tmp_path / "rows.json"
    code = speed.main(["hessian", "--threads", "1", "--gpu", "cpu", "--json", str(path), *arguments])
    return code, json.loads(path.read_text()) if path.exists() else None


@pytest.fixture
def narrow(monkeypatch):
    """A narrow network of ImageNet's classes instead of the one asked for."""
    model = ResidualNetwork(4, 16)
    model.head = nn.Linear(16, 1000)
    monkeypatch.setattr(hessian, "random_network", lambda name: enliven(model))


SMALL = ("--network", "resnet18", "--image-size", "32", "--batch-size", "2", "--batches", "1", "--repeats", "1")


def test_rows_name_their_baseline_and_land_in_the_file(tmp_path, capsys, narrow):
    code, result = run(
        tmp_path, *SMALL, "--rows", "factors_vs_forward_backward", "factors_vs_forward_backward_subsampled"
    )
    assert code == 0
    assert result["threads"] == 1
    exact, sampled = result["rows"]
    assert exact["name"] == "factors_vs_forward_backward"
    assert sampled["name"] == "factors_vs_forward_backward_subsampled"
    for row in (exact, sampled):
        assert set(row) == {"name", "value", "unit", "baseline", "ratio"}
        assert row["value"] > 0
        assert row["ratio"] > 0
        assert "resnet18, 2 images at 32" in row["baseline"]
    assert "factors_vs_forward_backward" in capsys.readouterr().out


def test_factors_are_compared_with_curvlinops(tmp_path, narrow):
    pytest.importorskip("curvlinops")
    _, result = run(tmp_path, *SMALL, "--rows", "factors_vs_curvlinops")
    assert result["rows"][0]["ratio"] > 0


def test_exact_baselines_are_far_slower(tmp_path):
    _, result = run(tmp_path, "--repeats", "1", "--digits", "16", "--rows", "kfac_vs_dense_hessian")
    assert result["rows"][0]["ratio"] > 5


def test_subsampling_reports_its_error(tmp_path):
    _, result = run(tmp_path, "--digits", "100", "--rows", "subsampling_error")
    error, rank = result["rows"]
    assert 0 < error["value"] < 1
    assert 0.5 < rank["value"] < 1


def test_an_unknown_row_is_refused(tmp_path):
    with pytest.raises(SystemExit):
        run(tmp_path, "--rows", "factors_vs_luck")


def test_a_machine_without_the_gpu_is_told(capsys):
    assert speed.main(["hessian", "--gpu", "99"]) == 2
    assert "99" in capsys.readouterr().err


def test_two_sides_take_turns():
    calls = []
    first, second = interleaved(lambda: calls.append("a"), lambda: calls.append("b"), 2)
    assert calls == ["a", "b"] * 3
    assert len(first) == len(second) == 2


def test_the_ratio_is_that_of_neighbouring_runs():
    assert median_ratio([2.0, 30.0, 4.0], [1.0, 10.0, 1.0]) == 3.0


def test_a_table_shows_every_row():
    table = speed.speed_table("x", [SpeedRow("a", 1.5, "s", "b", 2.0), SpeedRow("c", 1.0, "MiB", "d", None)])
    assert len(table.texts()) == 2
