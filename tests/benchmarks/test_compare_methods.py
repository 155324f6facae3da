"""The comparison of methods: every cell a file, resumed where it stopped, summarised with intervals and tests."""

import csv
import json

import pytest

from benchmarks import compare_methods, method_cells
from benchmarks.compare_methods import main
from benchmarks.method_tables import comparison_table, summarise
from tests.benchmarks import tiny_task

pytestmark = pytest.mark.filterwarnings("ignore:.*more than 1 % off the target")
FAST = ("--evaluations", "2", "--finetune-epochs", "1", "--images", "60", "--own-training", "120", "--threads", "1")


@pytest.fixture(autouse=True)
def surroundings(tmp_path_factory, monkeypatch):
    tiny_task.register()
    monkeypatch.setenv("PRUNE_GYM_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


def compare(folder, *arguments, methods=("magnitude", "hobs-knapsack"), seeds=("0", "1")):
    chosen = ("--methods", *methods, "--seeds", *seeds, "--targets", "0.6")
    return main(["--task", "tiny-cnn", "--out", str(folder), *chosen, *FAST, *arguments])


def cell(method, seed, accuracy, target=0.6):
    stages = dict.fromkeys(method_cells.STAGES, accuracy)
    numbers = dict.fromkeys(
        ("flops", "flops_reduction", "parameters", "speedup", "evaluations", "images", "backward_passes", "seconds"), 1
    )
    return {"method": method, "seed": seed, "target": target, "accuracy": stages, "dense_accuracy": 1.0, **numbers}


def test_comparison_measures_every_cell_and_reports(tmp_path, capsys):
    assert compare(tmp_path) == 0
    assert len(list((tmp_path / "cells").glob("*.json"))) == 4
    result = json.loads((tmp_path / "comparison.json").read_text())
    for row in result["rows"]:
        assert set(row["accuracy"]) == {"raw", "bn", "refit", "finetuned"}
        assert 0.6 <= row["flops_reduction"] <= 0.62
        assert row["seeds"] == [0, 1]
    assert len(list(csv.DictReader((tmp_path / "comparison.csv").open()))) == 4
    shown = capsys.readouterr().out
    assert "magnitude" in shown
    assert "60 % of the FLOPs removed, 2 seeds" in shown


def test_repair_is_given_to_the_methods_own_selection(tmp_path):
    assert compare(tmp_path, seeds=("0",)) == 0
    stored = json.loads((tmp_path / "cells" / "magnitude-0.6-seed0.json").read_text())
    assert stored["plan"]
    assert stored["accuracy"]["refit"] > stored["accuracy"]["raw"]


def test_stopped_runs_go_on_where_they_were(tmp_path, monkeypatch):
    assert compare(tmp_path, "--minutes", "0") == 0
    assert not (tmp_path / "cells").exists()
    assert compare(tmp_path, "--part", "1/2") == 0
    assert len(list((tmp_path / "cells").glob("*.json"))) == 2
    measured = []
    original = compare_methods.measure
    monkeypatch.setattr(compare_methods, "measure", lambda *call: measured.append(call[1]) or original(*call))
    assert compare(tmp_path) == 0
    assert len(measured) == 2


def test_a_failing_cell_costs_only_itself_and_is_tried_again(tmp_path, monkeypatch, capsys):
    def fail(problem, method, *rest):
        if method == "magnitude":
            raise ValueError("too thin")
        return cell(method, rest[1], 0.5)

    monkeypatch.setattr(compare_methods, "measure", fail)
    assert compare(tmp_path, seeds=("0",)) == 1
    assert "failed: magnitude, target 0.6, seed 0: ValueError: too thin" in capsys.readouterr().out
    monkeypatch.setattr(compare_methods, "measure", lambda problem, method, *rest: cell(method, rest[1], 0.5))
    assert compare(tmp_path, seeds=("0",)) == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--methods", "magnitud"), "unknown method 'magnitud'; did you mean 'magnitude'"),
        (("--weights", "a.safetensors"), "gives every seed a dense network: 2 files, got 1"),
        (("--seeds", "1", "1"), "--seeds are different numbers"),
    ],
)
def test_bad_arguments(arguments, said, tmp_path, capsys):
    assert compare(tmp_path, *arguments) == 2
    assert said in " ".join(capsys.readouterr().err.split())


def test_cells_of_another_budget_are_not_mixed_in(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(compare_methods, "measure", lambda problem, method, *rest: cell(method, rest[1], 0.5))
    assert compare(tmp_path) == 0
    assert compare(tmp_path, "--finetune-epochs", "3") == 2
    assert "cells of another task or budget" in " ".join(capsys.readouterr().err.split())
    assert compare(tmp_path, "--finetune-epochs", "3", "--overwrite") == 0


def test_methods_are_tested_against_rspar_over_the_same_seeds():
    cells = [cell("hobs-rspar", seed, 0.9 + 0.01 * seed) for seed in range(5)]
    cells += [cell("magnitude", seed, 0.5 + 0.01 * (seed % 2)) for seed in range(5)]
    cells += [cell("taylor", 0, 0.7)]
    rows = {row["method"]: row for row in summarise(cells)}
    comparison_ = rows["magnitude"]["accuracy"]["finetuned"]["comparison"]
    assert comparison_["mean_difference"] < 0
    assert comparison_["p_value_holm"] < 0.01
    low, high = rows["magnitude"]["accuracy"]["raw"]["confidence_interval"]
    assert low < 0.504 < high
    assert rows["taylor"]["accuracy"]["raw"]["comparison"] is None
    assert rows["hobs-rspar"]["accuracy"]["raw"]["comparison"] is None
    assert comparison_table(0.6, list(rows.values())).row_count == 3


@pytest.mark.parametrize("method", [name for name in method_cells.method_names() if not name.startswith("hobs")])
def test_every_method_has_a_schedule_for_every_budget(method):
    small, large = (
        method_cells.own_options(method, 12, 10_000, method_cells.Budget(own_training=images, evaluations=plans))
        for images, plans in ((1200, 10), (60_000, 200))
    )
    assert small[1] <= large[1] <= 10_000
    assert (small == large) == (method in ("unpruned", "random-channels", "magnitude", "dep-graph", "adaprune"))
