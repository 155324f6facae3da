import json

import pytest

from benchmarks.studies.evidence import main_job


def result(method, seed, one_shot, target=0.9, **more):
    stages = {"dense": {"accuracy": 0.99}, "one_shot": {"accuracy": one_shot}, "final": {"accuracy": 0.98}}
    return {
        **stages,
        **{name: {"accuracy": accuracy} for name, accuracy in more.items()},
        "task": "digits",
        "method": method,
        "seed": seed,
        "target_flops_reduction": target,
        "flops_reduction": target + 0.001 * seed,
        "search": {"measured_evaluations": 10},
    }


def test_runs_are_grouped_by_method_and_target_with_mean_and_spread():
    runs = [result("a", 1, 0.9), result("b", 1, 0.5), result("a", 2, 0.8), result("a", 1, 0.7, 0.5)]
    rows = main_job.summarise(runs)
    assert [(row["method"], row["target_flops_reduction"], row["runs"]) for row in rows] == [
        *(("a", 0.5, 1), ("a", 0.9, 2), ("b", 0.9, 1)),
    ]
    assert rows[1]["one_shot_mean"] == pytest.approx(0.85)
    assert rows[1]["one_shot_std"] == pytest.approx(0.0707, abs=1e-4)
    assert rows[0]["one_shot_std"] == 0
    assert rows[1]["flops_reduction_max"] == pytest.approx(0.902)


def test_accuracies_stand_in_the_order_of_their_seeds():
    (row,) = main_job.summarise([result("a", seed, accuracy) for seed, accuracy in ((10086, 0.7), (42, 0.9))])
    assert row["seeds"] == [42, 10086]
    assert row["one_shot_accuracies"] == [0.9, 0.7]


def test_a_stage_counts_where_every_run_has_it():
    both = main_job.summarise([result("a", seed, 0.9, reconstructed=0.95) for seed in (1, 2)])
    one = main_job.summarise([result("a", 1, 0.9, reconstructed=0.95), result("a", 2, 0.9)])
    assert both[0]["reconstructed_mean"] == pytest.approx(0.95)
    assert "reconstructed_mean" not in one[0]
    assert main_job.main_job_table(one).rows[0][6] is None


def test_the_command_reads_finished_runs_and_writes_what_it_shows(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(main_job, "read_result", lambda path: json.loads(path.read_text()))
    for seed in (1, 2):
        folder = tmp_path / "runs" / f"seed_{seed}"
        folder.mkdir(parents=True)
        (folder / "result.json").write_text(json.dumps(result("a", seed, 0.9)))
    (tmp_path / "runs" / "seed_3").mkdir()
    rows = tmp_path / "rows.json"
    assert main_job.main([str(tmp_path / "runs"), "--json", str(rows)]) == 0
    assert "90.00 ± 0.00" in capsys.readouterr().out
    assert json.loads(rows.read_text())["rows"][0]["seeds"] == [1, 2]
    assert main_job.main([str(tmp_path / "runs"), str(tmp_path / "runs" / "seed_1")]) == 2
    assert "no finished run" in capsys.readouterr().err


def test_a_run_found_twice_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(main_job, "read_result", lambda path: result("a", 1, 0.9))
    for name in ("a", "b"):
        (tmp_path / name / "seed_1").mkdir(parents=True)
        (tmp_path / name / "seed_1" / "result.json").write_text("{}")
    with pytest.raises(ValueError, match="another folder"):
        main_job.finished([tmp_path])
