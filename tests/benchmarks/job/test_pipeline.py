import csv
import json
import subprocess
import sys
import time

import pytest
import torch

from agents import RSPARAgent
from benchmarks.files.models import FRACTION, SECONDS
from benchmarks.job import pipeline, stages
from benchmarks.job.pipeline import run_experiment, without_timings
from benchmarks.job.run_folder import RunState, open_run
from benchmarks.job.run_plots import save_plots
from benchmarks.settings.reading import load_config, parse_config
from benchmarks.settings.source import ConfigError
from prune_gym.measuring.evaluator import Evaluator
from prune_gym.problem import PruningProblem
from prune_gym.reconstruction import race, trials
from prune_gym.tasks import PruningTask
from tests.benchmarks import tiny_task

CPU = torch.device("cpu")
NUMBERS = {"accuracy", "flops", "parameters", "latency_ms", "throughput_imgs_per_sec", "bytes_on_disk"}


@pytest.fixture(autouse=True)
def surroundings(quick_job):
    tiny_task.register()


def config_in(folder, *overrides):
    return parse_config(tiny_task.CONFIG.format(save_dir=folder), overrides)


def run(config, **options):
    folder = open_run(config, seed=3, **options)
    return run_experiment(config, 3, folder, device=CPU), folder


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    tiny_task.register()
    return run(config_in(tmp_path_factory.mktemp("finished")))


def test_result_holds_four_networks_and_how_they_came_about(finished):
    result, folder = finished
    assert folder.read_result() == result
    for network in ("dense", "one_shot", "reconstructed", "final"):
        assert result[network].keys() >= NUMBERS
        assert 0 <= result[network]["accuracy"] <= 1
    assert result["seed"] == 3
    assert result["method"] == "hobs-rspar"
    assert result["versions"]["torch"] == torch.__version__
    assert result["dense"]["accuracy"] > 0.7  # the tiny network has learned something to lose


def test_final_network_meets_the_target_by_counted_flops(finished):
    result, _ = finished
    assert 0.6 <= result["flops_reduction"] <= 0.6 + stages.TOLERANCE
    assert result["flops_reduction"] == 1 - result["final"]["flops"] / result["dense"]["flops"]
    assert result["one_shot"]["flops"] == result["final"]["flops"]


def test_run_folder_holds_everything_people_open(finished):
    _, folder = finished
    assert folder.state is RunState.FINISHED
    names = {str(path.relative_to(folder.path)) for path in folder.path.rglob("*") if path.is_file()}
    drawn = ("summary", "training", "budgets", "lambda", "sensitivity")
    plots = {f"plots/{name}.{kind}" for name in drawn for kind in ("png", "svg")}
    assert names == plots | {
        *("config.yaml", "result.json", "history.csv", "budgets.json"),
        *("agent.safetensors", "pruned.safetensors", "pruned.json"),
    }
    assert load_config(folder.path / "config.yaml").pruning.rspar.num_episodes == 6


