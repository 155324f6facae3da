"""Models of the reward on runs whose scores are known."""

import csv
import json

import numpy as np
import pytest

from benchmarks.studies.evidence import reward_models

COLUMNS = ["task", "agent", "targets", "seed", "soft_accuracy", "kept"]


@pytest.fixture
def table(tiny_problem, tmp_path):
    """Two runs of plans whose log-odds fall with the logarithm of the predicted loss, and a short one."""
    path, rng = tmp_path / "evaluations.csv", np.random.default_rng(0)
    plans = np.unique(rng.integers(1, tiny_problem.cost.units + 1, size=(300, tiny_problem.num_layers)), axis=0)
    plans = rng.permutation(plans)
    scores = 1 / (1 + np.exp(0.3 * tiny_problem.log_predicted_loss(plans)))
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        for number, (plan, score) in enumerate(zip(plans[:130].tolist(), scores, strict=False)):
            agent = ("gp", "rspar")[number % 2] if number < 124 else "knapsack"
            row = ("tiny-cnn", agent, "0.6", 0, score, " ".join(map(str, plan)))
            writer.writerow(dict(zip(COLUMNS, row, strict=True)))
    return path


@pytest.fixture(autouse=True)
def short(monkeypatch):
    monkeypatch.setattr(reward_models, "LEARNED", (16, 48))


def test_runs_are_read_in_order_and_short_ones_left_out(table):
    runs = reward_models.read_runs(table, "tiny-cnn", 0.6, 48)
    assert sorted(runs) == ["gp-0", "rspar-0"]
    assert all(len(kept) == len(scores) == 62 for kept, scores in runs.values())


def test_a_model_is_asked_about_plans_it_has_not_learned_from(table):
    runs = reward_models.read_runs(table, "tiny-cnn", 0.6, 48)
    unseen, scores = reward_models._best_of_others(runs, "gp-0")
    own = set(map(tuple, runs["gp-0"][0].tolist()))
    assert not own & set(map(tuple, unseen.tolist()))
    known = dict(zip(map(tuple, runs["rspar-0"][0].tolist()), runs["rspar-0"][1], strict=True))
    assert [known[tuple(plan)] for plan in unseen.tolist()] == scores.tolist()
    assert scores.min() >= np.sort(runs["rspar-0"][1])[-reward_models.BEST]


def test_a_smooth_reward_is_ranked_well_and_everything_is_written(tiny_problem, table, tmp_path, capsys):
    path = tmp_path / "models.json"
    arguments = ["--evaluations", str(table), "--task", "tiny-cnn", "--target", "0.6", "--json", str(path)]
    assert reward_models.main(arguments) == 0
    rows = json.loads(path.read_text())["rows"]
    assert {row["model"] for row in rows} == set(reward_models.models())
    assert len(rows) == len(reward_models.models()) * 2 * 2
    ours = [row for row in rows if row["model"] == "linear trend (R-SPAR)" and row["learned"] == 48]
    assert min(row["spearman"] for row in ours) > 0.8
    assert "ranking after 16" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "message"),
    [(("--target", "0.5"), "holds 0 runs"), (("--task", "digits-resnet20"), "holds 0 runs")],
)
def test_a_table_without_such_runs_is_refused(table, change, message, capsys):
    arguments = ["--evaluations", str(table), "--task", "tiny-cnn", "--target", "0.6"]
    arguments[arguments.index(change[0]) + 1] = change[1]
    assert reward_models.main(arguments) == 2
    assert message in capsys.readouterr().err


def test_another_table_is_refused(tmp_path, capsys):
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    assert reward_models.main(["--evaluations", str(tmp_path / "other.csv")]) == 2
    assert "no table of evaluations" in capsys.readouterr().err
