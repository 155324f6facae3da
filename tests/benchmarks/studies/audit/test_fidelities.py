"""Fidelities ranked against what comes after the search."""

import json

import numpy as np
import pytest
from scipy.stats import spearmanr

from benchmarks.studies.audit import fidelities
from benchmarks.studies.audit.fidelities import ENDS, SIGNALS, main, scores, summary
from prune_gym.measuring.evaluator import Evaluator


def _rows(count, twice):
    rng = np.random.default_rng(0)
    rows = []
    for number in range(count):
        ends = [
            {end: {"accuracy": 0.9, "soft_accuracy": float(rng.random())} for end in ENDS}
            for _ in range(2 if number < twice else 1)
        ]
        rows.append({"kept": [number], "scores": {signal: float(rng.random()) for signal in SIGNALS}, "ends": ends})
    return rows


def test_correlations_are_scipys():
    rows = _rows(12, twice=5)
    found = summary(rows)
    for signal in SIGNALS:
        for end in ENDS:
            worth = [row["ends"][0][end]["soft_accuracy"] for row in rows]
            expected = spearmanr([row["scores"][signal] for row in rows], worth).statistic
            assert found["signals"][signal][end]["value"] == pytest.approx(expected)
    first, again = ([row["ends"][i]["fine_tuned"]["soft_accuracy"] for row in rows[:5]] for i in (0, 1))
    assert found["again"]["fine_tuned"]["value"] == pytest.approx(spearmanr(first, again).statistic)
    luck = np.sqrt(np.mean((np.array(first) - np.array(again)) ** 2) / 2)
    assert found["luck"]["fine_tuned"] == pytest.approx(luck)


def test_scores_are_the_evaluators(tiny_problem):
    kept = tiny_problem.start_plan("knapsack", 0.7).tolist()
    found = scores(tiny_problem, [kept])(0)
    measured = Evaluator(tiny_problem.task, tiny_problem.hobs, "sequential").evaluate(kept)
    assert set(found) == set(SIGNALS)
    assert found["sequential, labels"] == pytest.approx(measured.soft_accuracy, abs=1e-5)
    assert found["sequential, dense"] < 0
    assert found["predicted"] == pytest.approx(-float(tiny_problem.predicted_loss(np.array([kept]))[0]))


def test_goes_on_and_refuses_other_plans(tiny_problem, tmp_path, monkeypatch, capsys):
    ended = []

    def carried(problem, refitted, seed):
        ended.append(seed)
        return {end: {"accuracy": 0.9, "soft_accuracy": 0.8 + 0.001 * len(ended)} for end in ENDS}

    monkeypatch.setattr(fidelities, "carried_to_the_end", carried)
    path = tmp_path / "fidelities.json"
    command = ["--task", "tiny-cnn", "--target", "0.6", "--json", str(path), "--threads", "1"]
    assert main([*command, "--plans", "2", "--repeats", "1"]) == 0
    assert ended == [0, 1, 0]
    assert main([*command, "--plans", "3", "--repeats", "1"]) == 0
    assert ended == [0, 1, 0, 0]
    study = json.loads(path.read_text())["studies"][0]
    assert study["summary"]["plans"] == 3
    assert "sequential, dense" in capsys.readouterr().out
    assert main([*command, "--plans", "3", "--seed", "7"]) == 2
    assert "other plans" in capsys.readouterr().err
