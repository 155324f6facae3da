import csv
import errno
import functools
import json

import pytest
import torch
from matplotlib.image import imread

from benchmarks.ablation import command as ablation
from benchmarks.ablation.study import check_versions
from benchmarks.ablation.tables import ablation_table, summarise
from benchmarks.ablation.variants import FULL, VARIANTS, plan_ablation
from benchmarks.common.columns import NOTHING
from benchmarks.common.signed import write_signed
from benchmarks.files.models import read_result
from benchmarks.job import pipeline, stages
from benchmarks.job.pipeline import without_timings
from benchmarks.job.run_folder import RunFolderError
from benchmarks.settings.reading import load_config
from benchmarks.settings.source import ConfigError
from prune_gym.measuring.curvature_cache import analyse
from prune_gym.measuring.evaluator import Evaluator
from tests.benchmarks import tiny_task

SMALL = ("pruning.rspar.num_episodes=3", "pruning.target_flops_reduction=0.6", "pruning.reconstruction.steps=0")


def prepare(patch):
    """The tiny task, and neither the plots nor the exact times of single runs."""
    tiny_task.register()
    patch.setattr(pipeline, "save_plots", lambda *args: None)
    patch.setattr(pipeline, "measure_networks", functools.partial(pipeline.measure_networks, num_iterations=1))


@pytest.fixture(autouse=True)
def surroundings(monkeypatch, undrawn):
    prepare(monkeypatch)
    monkeypatch.setenv("COLUMNS", "200")
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def write_config(folder):
    path = folder / "tiny.yaml"
    path.write_text(tiny_task.CONFIG.format(save_dir=(folder / "results").as_posix()))
    return path


@pytest.fixture
def config(tmp_path):
    return write_config(tmp_path)


def launch(config, *arguments):
    return ablation.main(["--config", str(config), "--threads", "1", *arguments, *SMALL])


def results_of(config):
    paths = sorted((config.parent / "results" / "ablation").glob("*/seed_*/result.json"))
    return {f"{path.parts[-3]}/{path.parts[-2]}": read_result(path) for path in paths}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        prepare(patch)
        config = write_config(tmp_path_factory.mktemp("ablation"))
        assert launch(config, "--seeds", "1", "2") == 0
    return config


def test_every_variant_runs_with_the_same_seeds_target_and_fine_tuning(finished):
    results = results_of(finished)
    assert sorted(results) == sorted(f"{name}/seed_{seed}" for name in VARIANTS for seed in (1, 2))
    for result in results.values():
        assert result["target_flops_reduction"] == 0.6
        assert 0.6 <= result["flops_reduction"] <= 0.6 + stages.TOLERANCE
    configs = [load_config(path) for path in finished.parent.rglob("config.yaml")]
    assert len(configs) == len(results)
    tuning = {config.pruning.finetune.model_copy(update={"distillation": None}).model_dump_json() for config in configs}
    assert len(tuning) == 1


def test_every_variant_really_changes_the_pipeline(finished):
    found = {name: results_of(finished)[f"{name}/seed_1"] for name in VARIANTS}
    full = found[FULL]
    # What is cut: by magnitude other channels go, with uniform budgets other numbers of them.
    channels = {name: kept_channels(finished, name) for name in VARIANTS}
    assert channels["no_hessian"] != channels[FULL]
    assert channels["no_rl"] != channels[FULL]
    assert channels["no_kd"] == channels[FULL]
    spread = {name: max(run["budgets"].values()) - min(run["budgets"].values()) for name, run in found.items()}
    assert max(spread["no_rl"], spread["baseline"]) < 0.15 < min(spread[FULL], spread["no_hessian"])
    # What is repaired: without a refit the one-shot network is worse; without distillation it is the same.
    for name in ("no_hessian", "no_refit", "baseline"):
        assert found[name]["one_shot"]["accuracy"] < full["one_shot"]["accuracy"] - 0.05
    assert found["no_kd"]["one_shot"]["accuracy"] == full["one_shot"]["accuracy"]
    assert saved_network(finished, "no_kd") != saved_network(finished, FULL)
    # What the reward weighs: lambda stays where it was.
    weights = {name: lambdas(finished, name) for name in (FULL, "no_adaptive")}
    assert len(weights["no_adaptive"]) == 1 < len(weights[FULL])


def saved_network(config, name):
    return (config.parent / "results" / "ablation" / name / "seed_1" / "pruned.safetensors").read_bytes()


def kept_channels(config, name):
    return json.loads((config.parent / "results" / "ablation" / name / "seed_1" / "budgets.json").read_text())


def lambdas(config, name):
    with open(config.parent / "results" / "ablation" / name / "seed_1" / "history.csv", newline="") as file:
        return {row["lambda"] for row in csv.DictReader(file)}


