import json

import numpy as np
import pytest

from benchmarks.cli import main as cli
from benchmarks.studies.ladder.command import main
from benchmarks.studies.ladder.submission import (
    CHECKPOINTS,
    FORMAT,
    SubmissionError,
    asked_for,
    read_submission,
    scores,
    write_submission,
)
from benchmarks.studies.ladder.summary import standing
from prune_gym.bench.networks import load_networks
from prune_gym.bench.problem import BenchProblem


@pytest.fixture(scope="module")
def runs(bench_file, tmp_path_factory):
    """Finished runs of two baselines, their submissions and the page; so small networks have no more plans to find."""
    folder = tmp_path_factory.mktemp("ladder")
    patch = pytest.MonkeyPatch()
    patch.setattr("benchmarks.studies.ladder.cells.EVALUATIONS", 12)
    options = ["--out", str(folder), "--agents", "knapsack", "random", "--networks", str(bench_file)]
    assert main(["run", *options, "--seeds", "42"]) == 0
    assert main(["publish", *options, "--to", str(folder / "leaderboard")]) == 0
    assert main(["page", "--networks", str(bench_file), "--to", str(folder / "leaderboard")]) == 0
    patch.undo()
    return folder


def submission(bench_file, plan_of, **changed):
    """A submission that answers every contest with one plan."""
    listed = []
    for name, target in asked_for(bench_file):
        plan = plan_of(BenchProblem.shared(name, bench_file), target).tolist()
        plans = {str(count): plan for count in CHECKPOINTS}
        listed.append({"network": name, "target": target, "seed": 42, "plans": plans, **changed})
    return {"format": FORMAT, "agent": "mine", "about": "a test", "runs": listed}


def knapsack(problem, target):
    return problem.start_plan("knapsack", target)


def best(problem, target):
    return problem.network.references[target]


def checked(bench_file, tmp_path, content):
    path = write_submission(tmp_path / "mine.json", content)
    return scores(read_submission(path), bench_file)


def test_the_knapsack_scores_0_and_the_best_known_plan_1(bench_file, tmp_path):
    for plan_of, expected in ((knapsack, 0.0), (best, 1.0)):
        found = checked(bench_file, tmp_path, submission(bench_file, plan_of))
        np.testing.assert_allclose([score.values for score in found], expected, atol=1e-12)


def test_the_protocol_asks_for_the_first_and_the_last_contest_of_every_test_network(bench_file):
    asked = asked_for(bench_file)
    assert asked == [("dense-00", 0.75), ("dense-00", 0.92), ("residual-00", 0.6), ("residual-00", 0.92)]
    assert all(load_networks(bench_file)[name].split == "test" for name, _ in asked)


def test_a_search_is_no_worse_than_its_start_and_scores_are_those_of_its_plans(runs, bench_file):
    found = scores(read_submission(runs / "leaderboard" / "random.json"), bench_file)
    assert len(found) == 4
    for score in found:
        assert score.values[0] == pytest.approx(0.0)
        assert (np.diff(score.values) >= 0.0).all()
    assert standing(read_submission(runs / "leaderboard" / "random.json"), found, 12).missing == 8


def test_the_page_lists_every_submission_best_first(runs):
    page = (runs / "leaderboard.md").read_text()
    rows = [line.split("|")[1].strip() for line in page.splitlines() if line.startswith("| ")][1:]
    assert [row for row in rows if row in ("random", "knapsack")] == ["random", "knapsack"]


def test_a_second_call_runs_nothing_again(runs, bench_file, monkeypatch):
    monkeypatch.setattr("benchmarks.studies.ladder.study.run_cell", None)
    options = ["--out", str(runs), "--agents", "knapsack", "random", "--networks", str(bench_file)]
    assert main(["run", *options, "--seeds", "42"]) == 0


def test_validate_accepts_what_was_published_and_names_what_is_wrong(runs, bench_file, tmp_path, capsys):
    good = runs / "leaderboard" / "random.json"
    assert cli(["validate", str(good), "--networks", str(bench_file)]) == 0
    content = json.loads(good.read_text())
    content["runs"][0]["seed"] = 7
    bad = tmp_path / "bad.json"
    bad.write_text(json.dumps(content))
    assert cli(["validate", str(bad), "--networks", str(bench_file)]) == 1
    assert "checksum" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"network": "plain-00"}, "train split"),
        ({"network": "nobody"}, "no network of the bench"),
        ({"target": 0.5}, "no contest"),
        ({"plans": {"1": [1]}}, "needs a plan after each of 1, 8, 16, 32, 64"),
        ({"plans": {str(count): [1, 1] for count in CHECKPOINTS}}, "another number of layers"),
        ({"plans": {str(count): [1000] * 7 for count in CHECKPOINTS}}, "not legal"),
    ],
)
def test_a_run_that_breaks_a_rule_is_named(bench_file, tmp_path, changed, message):
    content = submission(bench_file, knapsack, **changed)
    with pytest.raises(SubmissionError, match=message):
        checked(bench_file, tmp_path, {**content, "runs": content["runs"][:1]})


def test_a_plan_off_the_target_and_a_run_twice_are_refused(bench_file, tmp_path):
    whole = submission(bench_file, lambda problem, target: problem.cost.units)
    with pytest.raises(SubmissionError, match="misses the target"):
        checked(bench_file, tmp_path, whole)
    twice = submission(bench_file, knapsack)
    with pytest.raises(SubmissionError, match="twice"):
        checked(bench_file, tmp_path, {**twice, "runs": twice["runs"][:1] * 2})
    with pytest.raises(SubmissionError, match="runs: List should have at least 1 item"):
        checked(bench_file, tmp_path, {**twice, "runs": []})


def test_an_unknown_agent_is_told(bench_file, tmp_path):
    options = ["run", "--out", str(tmp_path), "--networks", str(bench_file), "--agents", "cmeas"]
    assert main(options) == 2
