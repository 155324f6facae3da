"""The comparison of methods: every cell a file, resumed where it stopped, summarised with intervals and tests."""

import csv
import json

import pytest
import torch

from benchmarks.common.columns import NOTHING
from benchmarks.files.sign import sign
from benchmarks.studies.methods import cells as method_cells
from benchmarks.studies.methods import config as method_config
from benchmarks.studies.methods import study as method_study
from benchmarks.studies.methods.cells import Contest
from benchmarks.studies.methods.command import main
from benchmarks.studies.methods.config import Budget
from benchmarks.studies.methods.plots import plot_methods
from benchmarks.studies.methods.tables import comparison_table, comparison_tables, summarise
from prune_gym.data.augmentation import Augmentation
from prune_gym.data.splits import TensorSplit
from prune_gym.problem import PruningProblem
from prune_gym.tasks import make_task
from prune_gym.tasks.task import network_digest
from prune_gym.training import fine_tune
from tests.benchmarks import tiny_task

pytestmark = pytest.mark.filterwarnings("ignore:.*more than 1 % off the target")
FAST = (
    *("--reconstruction-steps", "10", "--reconstruction-images", "60", "--evaluations", "2", "--finetune-epochs", "1"),
    *("--images", "60", "--own-training", "120", "--threads", "1"),
)


@pytest.fixture(autouse=True)
def surroundings(undrawn):
    tiny_task.register()


def compare(folder, *arguments, methods=("magnitude", "hobs-knapsack"), seeds=("0", "1")):
    chosen = ("--methods", *methods, "--seeds", *seeds, "--targets", "0.6")
    return main(["--task", "tiny-cnn", "--out", str(folder), *chosen, *FAST, *arguments])


def markdown_tables(rows):
    return "\n".join(table.markdown() for table in comparison_tables(rows))


def cell(method, seed, accuracy, target=0.6):
    stages = dict.fromkeys(method_cells.STAGES, accuracy)
    numbers = dict.fromkeys(
        ("flops", "flops_reduction", "parameters", "speedup", "evaluations", "images", "backward_passes", "seconds"), 1
    )
    return {"method": method, "seed": seed, "target": target, "accuracy": stages, "dense_accuracy": 1.0, **numbers}


def test_comparison_measures_every_cell_and_reports(tmp_path, capsys, drawn):
    assert compare(tmp_path) == 0
    assert len(list((tmp_path / "cells").glob("*.json"))) == 4
    result = json.loads((tmp_path / "comparison.json").read_text())
    for row in result["rows"]:
        assert set(row["accuracy"]) == {"raw", "bn", "refit", "reconstructed", "finetuned"}
        assert 0.6 <= row["flops_reduction"] <= 0.62
        assert row["seeds"] == [0, 1]
    assert len(list(csv.DictReader((tmp_path / "comparison.csv").open()))) == 4
    assert (tmp_path / "comparison.png").stat().st_size > 10_000
    assert "| magnitude | 2 |" in (tmp_path / "comparison.md").read_text()
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
    original = Contest.measure
    monkeypatch.setattr(Contest, "measure", lambda self, *call: measured.append(call) or original(self, *call))
    assert compare(tmp_path) == 0
    assert len(measured) == 2


def test_a_failing_cell_costs_only_itself_and_is_tried_again(tmp_path, monkeypatch, capsys):
    def fail(contest, method, target, seed):
        if method == "magnitude":
            raise ValueError("too thin")
        return cell(method, seed, 0.5)

    monkeypatch.setattr(Contest, "measure", fail)
    assert compare(tmp_path, seeds=("0",)) == 1
    assert "failed: magnitude-0.6-seed0: ValueError: too thin" in capsys.readouterr().out
    monkeypatch.setattr(Contest, "measure", lambda contest, method, target, seed: cell(method, seed, 0.5))
    assert compare(tmp_path, seeds=("0",)) == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--methods", "magnitud"), "unknown method 'magnitud'; did you mean 'magnitude'"),
        (("--weights", "a.safetensors"), "gives every seed a dense network: 2 files, got 1"),
        (("--targets", "0.5", "0.5"), "--targets must name each once"),
        (("--methods", "unpruned", "unpruned"), "--methods must name each once"),
        (("--seeds", "1", "1"), "--seeds must name each once"),
        (("--targets", "1.2"), "--targets are shares of the FLOPs removed"),
        (("--finetune-lr", "0"), "--finetune-lr positive"),
    ],
)
def test_bad_arguments(arguments, said, tmp_path, capsys):
    assert compare(tmp_path, *arguments) == 2
    assert said in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("option", ["--images", "--evaluations", "--own-training", "--reward-images", "--test-images"])