def test_history_has_a_row_an_episode_after_the_start_plan(finished):
    _, folder = finished
    with open(folder.path / "history.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["episode"]) for row in rows] == list(range(7))
    for column in ("return", "accuracy", "flops_reduction", "lambda"):
        assert all(float(row[column]) == float(row[column]) for row in rows)


def test_budgets_name_every_layer_and_split_its_channels(finished):
    result, folder = finished
    table = json.loads((folder.path / "budgets.json").read_text())
    assert list(table) == list(result["budgets"])
    for name, row in table.items():
        assert sorted(row["kept_channels"] + row["removed_channels"]) == list(range(row["channels"]))
        assert row["pruning_ratio"] == result["budgets"][name]
        assert len(row["removed_channels"]) == round(row["pruning_ratio"] * row["channels"])


def test_saved_network_scores_in_a_fresh_process_what_the_result_says(finished):
    result, folder = finished
    script = (
        "import sys, torch\n"
        "from tests.benchmarks import tiny_task\n"
        "from prune_gym import load_pruned\n"
        "from prune_gym.data.splits import load_digits_splits\n"
        "from prune_gym.training import evaluate_model\n"
        "model = load_pruned(sys.argv[1], factory=tiny_task.network)\n"
        "print(evaluate_model(model, load_digits_splits().test.subset(slice(200))).accuracy)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(folder.checkpoint)], capture_output=True, text=True, check=True
    )
    assert float(done.stdout) == pytest.approx(result["final"]["accuracy"])


def test_same_seed_gives_the_same_result_apart_from_timings(finished, tmp_path):
    again, _ = run(config_in(tmp_path))
    assert without_timings(again) == without_timings(finished[0])


@pytest.mark.parametrize("moment", ["search", "cut", "tune", "measure_networks"])
def test_interrupted_run_resumes_to_the_same_result(finished, tmp_path, monkeypatch, moment):
    config = config_in(tmp_path)
    with monkeypatch.context() as patch:
        if moment == "search":
            interrupt_after_measuring(patch, 4)
        else:
            module = "benchmarks.job.pipeline" if moment == "measure_networks" else "benchmarks.job.stages"
            patch.setattr(f"{module}.{moment}", interrupt)
        with pytest.raises(KeyboardInterrupt):
            run(config)
    folder = open_run(config, seed=3)
    assert folder.state is RunState.RESUMABLE
    resumed, _ = run(config)
    assert without_timings(resumed) == without_timings(finished[0])
    assert (folder.path / "history.csv").read_text() == (finished[1].path / "history.csv").read_text()
    assert (folder.path / "pruned.safetensors").read_bytes() == (finished[1].path / "pruned.safetensors").read_bytes()


def test_a_stage_took_what_all_its_attempts_took(finished, tmp_path, monkeypatch):
    config = config_in(tmp_path)
    with monkeypatch.context() as patch:

        def slow(*args, **kwargs):
            time.sleep(0.5)
            raise KeyboardInterrupt

        patch.setattr("benchmarks.job.stages.cut", slow)
        with pytest.raises(KeyboardInterrupt):
            run(config)
    before = open_run(config, seed=3).read_json("unfinished/seconds.json", SECONDS)
    resumed, _ = run(config)
    assert before["cut and repair"] >= 0.5
    assert all(resumed["seconds"][stage] > seconds for stage, seconds in before.items())


def test_resumed_search_measures_only_what_is_missing(finished, tmp_path, monkeypatch):
    config = config_in(tmp_path)
    with monkeypatch.context() as patch:
        interrupt_after_measuring(patch, 5)
        with pytest.raises(KeyboardInterrupt):
            run(config)
    with monkeypatch.context() as patch:
        counted = interrupt_after_measuring(patch, 1000)
        result, _ = run(config)
    dense = 1  # the unpruned network on the reward split, measured whenever a problem is loaded
    assert len(counted) == result["search"]["measured_evaluations"] - (5 - dense) + dense


def test_a_reconstruction_goes_on_where_it_stopped(finished, tmp_path, monkeypatch):
    result, _ = finished
    config = config_in(tmp_path)
    taken = []

    def stopping(limit):
        original = trials.adam

        def adam(model):
            optimizer = original(model)
            step = optimizer.step

            def counted(*args, **kwargs):
                if len(taken) >= limit:
                    raise KeyboardInterrupt
                taken.append(None)
                return step(*args, **kwargs)

            optimizer.step = counted
            return optimizer

        return adam

    monkeypatch.setattr(race, "SAVE_EVERY", 5)
    with monkeypatch.context() as patch:
        patch.setattr(race, "adam", stopping(33))
        with pytest.raises(KeyboardInterrupt):
            run(config)
    assert len(taken) == 33
    taken.clear()
    monkeypatch.setattr(race, "adam", stopping(1000))
    resumed, _ = run(config)
    assert without_timings(resumed) == without_timings(result)
    assert len(taken) == 2 * 7 + 30 - 29  # two short trainings, the long one up to its last checkpoint


def test_finished_stages_are_not_done_again(finished, tmp_path, monkeypatch):
    config = config_in(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr("benchmarks.job.pipeline.measure_networks", interrupt)
        with pytest.raises(KeyboardInterrupt):
            run(config)
    for stage in ("search_budgets", "cut", "tune"):
        monkeypatch.setattr(f"benchmarks.job.stages.{stage}", interrupt)
    resumed, _ = run(config)
    assert without_timings(resumed) == without_timings(finished[0])


def test_stages_of_other_versions_are_not_resumed(finished, tmp_path, monkeypatch):
    config = config_in(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr("benchmarks.job.pipeline.versions", lambda: {"torch": "0.1"})
        patch.setattr("benchmarks.job.stages.accuracy_on_test", lambda model, task: 0.123)
        patch.setattr("benchmarks.job.stages.cut", interrupt)
        with pytest.raises(KeyboardInterrupt):
            run(config)
    assert open_run(config, seed=3).read_json("unfinished/dense.json", FRACTION) == 0.123
    resumed, _ = run(config)
    assert without_timings(resumed) == without_timings(finished[0])


def test_a_network_tuned_by_other_versions_is_tuned_again(finished, tmp_path, monkeypatch):
    config = config_in(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr("benchmarks.job.pipeline.versions", lambda: {"torch": "0.1"})
        patch.setattr("benchmarks.job.stages.tune", lambda config, seed, task, plan, pruned, report: (pruned, {}))
        patch.setattr("benchmarks.job.pipeline.measure_networks", interrupt)
        with pytest.raises(KeyboardInterrupt):
            run(config)
    assert open_run(config, seed=3).checkpoint.is_file()
    resumed, _ = run(config)
    assert without_timings(resumed) == without_timings(finished[0])


def test_search_never_sees_the_test_split(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(stages, "evaluate_model", lambda model, split: seen.append(split) or SCORE)
    without = []
    for stage in ("analyse", "search_budgets", "cut", "reconstruct_network", "tune"):
        monkeypatch.setattr(stages, stage, without_test_split(stage, without))
    run(config_in(tmp_path))
    assert len(seen) == 5  # the four report stages, and the reward images once, beside the dense network's test
    assert without == ["analyse", "search_budgets", "cut", "reconstruct_network", "tune"]


@pytest.mark.parametrize(
    "method", ["hobs-uniform", "hobs-knapsack", "hobs-gp", "hobs-cem", "hobs-cmaes", "hobs-annealing", "random"]
)
def test_every_method_meets_the_target(tmp_path, monkeypatch, method):
    drawn = method in ("hobs-uniform", "random")  # one plan; no belief
    if drawn:
        monkeypatch.setattr(pipeline, "save_plots", save_plots)
    result, folder = run(config_in(tmp_path, f"pruning.method={method}", "pruning.rspar.num_episodes=3"))
    assert result["method"] == method
    assert 0.6 <= result["flops_reduction"] <= 0.6 + stages.TOLERANCE
    measured = result["search"]["measured_evaluations"]
    assert measured == 1 if method in ("hobs-uniform", "hobs-knapsack") else 2 <= measured <= 4
    assert (folder.path / "plots" / "training.png").is_file() == drawn


@pytest.mark.filterwarnings("ignore:.*more than 1 % off the target")
def test_published_methods_run_without_curvature_and_resume(tmp_path, monkeypatch):
    monkeypatch.setattr(stages, "analyse", lambda *_: pytest.fail("a published method needs no H-OBS"))
    config = config_in(tmp_path, "pruning.method=dep-graph")
    monkeypatch.setattr(stages, "tune", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(config)
    monkeypatch.undo()
    monkeypatch.setattr(stages, "prune_by_baseline", lambda *_: pytest.fail("that stage was finished"))
    result, folder = run(config)
    assert result["method"] == "dep-graph"
    assert 0.6 <= result["flops_reduction"] <= 0.65  # one channel of this network is up to 5 % of its FLOPs
    assert result["search"]["measured_evaluations"] == 0
    removed = json.loads((folder.path / "budgets.json").read_text())
    assert all(row["removed_channels"] for row in removed.values() if row["pruning_ratio"] > 0)
    assert (folder.path / "plots" / "summary.png").is_file()


def interrupted(*_):
    raise KeyboardInterrupt


def test_uniform_budgets_are_uniform_and_knapsack_ones_are_not(tmp_path):
    uniform, _ = run(config_in(tmp_path / "u", "pruning.method=hobs-uniform"))
    knapsack, _ = run(config_in(tmp_path / "k", "pruning.method=hobs-knapsack"))

    def spread(result):
        return max(result["budgets"].values()) - min(result["budgets"].values())

    assert spread(uniform) < 0.15 < spread(knapsack)


def test_default_target_is_the_tasks_own(tmp_path):
    result, _ = run(config_in(tmp_path, "pruning.target_flops_reduction=null", "pruning.method=hobs-uniform"))
    assert result["target_flops_reduction"] == 0.5


def test_no_reconstruction_and_no_fine_tuning_leave_the_network_as_the_surgery_made_it(tmp_path):
    off = ("pruning.finetune.epochs=0", "pruning.reconstruction.steps=0", "pruning.method=hobs-uniform")
    result, _ = run(config_in(tmp_path, *off))
    assert result["final"]["accuracy"] == result["reconstructed"]["accuracy"] == result["one_shot"]["accuracy"]


def test_a_run_goes_on_from_the_agent_of_another(finished, tmp_path):
    result, folder = finished
    key = f"pruning.rspar.initial_agent={folder.agent}"
    again, first = run(config_in(tmp_path / "same", key))
    assert again["search"]["measured_evaluations"] == 2 * result["search"]["measured_evaluations"] - 1
    assert again["search"]["reward_soft_accuracy"] >= result["search"]["reward_soft_accuracy"]
    assert first.agent.is_file()
    other = open_run(config_in(tmp_path / "other", key), seed=5)
    run_experiment(config_in(tmp_path / "other", key), 5, other, device=CPU)
    assert first.agent.read_bytes() != other.agent.read_bytes(), "another seed learns otherwise"


def test_an_agent_meets_a_network_trained_anew(finished, tmp_path):
    tiny_task.register("tiny-anew", tiny_task.another)
    keys = ("dataset.name=tiny", "model.name=anew", f"pruning.rspar.initial_agent={finished[1].agent}")
    own = ("pruning.rspar.learning_rate=0.001", "pruning.rspar.gamma=0.9")
    result, folder = run(config_in(tmp_path, *keys, *own))
    assert result["search"]["measured_evaluations"] == 7, "what was measured on the other network does not count"
    agent = RSPARAgent.load(folder.agent)
    assert agent.experience.model.prior is not None
    assert (agent.config.lr, agent.config.gamma) == (0.001, 0.9), "how it learns is the configuration's"


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (("pruning.rspar.initial_agent={folder}/none",), "no tensor file .*none"),
        (("pruning.rspar.initial_agent={folder}/pruned.safetensors",), "is not an agent"),
        (("pruning.rspar.initial_agent={folder}/agent.safetensors", "pruning.rspar.hidden_dim=16"), "hidden_dim = 8"),
        (("pruning.rspar.initial_agent={folder}/agent.safetensors", "pruning.method=hobs-gp"), "only hobs-rspar does"),
    ],
)
def test_an_agent_that_cannot_go_on_is_refused_before_anything_runs(finished, tmp_path, overrides, said):
    config = config_in(tmp_path, *(override.format(folder=finished[1].path) for override in overrides))
    with pytest.raises(ConfigError, match=f"'pruning.rspar.initial_agent'.*({said})"):
        run(config)
    assert not (tmp_path / "seed_3" / "unfinished" / "dense.json").exists()


@pytest.mark.parametrize(("most", "used"), [("null", "all"), (7, 7), (10**9, "all")])
def test_fine_tuning_uses_at_most_so_many_images(tmp_path, monkeypatch, most, used):
    seen = []
    monkeypatch.setattr(stages, "fine_tune", lambda student, teacher, images, **_: seen.append(images) or [])
    run(config_in(tmp_path, f"pruning.finetune.max_images={most}", "pruning.method=hobs-uniform"))
    assert len(seen[0]) == (len(tiny_task.build().train) if used == "all" else used)
    assert len(seen[0].labels.unique()) > 1


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("model.num_classes=100", r"'model.num_classes' is 100, but the task 'tiny-cnn' has 10"),
        ("dataset.image_size=32", r"'dataset.image_size' is 32, but the task 'tiny-cnn' has 16"),
        ("model.pretrained=false", r"'model.pretrained' is false"),
        ("dataset.data_dir=/data", r"'dataset.data_dir': the task 'tiny-cnn' takes none"),
        ("pruning.target_flops_reduction=0.999", r"'pruning.target_flops_reduction': .*reaches \[0, 0\.\d+\]"),
    ],
)
def test_configuration_that_contradicts_the_task_is_refused_before_anything_runs(tmp_path, override, said):
    config = config_in(tmp_path, override)
    with pytest.raises(ConfigError, match=said):
        run(config)
    assert not (tmp_path / "seed_3" / "unfinished" / "dense.json").exists()


# ---------------------------------------------------------------------- helpers

SCORE = type("Score", (), {"accuracy": 0.5})()


def interrupt(*args, **kwargs):
    raise KeyboardInterrupt


def interrupt_after_measuring(patch, plans):
    """Let the evaluator measure so many plans, then press Ctrl-C; returns the plans measured."""
    measured = []
    measure = Evaluator._measure

    def counted(self, kept):
        if len(measured) == plans:
            raise KeyboardInterrupt
        measured.append(kept)
        return measure(self, kept)

    patch.setattr(Evaluator, "_measure", counted)
    return measured


def without_test_split(name, calls):
    """Wrap a stage so that the task it works on has no test split while it runs."""
    stage = getattr(stages, name)

    def wrapped(*args, **kwargs):
        calls.append(name)
        tasks = [value for value in args if isinstance(value, PruningTask)]
        tasks += [value.task for value in args if isinstance(value, PruningProblem) and value.is_loaded]
        saved = [(task, task.test) for task in tasks]
        for task in tasks:
            object.__setattr__(task, "test", None)
        try:
            return stage(*args, **kwargs)
        finally:
            for task, test in saved:
                object.__setattr__(task, "test", test)

    return wrapped
