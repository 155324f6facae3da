"""The studies of amortisation: taught on one split, judged on another, and summaries that are what they say."""

import json
from dataclasses import replace

import numpy as np
import pytest

from agents.amortised.storage import load_model
from benchmarks.studies.amortised import teaching
from benchmarks.studies.amortised.command import main
from benchmarks.studies.amortised.family import Family
from benchmarks.studies.amortised.tables import (
    clustered,
    first_plan_summary,
    first_plan_table,
    search_summary,
    search_table,
)
from prune_gym.bench.networks import BenchNetwork, write_networks
from prune_gym.bench.plans import NetworkPlans, write_plans
from prune_gym.bench.problem import BenchProblem
from prune_gym.tasks.family import family_names, tasks
from prune_gym.tasks.family.draws import draw
from tests.agents.amortised import family


def renamed(bench, name, split, held_out=False):
    changed = {"name": name, "split": split, "kind": name.split("-")[0], "held_out_kind": held_out}
    return BenchNetwork(**{**vars(bench), "description": bench.description.model_copy(update=changed)})


def measured(bench):
    kept, targets = family.plans(bench)
    cost = BenchProblem(bench).cost
    metrics = family.truth(bench, kept)
    return NetworkPlans(
        network=bench.name,
        kept=kept,
        source=("perturbed",) * len(kept),
        target=targets,
        flops_reduction=cost.reduction(kept),
        params_reduction=cost.params_cost.reduction(kept),
        metrics=metrics,
        test_metrics=metrics,
        layer_errors=np.full(kept.shape, np.nan),
        reconstructed=np.full((len(kept), 4), np.nan),
    )


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    """Three training networks, a validation network and a test network with a surrogate."""
    folder = tmp_path_factory.mktemp("bench")
    networks = [renamed(family.network(seed), f"made-{seed:02}", "train") for seed in range(3)]
    networks.append(renamed(family.network(3), "made-10", "validation"))
    tested = family.problem().network
    reference = BenchProblem(tested).start_plan("uniform", 0.75)
    tested = BenchNetwork(**{**vars(tested), "references": {0.75: reference}})
    networks.append(renamed(tested, "made-13", "test"))
    write_networks(folder / "networks.safetensors", networks)
    write_plans(folder / "plans.parquet", map(measured, networks))
    return folder


@pytest.fixture(scope="module")
def taught(bench, tmp_path_factory):
    out = tmp_path_factory.mktemp("out")
    with pytest.MonkeyPatch.context() as patch:
        quick = {name: (sizes, replace(how, steps=5)) for name, (sizes, how) in teaching.VARIANTS.items()}
        patch.setattr(teaching, "VARIANTS", quick)
        patch.setattr("benchmarks.studies.amortised.lesson.VARIANTS", quick)
        assert main(["teach", "--out", str(out), "--bench", str(bench), "--to", str(out / "shipped.safetensors")]) == 0
    return out


def test_models_are_taught_on_the_training_networks_alone(taught):
    lesson = json.loads((taught / "lesson.json").read_text())
    assert lesson["validation_networks"] == ["made-10"]
    for name in ("linear", "attention"):
        assert load_model(taught / f"{name}.safetensors").trained_on["networks"] == ["made-00", "made-01", "made-02"]
    assert lesson["variants"]["attention"]["parameters"] <= 200_000
    assert (taught / "shipped.safetensors").read_bytes() == (taught / "attention.safetensors").read_bytes()


def test_families_without_a_split_are_refused(tmp_path, capsys):
    network = renamed(family.network(0), "made-00", "train")
    write_networks(tmp_path / "networks.safetensors", [network])
    write_plans(tmp_path / "plans.parquet", [measured(network)])
    assert main(["teach", "--out", str(tmp_path), "--bench", str(tmp_path)]) == 2
    assert "no measured networks in split 'validation'" in capsys.readouterr().err


def test_agents_are_compared_at_equal_evaluations_and_are_not_run_again(taught, bench, capsys):
    arguments = ["search", "--out", str(taught), "--bench", str(bench), "--targets", "0.75", "--seeds", "1"]
    if Family(bench).problem("made-13").surrogate_metrics is not None:
        assert main([*arguments, "--evaluations", "3"]) == 0
    cells = list((taught / "search" / "cells").glob("*.json"))
    for cell in cells:
        curves = json.loads(cell.read_text())["curves"]
        assert {len(curve) for curve in curves.values()} == {3}
        assert len({curve[0] for curve in curves.values()}) == 1
        assert all((np.diff(curve) >= 0).all() for curve in curves.values())


