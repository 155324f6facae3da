"""Plans evaluated together score what they score alone, or are evaluated alone for a reason that is said."""

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from hessian import HOBSSensitivityAnalyzer
from prune_gym.measuring import evaluator as evaluator_module
from prune_gym.measuring.evaluator import Evaluator
from prune_gym.measuring.stacked import passes, side_by_side
from prune_gym.problem import PruningProblem
from prune_gym.tasks.task import AGREEMENT
from tests.hessian import networks
from tests.prune_gym.measuring.test_evaluator import evaluator_of, half

REPAIRS = ("closed_form", "none", "sequential")


def together(alone):
    """A second judge of the same task that evaluates plans together."""
    judge = Evaluator(alone.task, alone.hobs, together=True)
    judge._repair = alone._repair
    return judge


def units(judge):
    return [group.num_units for group in judge.hobs.groups]


def some_plans(judge, count=5, seed=0):
    rng = np.random.default_rng(seed)
    plans = [[int(rng.integers(1, each + 1)) for each in units(judge)] for _ in range(count)]
    return [half(judge), units(judge), [1] * len(units(judge)), *plans]


def assert_equal_scores(found, expected):
    for one, other in zip(found, expected, strict=True):
        assert one.accuracy == other.accuracy
        odds = [np.log(score.soft_accuracy / (1 - score.soft_accuracy)) for score in (one, other)]
        assert odds[0] == pytest.approx(odds[1], abs=1e-4)
        assert one.loss == pytest.approx(other.loss, abs=1e-4)


@pytest.mark.parametrize("repair", REPAIRS)
@pytest.mark.parametrize("kind", [*networks.ALL, networks.ByKeyword])
def test_plans_score_together_what_they_score_alone(kind, repair, device):
    alone = evaluator_of(kind, repair, device)
    judge = together(alone)
    assert judge.one_by_one is None
    plans = some_plans(alone)
    assert_equal_scores(judge.evaluate_many(plans), [alone.evaluate(plan) for plan in plans])
    assert list(judge.archive) == list(dict.fromkeys(map(tuple, plans)))


ALONE = {kind: evaluator_of(kind, "closed_form") for kind in (networks.Residual, networks.Concat)}


@settings(max_examples=10, deadline=None)
@given(kind=st.sampled_from(list(ALONE)), seed=st.integers(0, 10_000), count=st.integers(2, 6))
def test_any_plans_do(kind, seed, count):
    alone = ALONE[kind]
    plans = some_plans(alone, count, seed)
    assert_equal_scores(together(alone).evaluate_many(plans), [alone.evaluate(plan) for plan in plans])


def test_what_is_known_is_not_measured_again_and_seconds_are_shared_out():
    judge = together(evaluator_of(networks.Residual, "none"))
    first, *others = some_plans(judge)
    before = judge.evaluate(first)
    found = judge.evaluate_many([first, *others, first])
    assert found[0] is before is found[-1]
    assert judge.num_measured == len(dict.fromkeys(map(tuple, [first, *others])))
    assert all(seconds > 0 for seconds in judge.seconds.values())


@pytest.mark.parametrize("metric", [AGREEMENT, "numbers"])
def test_agreement_with_the_dense_network_is_graded_together_too(metric):
    alone = evaluator_of(networks.Concat, "none")
    criterion = nn.functional.mse_loss if metric == "numbers" else alone.task.criterion
    task = dataclasses.replace(alone.task, metric=AGREEMENT, criterion=criterion)
    one, judge = (Evaluator(task, alone.hobs, "none", together=each) for each in (False, True))
    plans = some_plans(one)
    for a, b in zip(judge.evaluate_many(plans), [one.evaluate(plan) for plan in plans], strict=True):
        assert dataclasses.astuple(a) == pytest.approx(dataclasses.astuple(b), abs=1e-5)


# ---------------------------------------------------------------- one by one, and why


class Normed(nn.Module):
    """A norm over channels between two convolutions: a channel that reads as zero is no channel that is gone."""

    def __init__(self):
        super().__init__()
        self.first, self.norm = nn.Conv2d(3, 6, 3, padding=1), nn.GroupNorm(1, 6)
        self.last, self.head = nn.Conv2d(6, 5, 3, padding=1), nn.Linear(5, 4)

    def forward(self, x):
        return self.head(torch.relu(self.last(torch.relu(self.norm(self.first(x))))).mean(dim=(2, 3)))


class Reading(networks.Concat):
    """Its forward pass reads a number off its activations."""

    def forward(self, x):
        left = self.left(x)
        gain = 1.0 if float(left.abs().sum()) > 0 else 2.0
        x = torch.cat([left, self.right(x)], dim=1) * gain
        x = torch.relu(self.merge(torch.relu(self.norm(x))))
        return self.head(x.flatten(1))


@pytest.mark.parametrize(
    ("kind", "reason"), [(Normed, "channels that read as zero"), (Reading, "does not run on stacked weights")]
)
@pytest.mark.parametrize("repair", ["closed_form", "none"])
def test_a_network_that_cannot_be_stacked_is_run_plan_by_plan(kind, reason, repair):
    alone = evaluator_of(kind, repair)
    judge = together(alone)
    assert reason in judge.one_by_one
    plans = some_plans(alone)
    assert judge.evaluate_many(plans) == [alone.evaluate(plan) for plan in plans]