def test_amounts_are_whole_numbers_of_at_least_one(option, tmp_path, capsys):
    with pytest.raises(SystemExit):
        compare(tmp_path, option, "0")
    assert "must be at least 1" in capsys.readouterr().err


@pytest.fixture(scope="module")
def contest(tmp_path_factory):
    tiny_task.register()
    task = make_task("tiny-cnn")
    budget = Budget(
        reconstruction_steps=10,
        images=60,
        own_training=120,
        evaluations=6,
        finetune_epochs=1,
        timed_passes=1,
        test_images=40,
    )
    problem = PruningProblem(task, cache_dir=tmp_path_factory.mktemp("cache")).load()
    return Contest(problem, budget, Augmentation(max_shift=1))


def test_everyone_is_fine_tuned_by_the_same_teacher_on_the_same_images_and_steps(contest, monkeypatch):
    dense = {name: tensor.clone() for name, tensor in contest.problem.task.model.state_dict().items()}
    given = []

    def record(model, teacher, images, **schedule):
        given.append((teacher, images, schedule))
        return fine_tune(model, teacher, images, **schedule)

    monkeypatch.setattr(method_cells, "fine_tune", record)
    for method in ("magnitude", "taylor", "hobs-knapsack"):
        contest.measure(method, 0.6, 3)
    assert len(given) == 3
    for teacher, images, schedule in given:
        assert teacher is contest.problem.task.model
        assert images is given[0][1]
        assert len(images) == 60
        assert schedule == given[0][2]
    assert schedule["seed"] == 3
    assert all(torch.equal(dense[name], tensor) for name, tensor in contest.problem.task.model.state_dict().items())


@pytest.mark.parametrize("method", ["taylor", "gnn", "hobs-gp"])
def test_the_test_split_is_touched_only_when_everything_is_decided(contest, method, monkeypatch):
    events, batches = [], TensorSplit.batches
    tested = contest.problem.task.test.images.untyped_storage().data_ptr()

    def watched(split, batch_size):
        events.append("test" if split.images.untyped_storage().data_ptr() == tested else "other")
        return batches(split, batch_size)

    def tune(*arguments, **schedule):
        fine_tune(*arguments, **schedule)
        events.append("fine-tuned")

    monkeypatch.setattr(TensorSplit, "batches", watched)
    monkeypatch.setattr(method_cells, "fine_tune", tune)
    monkeypatch.delitem(contest.__dict__, "dense_accuracy", raising=False)
    contest.measure(method, 0.6, 0)
    assert events.count("test") == 6  # five stages and the dense network
    assert "test" not in events[: events.index("fine-tuned")]


@pytest.mark.parametrize("method", ["autocompress", "gnn", "amc", "hobs-gp", "hobs-rspar"])
def test_searches_measure_equally_many_plans_at_most(contest, method):
    assert 3 <= contest.measure(method, 0.6, 0)["evaluations"] <= 6  # revisits are free


