import json

import pytest

from benchmarks.studies.engine import summary


def result(method, seed, one_shot, target=0.9):
    stages = {"dense": {"accuracy": 0.99}, "one_shot": {"accuracy": one_shot}, "final": {"accuracy": 0.98}}
    return {
        **stages,
        "task": "digits",
        "method": method,
        "seed": seed,
        "target_flops_reduction": target,
        "flops_reduction": target + 0.001 * seed,
        "search": {"measured_evaluations": 10},
    }


def test_runs_are_grouped_by_method_and_target_with_mean_and_spread():
    rows = summary.summarise([result("a", 1, 0.9), result("b", 1, 0.5), result("a", 2, 0.8), result("a", 1, 0.7, 0.5)])
    assert [(row["method"], row["target_flops_reduction"], row["runs"]) for row in rows] == [
        ("a", 0.5, 1),
        ("a", 0.9, 2),
        ("b", 0.9, 1),
    ]
    assert rows[1]["one_shot_mean"] == pytest.approx(0.85)
    assert rows[1]["one_shot_std"] == pytest.approx(0.0707, abs=1e-4)
    assert rows[0]["one_shot_std"] == 0
    assert rows[1]["flops_reduction_max"] == pytest.approx(0.902)


def test_accuracies_stand_in_the_order_of_their_seeds():
    (row,) = summary.summarise(
        [result("a", seed, accuracy) for seed, accuracy in ((10086, 0.7), (42, 0.9), (520, 0.8))]
    )
    assert row["seeds"] == [42, 520, 10086]
    assert row["one_shot_accuracies"] == [0.9, 0.8, 0.7]


def test_the_command_reads_finished_runs_only_and_writes_what_it_shows(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "140")
    for seed in (1, 2):
        folder = tmp_path / "runs" / f"seed_{seed}"
        folder.mkdir(parents=True)
        (folder / "result.json").write_text(json.dumps(result("a", seed, 0.9)))
    (tmp_path / "runs" / "seed_3").mkdir()
    assert summary.main([str(tmp_path / "runs"), "--json", str(tmp_path / "rows.json")]) == 0
    assert "90.00 ± 0.00" in capsys.readouterr().out
    assert json.loads((tmp_path / "rows.json").read_text())[0]["seeds"] == [1, 2]


def test_a_folder_without_finished_runs_and_a_damaged_file_are_errors(tmp_path, capsys):
    assert summary.main([str(tmp_path)]) == 2
    assert "no finished run" in capsys.readouterr().err
    (tmp_path / "seed_1").mkdir()
    (tmp_path / "seed_1" / "result.json").write_text("{")
    assert summary.main([str(tmp_path)]) == 2
    assert "damaged" in capsys.readouterr().err


def write(folder, content):
    (folder / f"seed_{content['seed']}").mkdir(parents=True)
    (folder / f"seed_{content['seed']}" / "result.json").write_text(json.dumps(content))


def test_a_folder_named_twice_counts_once(tmp_path):
    write(tmp_path / "runs", result("a", 1, 0.9))
    assert len(summary.read_results([tmp_path, tmp_path / "runs"])) == 1


def test_variants_of_an_ablation_are_no_runs_of_the_method(tmp_path):
    write(tmp_path, result("a", 1, 0.9))
    write(tmp_path / "ablation" / "no_kd", result("a", 2, 0.1))
    assert [run["seed"] for run in summary.read_results([tmp_path])] == [1]
    assert [run["seed"] for run in summary.read_results([tmp_path / "ablation" / "no_kd"])] == [2]


def test_the_same_run_in_two_places_is_refused(tmp_path, capsys):
    write(tmp_path / "wide", result("a", 1, 0.9))
    write(tmp_path / "narrow", result("a", 1, 0.1))
    assert summary.main([str(tmp_path)]) == 2
    assert "are both the run ('digits', 0.9, 'a', 1)" in " ".join(capsys.readouterr().err.split())


def test_a_result_of_another_version_is_named(tmp_path, capsys):
    write(tmp_path, {"seed": 1, "task": "digits"})
    assert summary.main([str(tmp_path)]) == 2
    assert "result.json is damaged, or of another version" in " ".join(capsys.readouterr().err.split())
