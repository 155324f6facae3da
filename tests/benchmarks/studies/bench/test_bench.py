"""The bench is measured network by network, goes on where it was, and is built to the byte."""

import json
from dataclasses import asdict, replace

import numpy as np
import pytest

from benchmarks.studies.bench import measuring
from benchmarks.studies.bench.build import DATASHEET, MOST_BYTES
from benchmarks.studies.bench.command import main
from benchmarks.studies.bench.datasheet import gains_table, kinds_table, sources_table
from benchmarks.studies.bench.sampling import TARGETS, Sampler
from benchmarks.studies.bench.study import interleaved
from prune_gym import PruningProblem
from prune_gym.bench import load_networks, load_plans
from prune_gym.bench.networks import NETWORKS_FILE
from prune_gym.bench.plans import PLANS_FILE
from prune_gym.bench.problem import BenchProblem
from prune_gym.problem.features import FEATURES, raw_features
from prune_gym.tasks.family import design_of, family_names, split_of, tasks
from prune_gym.tasks.family.draws import kind_of

NETWORK = "plain-00"
PLANS = 140


@pytest.fixture(scope="module")
def quick():
    """Networks are trained for an epoch only, and one of them is reconstructed at two plans."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(tasks.RECIPES, "digits", replace(tasks.RECIPES["digits"], epochs=2))
        patch.setattr(measuring, "RECONSTRUCTED_PLANS", 2)
        yield


@pytest.fixture(scope="module")
def measured(quick, tmp_path_factory):
    folder = tmp_path_factory.mktemp("bench")
    assert measure(folder) == 0
    return folder


@pytest.fixture(scope="module")
def built(measured):
    to = measured / "files"
    assert main(["build", "--out", str(measured), "--to", str(to)]) == 0
    return to


@pytest.fixture(scope="module")
def problem(quick):
    return PruningProblem(f"family/{NETWORK}").load()


def measure(folder):
    return main(["measure", "--out", str(folder), "--networks", NETWORK, "--plans", str(PLANS)])


def test_a_measured_network_is_not_measured_again(measured, monkeypatch):
    cell = measured / "cells" / f"{NETWORK}.json"
    before = cell.read_bytes()
    monkeypatch.setattr("benchmarks.studies.bench.study.measure_network", lambda *args: pytest.fail("measured again"))
    assert measure(measured) == 0
    assert cell.read_bytes() == before


def test_another_number_of_plans_is_another_study(measured, capsys):
    assert main(["measure", "--out", str(measured), "--networks", NETWORK, "--plans", "99"]) == 2


def test_a_row_is_what_the_problem_measures_on_both_splits(built, problem):
    plans = load_plans(built / "plans.parquet")[NETWORK]
    assert len(plans) == PLANS == len({tuple(kept) for kept in plans.kept.tolist()})
    for row in (0, len(plans) - 1):
        scores = problem.evaluator.evaluate(plans.kept[row].tolist())
        expected = [scores.accuracy, scores.soft_accuracy, scores.loss]
        np.testing.assert_allclose(plans.metrics[row], expected, rtol=1e-4)
        logits = problem.evaluator.logits(plans.kept[row].tolist(), problem.task.test.images)
        assert plans.test_metrics[row, 0] == pytest.approx(
            (logits.argmax(1) == problem.task.test.labels).double().mean().item(), abs=1e-6
        )
    np.testing.assert_allclose(plans.flops_reduction, problem.cost.reduction(plans.kept), rtol=1e-5)
    assert (plans.flops_reduction >= plans.target - 1e-6).all()


def test_plans_of_every_sort_and_target_are_measured(built):
    plans = load_plans(built / "plans.parquet")[NETWORK]
    assert set(plans.source) == {"knapsack", "uniform", "perturbed", "random", "search"}
    assert set(np.round(plans.target, 4).tolist()) <= set(TARGETS)
    assert np.isfinite(plans.layer_errors).all()
    assert np.isfinite(plans.reconstructed[:, 0]).sum() == 2


def test_a_network_of_the_file_is_the_problem_that_was_measured(built, problem):
    network = load_networks(built / "networks.safetensors")[NETWORK]
    bench = BenchProblem(network)
    assert bench.layer_names == problem.layer_names
    plans = load_plans(built / "plans.parquet")[NETWORK]
    np.testing.assert_array_equal(bench.cost.flops(plans.kept), problem.cost.flops(plans.kept))
    np.testing.assert_array_equal(bench.cost.params(plans.kept), problem.cost.params(plans.kept))
    np.testing.assert_allclose(bench.predicted_loss(plans.kept), problem.predicted_loss(plans.kept), rtol=1e-5)
    raw = raw_features(problem.hobs, problem.cost)
    np.testing.assert_allclose(network.features, np.stack([raw[name] for name in FEATURES], axis=-1))
    assert network.dense[1] == pytest.approx(problem.dense.soft_accuracy, abs=1e-6)


def test_the_knapsack_of_the_bench_is_among_the_measured_plans(built):
    bench = BenchProblem(load_networks(built / "networks.safetensors")[NETWORK])
    plans = load_plans(built / "plans.parquet")[NETWORK]
    for target in (0.6, 0.75, 0.85):
        assert tuple(bench.start_plan("knapsack", target).tolist()) in {tuple(kept) for kept in plans.kept.tolist()}


def test_equal_cells_give_equal_bytes(measured, built):
    again = measured / "again"
    assert main(["build", "--out", str(measured), "--to", str(again)]) == 0
    for file in built.iterdir():
        assert (again / file.name).read_bytes() == file.read_bytes()


def test_nothing_measured_is_nothing_to_build(tmp_path):
    assert main(["build", "--out", str(tmp_path), "--to", str(tmp_path)]) == 2


def test_a_sampler_makes_the_same_plans_of_a_seed(problem):
    one, other = (list(Sampler(problem, 3, 140).proposals(lambda known: sum(known.kept))) for _ in range(2))
    assert one == other
    assert len({proposal.kept for proposal in one}) == 140


def test_every_beginning_of_the_order_holds_all_kinds_and_splits_in_proportion():
    names = interleaved(family_names())
    half = names[: len(names) // 2]
    assert {kind_of(name) for name in half} == {kind_of(name) for name in names}
    assert abs(sum(split_of(name) == "train" for name in half) - 30) <= 6


def test_the_files_of_the_package_hold_the_family():
    networks, plans = load_networks(), load_plans()
    assert sorted(networks) == sorted(plans) == sorted(family_names())
    for name, network in networks.items():
        assert network.split == split_of(name)
        assert network.description.recipe["design"] == json.loads(json.dumps(asdict(design_of(name))))
        assert len(plans[name]) >= 300
        measured = {tuple(kept) for kept in plans[name].kept.tolist()}
        for target in network.references:
            assert tuple(BenchProblem(network).start_plan("knapsack", target).tolist()) in measured


def test_the_files_of_the_package_are_small_and_their_surrogates_rank_plans_that_were_left_out():
    assert sum(path.stat().st_size for path in (NETWORKS_FILE, PLANS_FILE)) <= MOST_BYTES
    ranks = [network.surrogate.spearman[1] for network in load_networks().values()]
    assert np.median(ranks) >= 0.95


def test_the_datasheet_is_that_of_the_files():
    networks, plans = load_networks(), load_plans()
    sheet = (NETWORKS_FILE.parent / DATASHEET).read_text()
    entries = [(networks[name], plans[name]) for name in sorted(networks)]
    for table in (kinds_table(entries), sources_table([entry for _, entry in entries]), gains_table(entries)):
        assert table.markdown() in sheet