def test_cells_of_another_budget_are_not_mixed_in(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(Contest, "measure", lambda contest, method, target, seed: cell(method, seed, 0.5))
    assert compare(tmp_path) == 0
    assert compare(tmp_path, "--finetune-epochs", "3") == 2
    assert "different: budget" in " ".join(capsys.readouterr().err.split())
    assert compare(tmp_path, "--finetune-epochs", "3", "--overwrite") == 0


def test_a_damaged_cell_is_named(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(Contest, "measure", lambda contest, method, target, seed: cell(method, seed, 0.5))
    assert compare(tmp_path) == 0
    damaged = next((tmp_path / "cells").glob("*-seed0.json"))
    damaged.write_text(damaged.read_text()[:20])
    assert compare(tmp_path) == 2
    assert f"{damaged} is damaged" in "".join(capsys.readouterr().err.splitlines())


def contest_of(monkeypatch, networks):
    """Contests of tiny networks by the file of their weights; cells are made up."""

    def open_contest(config, weights, device):
        return Contest(PruningProblem(networks[weights]()).load(), config.budget, Augmentation())

    monkeypatch.setattr(method_study, "open_contest", open_contest)
    monkeypatch.setattr(Contest, "measure", lambda contest, method, target, seed: cell(method, seed, 0.5))


def test_cells_of_another_network_are_not_mixed_in(tmp_path, capsys, monkeypatch):
    networks = {None: tiny_task.build}
    contest_of(monkeypatch, networks)
    assert compare(tmp_path, seeds=("0",)) == 0
    networks[None] = tiny_task.another
    capsys.readouterr()
    assert compare(tmp_path) == 2
    said = " ".join(capsys.readouterr().err.split())
    for build in (tiny_task.build, tiny_task.another):
        assert network_digest(build())[:12] in said
    assert len(list((tmp_path / "cells").glob("*.json"))) == 2


def test_every_file_of_weights_has_a_network_of_its_own_and_keeps_it(tmp_path, capsys, monkeypatch):
    networks = {"a/first.st": tiny_task.build, "a/second.st": tiny_task.another, "b/first.st": tiny_task.another}
    contest_of(monkeypatch, networks)
    assert compare(tmp_path, "--weights", "a/first.st", "a/second.st") == 0
    stored = [json.loads(path.read_text()) for path in (tmp_path / "cells").glob("*.json")]
    digests = {"first": network_digest(tiny_task.build()), "second": network_digest(tiny_task.another())}
    assert {found["weights"]: found["network"] for found in stored} == digests
    (tmp_path / "cells" / "magnitude-0.6-seed0-first.json").unlink()
    assert compare(tmp_path, "--weights", "b/first.st", "a/second.st") == 2
    assert "holds results of 'first'" in " ".join(capsys.readouterr().err.split())


def test_cells_that_do_not_say_their_network_are_tabled_but_not_added_to(tmp_path, capsys, monkeypatch):
    contest_of(monkeypatch, {None: tiny_task.build})
    assert compare(tmp_path, seeds=("0",)) == 0
    for path in (tmp_path / "cells").glob("*.json"):
        stored = json.loads(path.read_text())
        del stored["network"], stored["weights"], stored["sha256"]
        path.write_text(json.dumps(stored))
        sign(path)
    assert compare(tmp_path, seeds=("0",)) == 0
    assert compare(tmp_path) == 2
    assert "do not say which network" in " ".join(capsys.readouterr().err.split())


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
    assert len(comparison_table(0.6, list(rows.values())).rows) == 3
    assert comparison_table(0.6, []).rows == []
    text = markdown_tables(list(rows.values()))
    assert "| magnitude | 5 | 50.40 [50.00, 51.00] |" in text
    assert "| **92.00 [90.80, 93.20]** |" in text
    assert text.count("\n|") == 2 * 5


@pytest.mark.parametrize("targets", [(0.6,), (0.5, 0.6)])
def test_the_legend_of_the_picture_lies_within_it(targets):
    cells = [cell("magnitude", seed, 0.5 + 0.01 * seed, target) for target in targets for seed in range(5)]
    figure = plot_methods(summarise(cells), "five seeds")
    figure.canvas.draw()
    legend = figure.legends[0].get_window_extent()
    assert figure.bbox.x0 <= legend.x0 < legend.x1 <= figure.bbox.x1


def test_a_picture_needs_finished_cells():
    with pytest.raises(ValueError, match="no finished cells"):
        plot_methods([], "nothing")


@pytest.mark.parametrize("method", [name for name in method_config.method_names() if not name.startswith("hobs")])
def test_every_method_has_a_schedule_for_every_budget(method):
    small, large = (
        method_cells.own_options(method, 12, 10_000, Budget(own_training=images, evaluations=plans))
        for images, plans in ((1200, 10), (60_000, 200))
    )
    assert small[1] <= large[1] <= 10_000
    assert (small == large) == (method in ("unpruned", "random-channels", "magnitude", "dep-graph", "adaprune"))


@pytest.mark.parametrize("evaluations", [2, 3, 10, 16, 50, 333])
def test_annealing_cools_as_far_with_any_number_of_plans(evaluations):
    cooling, plans = method_cells.cooling_of(evaluations), 1
    temperature = cooling.start
    while temperature > cooling.stop:
        plans, temperature = plans + 1, temperature * cooling.rate
    assert plans == evaluations


def test_the_dense_network_alone_has_a_table():
    assert "| unpruned | 1 | 90.00 |" in markdown_tables(summarise([cell("unpruned", 0, 0.9)]))


def test_where_all_seeds_differ_alike_the_tables_show_a_dash():
    accuracies = {"hobs-rspar": 0.9, "taylor": 0.5}
    cells = [cell(method, seed, accuracy) for method, accuracy in accuracies.items() for seed in (0, 1)]
    row, _ = (line for line in markdown_tables(summarise(cells)).splitlines() if line.startswith("| taylor"))
    assert row.split("|")[9].strip() == NOTHING


def test_intervals_do_not_need_the_reference():
    rows = {row["method"]: row for row in summarise([cell("taylor", seed, 0.5 + seed / 10) for seed in range(3)])}
    low, high = rows["taylor"]["accuracy"]["finetuned"]["confidence_interval"]
    assert 0.5 <= low < 0.6 < high <= 0.7
    assert rows["taylor"]["accuracy"]["finetuned"]["comparison"] is None
