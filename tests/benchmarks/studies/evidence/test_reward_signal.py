import json

import numpy as np
import pytest

from benchmarks.studies.evidence import reward_plans, reward_signal
from prune_gym.problem import PruningProblem
from tests.prune_gym.tiny import register_tiny, tiny_task


def test_ties_are_scores_that_equal_another():
    assert reward_plans.tied([0.5, 0.25, 0.5, 0.75]) == 0.5
    assert reward_plans.tied([0.1, 0.2, 0.3]) == 0.0


def test_plans_are_distinct_on_the_target_and_begin_with_the_start(tmp_path):
    problem = PruningProblem(tiny_task(), cache_dir=tmp_path).load()
    plans = reward_plans.plans_around(problem, 0.6, 3, 1.0, 0)
    assert len(np.unique(plans, axis=0)) == len(plans) == 4
    assert (problem.cost.reduction(plans) >= 0.6).all()
    np.testing.assert_array_equal(plans[0], problem.start_plan("knapsack", 0.6))
    with pytest.raises(ValueError, match="fewer --plans"):
        reward_plans.plans_around(problem, 0.6, 5, 0.0, 0)


def test_agreement_is_the_rank_correlation_of_the_scores():
    first = reward_plans.Signal("first", 0.5, (0.1, 0.2, 0.3, 0.4), (1.0,) * 4, 0.0)
    second = reward_plans.Signal("second", 0.5, (0.2, 0.1, 0.3, 0.9), (1.0,) * 4, 0.0)
    pairs = reward_plans.agreements([first, second], np.array([0.4, 0.3, 0.2, 0.1]))
    found = {(pair.first, pair.second): pair.spearman.value for pair in pairs}
    assert found == pytest.approx({("first", "second"): 0.8, ("first", "predicted"): 1.0, ("second", "predicted"): 0.8})
    assert first.better == 0.0


def test_the_command_measures_every_repair_on_the_same_plans(tmp_path, capsys):
    register_tiny()
    path = tmp_path / "signal.json"
    arguments = ["--task", "tiny", "--plans", "3", "--size", "1", "--threads", "1", "--json", str(path)]
    assert reward_signal.main([*arguments, "--repairs", "sequential", "closed_form", "--targets", "0.6"]) == 0
    (found,) = json.loads(path.read_text())["targets"]
    assert [entry["repair"] for entry in found["repairs"]] == ["sequential", "closed_form"]
    assert all(len(entry["soft_accuracies"]) == 3 == len(found["plans"]) - 1 for entry in found["repairs"])
    assert len(found["agreements"]) == 3
    assert "Spearman sequential, closed_form" in capsys.readouterr().out


def test_a_single_plan_has_no_spread(tmp_path):
    register_tiny()
    path = tmp_path / "signal.json"
    arguments = ["--task", "tiny", "--plans", "1", "--size", "1", "--threads", "1", "--repairs", "sequential"]
    assert reward_signal.main([*arguments, "--targets", "0.6", "--json", str(path)]) == 0
    ((repair,),) = (found["repairs"] for found in json.loads(path.read_text())["targets"])
    assert repair["spread"] is None
    assert len(repair["soft_accuracies"]) == 1


def test_an_unknown_task_or_repair_is_answered_with_the_nearest(capsys):
    for arguments, meant in ((["--task", "digit-resnet20"], "digits-resnet20"), (["--repairs", "non"], "none")):
        with pytest.raises(SystemExit, match="2"):
            reward_signal.main(arguments)
        assert f"did you mean '{meant}'" in capsys.readouterr().err


def test_a_target_out_of_reach_is_refused(capsys):
    register_tiny()
    assert reward_signal.main(["--task", "tiny", "--targets", "0.999", "--threads", "1"]) == 2
    assert "out of reach" in capsys.readouterr().err