def test_a_metric_of_the_tasks_own_is_given_plans_one_by_one():
    alone = evaluator_of(networks.Concat, "none")
    task = dataclasses.replace(alone.task, metric=lambda model, split: float(model(split.images).mean()))
    assert "metric" in Evaluator(task, alone.hobs, "none", together=True).one_by_one


def test_on_a_cpu_plans_are_measured_one_by_one_unless_asked_otherwise():
    judge = evaluator_of(networks.Residual, "none")
    assert "CPU" in judge.one_by_one


# ---------------------------------------------------------------- memory


def test_a_batch_of_plans_is_split_so_that_it_fits_the_bound(monkeypatch):
    alone = evaluator_of(networks.Residual, "none")
    judge, plans = together(alone), some_plans(alone, 7)
    maps = passes.bytes_of_maps(judge._folded.model, judge._reward.images)
    weights = sum(tensor.nbytes for tensor in judge._folded.model.state_dict().values())
    each = side_by_side.LIVE_MAPS * maps * len(judge._reward) + side_by_side.LIVE_WEIGHTS * weights
    monkeypatch.setattr(side_by_side, "STACK_BYTES", 3.5 * each)
    sizes, run = [], passes.outputs

    def counted(model, stacked, images):
        sizes.append(len(next(iter(stacked.values()))))
        return run(model, stacked, images)

    assert judge.one_by_one is None
    monkeypatch.setattr(side_by_side.passes, "outputs", counted)
    assert_equal_scores(judge.evaluate_many(plans), [alone.evaluate(plan) for plan in plans])
    assert max(sizes) <= 3
    assert sum(sizes) >= len(dict.fromkeys(map(tuple, plans))) - 1


def test_the_largest_maps_are_those_of_a_modules_inputs_and_outputs():
    model = nn.Sequential(nn.Conv2d(3, 10, 3, padding=1), nn.ReLU(), nn.Conv2d(10, 2, 3))
    assert passes.bytes_of_maps(model, torch.zeros(5, 3, 8, 8)) == 4 * (10 + 10) * 64


def test_where_two_plans_do_not_fit_they_are_run_one_by_one(monkeypatch):
    monkeypatch.setattr(side_by_side, "STACK_BYTES", 1)
    judge = together(evaluator_of(networks.Residual, "none"))
    assert "STACK_BYTES" in judge.one_by_one
    assert len(judge.evaluate_many(some_plans(judge))) == 8


# ---------------------------------------------------------------- statistics


class Activated(nn.BatchNorm2d):
    """A batch norm with an activation inside, as libraries have them."""

    def forward(self, x):
        return torch.relu(super().forward(x))


class WithActivated(networks.Residual):
    def __init__(self):
        super().__init__()
        self.bn1 = Activated(self.bn1.num_features)


class Twice(nn.Module):
    """A batch norm that runs twice."""

    def __init__(self):
        super().__init__()
        self.first, self.norm = nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.last, self.head = nn.Conv2d(6, 5, 1), nn.Linear(5, 4)

    def forward(self, x):
        x = self.norm(torch.relu(self.norm(self.first(x))) + 1.0)
        return self.head(torch.relu(self.last(x)).mean(dim=(2, 3)))


@pytest.mark.parametrize("kind", [WithActivated, Twice])
def test_statistics_of_unusual_batch_norms_are_those_of_a_plan_alone(kind):
    alone = evaluator_of(kind, "closed_form")
    judge, plans = together(alone), some_plans(alone)
    assert judge.one_by_one is None
    assert_equal_scores(judge.evaluate_many(plans), [alone.evaluate(plan) for plan in plans])


def test_a_network_keeps_its_own_forward_and_weights():
    judge = together(evaluator_of(networks.Residual, "closed_form"))
    models = [judge._folded.model, judge._repair._model, judge.task.model]
    before = [{name: tensor.clone() for name, tensor in model.state_dict().items()} for model in models]
    judge.evaluate_many(some_plans(judge))
    for model, state in zip(models, before, strict=True):
        assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
        assert not any("forward" in vars(module) for module in model.modules())


# ---------------------------------------------------------------- who asks for several plans


@pytest.fixture
def problem(tiny_task, tmp_path):
    problem = PruningProblem(tiny_task, cache_dir=tmp_path, repair="closed_form").load()
    problem.evaluator.together = True
    return problem


def test_plans_asked_for_in_advance_are_measured_together(problem, monkeypatch):
    monkeypatch.setattr(evaluator_module.Evaluator, "_measure", lambda *_: pytest.fail("measured alone"))
    plans = some_plans(problem.evaluator, 3)
    problem.prefetch(plans)
    assert problem.evaluator.num_measured == len(dict.fromkeys(map(tuple, plans)))


def test_the_map_of_predictions_is_fitted_to_plans_measured_together(problem, tmp_path):
    alone = PruningProblem(problem.task, cache_dir=tmp_path / "alone", repair="closed_form").load()
    kept = problem.cost.units // 2
    np.testing.assert_allclose(problem.predicted_metrics(kept), alone.predicted_metrics(kept), atol=1e-4)


def test_analyses_of_magnitude_are_nested_too(tiny_task):
    hobs = HOBSSensitivityAnalyzer(tiny_task.model)
    hobs.compute_sensitivity(tiny_task.calibration.batches(32))
    one, judge = (Evaluator(tiny_task, hobs, "sequential_fast", together=each) for each in (False, True))
    plans = some_plans(one, 2)
    assert_equal_scores(judge.evaluate_many(plans), [one.evaluate(plan) for plan in plans])
