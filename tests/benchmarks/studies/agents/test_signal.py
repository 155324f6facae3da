"""What a lead on the reward split is worth on test, against runs made to a known line."""

import numpy as np
import pytest
from scipy.stats import norm

from benchmarks.studies.agents.signal import MIN_RUNS, reward_to_test, signal_table

SLOPE, LUCK = 0.5, 0.004


def run(number, reward, test, measured=5, target=0.9):
    best = {"kept": [number, 1], "soft_accuracy": reward, "test_accuracy": test}
    return {
        "task": "tiny",
        "agent": "gp",
        "targets": [target],
        "seed": number,
        "evaluations": [{}] * measured,
        "best": {f"{target:g}": best},
    }


def on_a_line(count, seed=0, **changes):
    rng = np.random.default_rng(seed)
    rewards = 0.8 + 0.01 * rng.standard_normal(count)
    tests = 0.4 + SLOPE * rewards + LUCK * rng.standard_normal(count)
    return [run(number, *pair, **changes) for number, pair in enumerate(zip(rewards, tests, strict=True))]


def test_slope_luck_and_the_lead_that_is_needed():
    (row,) = reward_to_test(on_a_line(4000))
    assert row["ends"] == 4000
    assert row["slope"] == pytest.approx(SLOPE, abs=4 * row["slope_error"])
    assert row["residual_std"] == pytest.approx(LUCK, rel=0.05)
    ahead = norm.cdf(row["slope"] * row["lead_needed"] / (np.sqrt(2) * row["residual_std"]))
    assert ahead == pytest.approx(0.9)


def test_a_lead_as_large_as_said_wins_as_often_as_said():
    rng = np.random.default_rng(1)
    (row,) = reward_to_test(on_a_line(4000))
    leaders = 0.4 + SLOPE * (0.8 + row["lead_needed"]) + LUCK * rng.standard_normal(20_000)
    others = 0.4 + SLOPE * 0.8 + LUCK * rng.standard_normal(20_000)
    assert np.mean(leaders > others) == pytest.approx(0.9, abs=0.02)


def test_every_plan_counts_once_and_start_plans_not_at_all():
    runs = on_a_line(12)
    expected = reward_to_test(runs)
    start = [run(99, 0.2, 0.9, measured=1)]
    assert reward_to_test(runs + runs[:3] + start) == expected


def test_soft_accuracy_on_test_has_a_line_of_its_own_where_runs_know_it():
    runs = on_a_line(12)
    for one in runs[:9]:
        best = one["best"]["0.9"]
        best["test_soft_accuracy"] = 0.1 + 0.9 * best["soft_accuracy"]
    top, soft = reward_to_test(runs)
    assert (top["metric"], top["ends"]) == ("test_accuracy", 12)
    assert (soft["metric"], soft["ends"]) == ("test_soft_accuracy", 9)
    assert soft["slope"] == pytest.approx(0.9)
    assert soft["residual_std"] == pytest.approx(0.0, abs=1e-9)
    assert [line.split("|")[3].strip() for line in signal_table([top, soft]).markdown().splitlines()[4:6]] == [
        "top-1",
        "soft",
    ]


def test_targets_are_apart_and_few_runs_make_no_line():
    runs = on_a_line(10) + on_a_line(MIN_RUNS - 1, target=0.5)
    assert [row["question"] for row in reward_to_test(runs)] == ["0.9"]
    assert reward_to_test([]) == []


def test_fronts_have_a_line_through_their_areas_without_those_nobody_searched_for():
    areas = np.linspace(0.80, 0.83, 12)
    fronts = [
        run(number, 0.0, 0.0)
        | {"targets": [0.5, 0.9], "hypervolume": {"soft_accuracy": area, "test_accuracy": 0.3 + 0.6 * area}}
        for number, area in enumerate(areas)
    ]
    start = run(99, 0.0, 0.0, measured=2)
    start |= {"targets": [0.5, 0.9], "hypervolume": {"soft_accuracy": 0.1, "test_accuracy": 0.9}}
    one, all_targets = reward_to_test([*on_a_line(9), *fronts, start])
    assert (one["question"], all_targets["question"]) == ("0.9", "front")
    assert all_targets["ends"] == 12
    assert all_targets["slope"] == pytest.approx(0.6)
    assert "| all | top-1 | 12 |" in " ".join(signal_table([all_targets]).markdown().split())


def test_a_split_that_tells_nothing_has_no_lead_that_would_do():
    runs = on_a_line(12)
    for one in runs:
        best = one["best"]["0.9"]
        best["test_accuracy"] = 1.0 - best["test_accuracy"]
    (row,) = reward_to_test(runs)
    assert row["slope"] < 0
    assert row["lead_needed"] is None
    assert "| 12 |" in signal_table([row]).markdown()