def test_first_plans_are_really_measured(taught, tmp_path, monkeypatch):
    monkeypatch.setitem(tasks.RECIPES, "digits", replace(tasks.RECIPES["digits"], epochs=1))
    from prune_gym import PruningProblem

    problem = PruningProblem("family/plain-00").load()
    kept = np.stack([problem.start_plan(name, 0.75) for name in ("knapsack", "uniform")])
    described = renamed(family.network(0), "plain-00", "test")
    description = described.description.model_copy(update={"layer_names": tuple(problem.layer_names)})
    network = BenchNetwork(
        description=description,
        units=problem.cost.units,
        curves=tuple(problem.curves),
        features=np.zeros((problem.num_layers, described.features.shape[1])),
        flops_form=problem.cost.flops_form,
        params_form=problem.cost.params_form,
        dense=described.dense,
    )
    metrics = np.tile([0.5, 0.5, 1.0], (2, 1))
    plans = NetworkPlans(
        "plain-00",
        kept,
        ("knapsack", "uniform"),
        np.full(2, 0.75),
        problem.cost.reduction(kept),
        problem.cost.params_cost.reduction(kept),
        metrics,
        metrics,
        np.full(kept.shape, np.nan),
        np.full((2, 4), np.nan),
    )
    write_networks(tmp_path / "networks.safetensors", [network])
    write_plans(tmp_path / "plans.parquet", [plans])
    assert main(["first", "--out", str(taught), "--bench", str(tmp_path)]) == 0
    (cell,) = (taught / "first" / "cells").glob("*.json")
    for row in json.loads(cell.read_text())["rows"]:
        knapsack = row["plans"]["knapsack"]
        assert knapsack["soft"] == pytest.approx(problem.evaluator.evaluate(knapsack["kept"]).soft_accuracy, abs=1e-5)
        assert set(row["plans"]) == {"knapsack", "uniform", "linear", "amortised"}
        assert row["best"] >= row["knapsack"] == knapsack["soft"]


def test_fresh_networks_are_searched_and_their_best_plan_counts_one(taught, monkeypatch, capsys):
    monkeypatch.setitem(tasks.RECIPES, "digits", replace(tasks.RECIPES["digits"], epochs=1))
    monkeypatch.setattr("benchmarks.studies.amortised.fresh.family_names", lambda split: FRESH_DIGITS)
    arguments = ["fresh", "--out", str(taught), "--per-kind", "1", "--targets", "0.75", "--evaluations", "3"]
    assert main(arguments) == 0
    (cell,) = (taught / "fresh" / "cells").glob("*.json")
    (row,) = json.loads(cell.read_text())["rows"]
    assert set(row["plans"]) == {"knapsack", "uniform", "linear", "amortised"}
    assert set(row["curves"]) == {"gp", "pretrained"}
    assert row["best"] >= max(curve[-1] for curve in row["curves"].values())
    assert all(curve[0] == pytest.approx(row["knapsack"], abs=1e-5) for curve in row["curves"].values())


def test_a_file_that_holds_no_model_leaves_no_study_behind(tmp_path, capsys):
    for name in ("attention", "linear"):
        (tmp_path / f"{name}.safetensors").write_bytes(b"no model")
    assert main(["fresh", "--out", str(tmp_path)]) == 2
    assert "not a safetensors file" in " ".join(capsys.readouterr().err.split())
    assert not list((tmp_path / "fresh").glob("*"))


FRESH_DIGITS = tuple(name for name in family_names("fresh") if draw(name).dataset == "digits")[:1]


def plan(soft):
    return {"kept": [1], "soft": soft, "test_soft": soft - 0.1, "test_top1": soft}


def first(network, *softs, held_out=False):
    rows = [
        {"target": 0.75, "knapsack": 0.5, "best": 0.6, "plans": {"knapsack": plan(0.5), "ours": plan(soft)}}
        for soft in softs
    ]
    return {"network": network, "kind": "made", "held_out_kind": held_out, "rows": rows}


def test_first_plans_count_by_network_and_contests_without_gain_do_not():
    results = [first("a", 0.55, 0.6), first("b", 0.45, 0.50), first("c", 0.6, held_out=True)]
    results[0]["rows"].append({**results[0]["rows"][0], "best": 0.5005})
    known, held = first_plan_summary(results)
    assert (known["group"], known["networks"], known["contests"]) == ("known kinds", 2, 4)
    assert known["better"]["value"] == 0.5
    assert known["better_contests"]["value"] == 0.5
    assert known["score"]["value"] == pytest.approx(np.mean([np.mean([0.5, 1.0]), np.mean([-0.5, 0.0])]))
    assert known["test_soft_gain"]["value"] == pytest.approx(np.mean([0.075, -0.025]))
    assert held["score"] == pytest.approx({"value": 1.0, "low": 1.0, "high": 1.0})
    assert "known kinds (2)" in first_plan_table([known, held]).markdown()


def test_searches_are_summarised_by_network_then_seed():
    def result(network, ours, theirs):
        return {
            "network": network,
            "held_out_kind": False,
            "knapsack": 0.5,
            "best": 0.6,
            "curves": {"gp": theirs, "pretrained": ours},
        }

    results = [
        result("a", [0.5] * 7 + [0.58] * 2, [0.5] * 9),
        result("a", [0.5] * 9, [0.5] * 9),
        result("b", [0.5] * 9, [0.6] * 9),
    ]
    gp, ours = search_summary(results, 9)
    assert gp["ahead"]["8 to 9"]["value"] == pytest.approx(np.mean([0.75, 0.0]))
    assert ours["scores"]["8"]["value"] == pytest.approx(np.mean([0.4, 0.0]))
    assert "pretrained" in search_table([gp, ours]).markdown()


def test_intervals_are_wider_between_networks_than_between_their_runs():
    between = clustered([[0.0] * 5, [1.0] * 5])
    within = clustered([[0.0, 1.0] * 10, [0.0, 1.0] * 10])
    assert between["value"] == within["value"] == 0.5
    assert between["high"] - between["low"] > within["high"] - within["low"]