def test_what_it_leaves_behind_holds_every_number_of_the_table(finished):
    folder = finished.parent / "results" / "ablation"
    content = json.loads((folder / "ablation.json").read_text())
    assert [row["variant"] for row in content["rows"]] == list(VARIANTS)
    assert content["versions"]["torch"] == torch.__version__
    results = results_of(finished)
    for row in content["rows"]:
        for seed in ("1", "2"):
            measured = results[f"{row['variant']}/seed_{seed}"]["final"]["accuracy"]
            assert row["accuracies"]["final"][seed] == pytest.approx(measured, rel=1e-4)
    with open(folder / "ablation.csv", newline="") as file:
        assert len(list(csv.DictReader(file))) == 2 * len(VARIANTS)
    assert imread(folder / "ablation.png").std() > 0.01
    assert "<svg" in (folder / "ablation.svg").read_text()


def test_finished_runs_are_not_run_again_and_the_table_is_shown(finished, capsys, monkeypatch):
    monkeypatch.setattr(pipeline, "run_experiment", interrupt)
    assert launch(finished, "--seeds", "1", "2") == 0
    shown = capsys.readouterr().out
    assert "tiny-cnn: 60 % of the FLOPs removed" in shown
    assert [name for name in VARIANTS if name not in shown] == []


def test_overwrite_runs_again(config, monkeypatch):
    assert launch(config, "--ablation", "no_rl") == 0
    monkeypatch.setattr(pipeline, "run_experiment", interrupt)
    assert launch(config, "--ablation", "no_rl") == 0
    assert launch(config, "--ablation", "no_rl", "--overwrite") == 130


def interrupt(*args, **kwargs):
    raise KeyboardInterrupt


def test_no_hessian_measures_no_curvature(config, monkeypatch):
    monkeypatch.setattr(
        "prune_gym.problem.problem.SELECTIONS", {"hobs": interrupt, "magnitude": benchmarks_magnitude()}
    )
    assert launch(config, "--ablation", "no_hessian") == 0
    assert launch(config, "--ablation", "no_refit") == 130


def benchmarks_magnitude():
    from prune_gym.problem.problem import SELECTIONS

    assert SELECTIONS["hobs"] is analyse
    return SELECTIONS["magnitude"]


def test_a_killed_ablation_goes_on_where_it_was_and_ends_the_same(finished, config, monkeypatch, capsys):
    measured = []
    measure = Evaluator._measure

    def counted(self, kept):
        measured.append(kept)
        if len(measured) in (3, 8):
            raise KeyboardInterrupt
        return measure(self, kept)

    arguments = ("--seeds", "1", "--ablation", "full", "--ablation", "no_rl", "--ablation", "baseline")
    with monkeypatch.context() as patch:
        patch.setattr(Evaluator, "_measure", counted)
        for _ in range(3):
            launch(config, *arguments)
    assert "the same command goes on" in capsys.readouterr().err
    assert launch(config, *arguments) == 0
    whole = results_of(finished)
    for name, result in results_of(config).items():
        expected, got = without_timings(whole[name]), without_timings(result)
        assert {key: expected[key] for key in got if key != "experiment"} == {
            key: got[key] for key in got if key != "experiment"
        }


def test_a_full_disk_loses_nothing_that_was_finished(config, monkeypatch, capsys):
    assert launch(config, "--ablation", "no_rl") == 0
    before = results_of(config)

    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("benchmarks.job.pipeline.save_network", full)
        assert launch(config) == 1
    said = " ".join(capsys.readouterr().err.split())
    assert "No space left on device" in said
    assert "1 finished cells are safe there: make room, and the same command goes on" in said
    assert results_of(config) == before


def test_an_unwritable_folder_of_any_variant_is_found_before_the_first_one_runs(config, monkeypatch, capsys):
    monkeypatch.setattr(pipeline, "run_experiment", interrupt)
    blocked = config.parent / "results" / "ablation" / "baseline"
    blocked.parent.mkdir(parents=True)
    blocked.write_text("a file where a folder should be")
    assert launch(config) == 2
    assert "cannot write results" in capsys.readouterr().err
    assert launch(config, "--ablation", "full", "--results", "/dev/null/x/ablation.json") == 2
    assert "cannot write results" in capsys.readouterr().err


def test_the_table_goes_to_the_users_own_folder(config, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    assert launch(config, "--ablation", "no_rl", "--results", "~/table.json") == 0
    assert (tmp_path / "home" / "table.json").is_file()


def test_seeds_may_be_followed_by_assignments(config):
    off = ("pruning.finetune.epochs=0", "pruning.reconstruction.steps=0")
    assert launch(config, "--ablation", "no_rl", "--seeds", "5", *off) == 0
    (result,) = results_of(config).values()
    assert result["seed"] == 5
    assert result["final"]["accuracy"] == result["one_shot"]["accuracy"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--ablation", "no_adaptive", "pruning.constraint=hard"], "under pruning.constraint=hard every plan meets"),
        (["--ablation", "no_kd", "pruning.finetune.epochs=0"], "nothing is distilled"),
        (["--ablation", "no_rl", "pruning.method=hobs-uniform"], "pruning.method=hobs-uniform already"),
        (["pruning.method=taylor"], "takes parts of H-OBS and of its search away, and 'taylor' has neither"),
        (["--seeds", "x"], "'experiment.random_seeds[0]'"),
        (["--seeds", "1", "1"], "must name each seed once"),
        (["--gpu", "97"], "--gpu 97"),
        (["pruning.hobs.refit=closed_form", "pruning.hobs.selection=magnitude"], "needs curvature"),
    ],
)
def test_bad_input_is_refused_before_anything_runs(config, capsys, monkeypatch, arguments, said):
    monkeypatch.setattr(pipeline, "run_experiment", interrupt)
    assert launch(config, *arguments) == 2
    assert said in capsys.readouterr().err


def test_variants_that_change_nothing_are_left_out_of_all_with_the_reason(config):
    plan = plan_ablation(config, ["pruning.constraint=hard", "pruning.finetune.epochs=0"])
    assert set(plan.left_out) == {"no_adaptive", "no_kd"}
    assert set(plan.configs) == set(VARIANTS) - set(plan.left_out)


def test_runs_of_other_versions_or_configurations_are_not_mixed(config, capsys):
    assert launch(config, "--ablation", "no_rl") == 0
    assert launch(config, "--ablation", "baseline") == 0
    capsys.readouterr()
    assert launch(config, "--ablation", "no_rl", "pruning.finetune.learning_rate=0.01") == 2
    assert "pruning.finetune.learning_rate: 0.02 != 0.01" in capsys.readouterr().err
    path = config.parent / "results" / "ablation" / "baseline" / "seed_3" / "result.json"
    result = read_result(path)
    result["versions"]["torch"] = "1.0"
    write_signed(path, result)
    assert launch(config, "--ablation", "no_rl") == 2
    assert "different software versions (torch" in capsys.readouterr().err


def test_versions_are_compared_over_seeds_too(tmp_path):
    ours, others = {"versions": {"torch": "2.6"}}, {"versions": {"torch": "1.0"}}
    with pytest.raises(RunFolderError, match=r"versions \(torch 1.0 and 2.6\)"):
        check_versions({"full": [others, ours], "no_rl": [others, ours]}, tmp_path)


def run(seed, one_shot, final, reduction=0.9):
    return {
        "seed": seed,
        "dense": {"accuracy": 0.99},
        "one_shot": {"accuracy": one_shot},
        "final": {"accuracy": final, "parameters": 100},
        "flops_reduction": reduction,
        "search": {"measured_evaluations": 7},
    }


def test_rows_compare_with_the_full_run_seed_by_seed():
    full = [run(seed, 0.9 + 0.001 * seed, 0.95) for seed in range(5)]
    worse = [run(seed, 0.8 + 0.001 * seed + 0.0005 * seed**2, 0.95) for seed in reversed(range(5))]
    rows = {row["variant"]: row for row in summarise({FULL: full, "no_rl": worse})}
    comparison = rows["no_rl"]["accuracy"]["one_shot"]["comparison"]
    assert comparison["mean_difference"] == pytest.approx(-0.1 + 0.0005 * 6)
    low, high = comparison["difference_interval"]
    assert low < comparison["mean_difference"] < high < 0
    assert rows[FULL]["accuracy"]["one_shot"]["comparison"] is None
    # Equal everywhere: no difference, no evidence.
    assert rows["no_rl"]["accuracy"]["final"]["comparison"]["p_value_holm"] == 1.0


def test_one_seed_gives_means_without_tests():
    rows = summarise({FULL: [run(1, 0.9, 0.95)], "no_rl": [run(1, 0.8, 0.9)]})
    assert [row["accuracy"]["final"]["comparison"] for row in rows] == [None, None]
    assert len(ablation_table(rows, "title").rows) == 2


def test_a_difference_without_spread_is_shown_without_a_p_value():
    rows = summarise({FULL: [run(s, 0.9, 0.95) for s in (1, 2)], "no_rl": [run(s, 0.8, 0.95) for s in (1, 2)]})
    assert ablation_table(rows, "title").texts()[1][2:4] == ["-10.00 [-10.00, -10.00]", NOTHING]


def test_every_variant_differs_from_the_full_configuration(config):
    plan = plan_ablation(config)
    assert not plan.left_out
    full = plan.configs[FULL]
    for name, variant in plan.configs.items():
        assert len(variant.differences(full)) == len(VARIANTS[name].overrides)
    with pytest.raises(ConfigError, match="unknown key"):
        plan_ablation(config, ["pruning.rspr=1"])
