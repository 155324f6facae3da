"""Pruning without curvature: units leave by the size of their filters, and nothing is refitted."""

import copy

import gymnasium as gym
import numpy as np
import pytest
import torch

import prune_gym  # noqa: F401
from prune_gym.problem import PruningProblem
from prune_gym.problem import problem as problem_module
from prune_gym.problem.features import COST_FEATURES, FeatureSet
from prune_gym.surgery.pruner import PhysicalPruner
from prune_gym.training import evaluate_model


@pytest.fixture
def problem(tiny_task, device):
    from dataclasses import replace

    model = copy.deepcopy(tiny_task.model).to(device)
    task = replace(tiny_task, model=model, example_input=tiny_task.example_input.to(device))
    return PruningProblem(task, selection="magnitude", repair="none").load()


def test_the_smallest_filters_leave_first(problem):
    modules = dict(problem.task.model.named_modules())
    for name in ("conv2", "conv4", "fc1"):
        norms = modules[name].weight.detach().cpu().flatten(1).norm(dim=1)
        assert problem.hobs.orders[name].tolist() == norms.argsort().tolist()
        removed = problem.hobs.plan([1 if other == name else units for other, units in sizes(problem)])[name]
        assert set(range(len(norms))) - set(removed) == {int(norms.argmax())}
    # Coupled filters count together: the residual stream is written by two convolutions.
    both = sum(modules[name].weight.detach().cpu().flatten(1).square().sum(1) for name in ("conv1", "conv3"))
    assert problem.hobs.orders["conv1"].tolist() == both.argsort().tolist()


def sizes(problem):
    return [(group.name, group.num_units) for group in problem.groups]


def test_curves_are_the_share_of_squared_norm_that_has_left(problem):
    for group in problem.groups:
        curve = problem.hobs.curves[group.name]
        shares = problem.hobs.prices[group.name].sort().values
        assert curve[0] == 0
        assert shares.sum() == pytest.approx(1.0)
        torch.testing.assert_close(curve[1:], shares.cumsum(0)[:-1])


def test_no_curvature_is_measured_and_everything_that_needs_it_says_so(tiny_task, monkeypatch):
    def forbidden(*args, **kwargs):
        raise AssertionError("curvature was measured")

    monkeypatch.setitem(problem_module.SELECTIONS, "hobs", forbidden)
    problem = PruningProblem(tiny_task, selection="magnitude", repair="none")
    env = gym.make("HOBSPrune-v0", problem=problem, features="cost", disable_env_checker=True)
    env.reset(seed=0)
    _, _, _, _, info = env.step(env.action_space.sample())
    assert info["measured_evaluations"] == 2
    assert env.unwrapped.layout.feature_dim == len(COST_FEATURES)
    with pytest.raises(ValueError, match="features='cost'"):
        problem.features_of(FeatureSet.of("kfac"))
    with pytest.raises(ValueError, match="closed-form repair needs curvature"):
        PruningProblem(tiny_task, selection="magnitude", repair="closed_form")
    with pytest.raises(ValueError, match="did you mean 'magnitude'"):
        PruningProblem(tiny_task, selection="magnitud")


def test_an_unrepaired_candidate_scores_what_the_cut_network_with_recalibrated_norms_scores(problem):
    task = problem.task
    kept = [max(1, units // 2) for _, units in sizes(problem)]
    measured = problem.evaluator.evaluate(kept)
    pruner = PhysicalPruner(task.model, task.example_input)
    small = pruner.prune(problem.hobs.plan(kept), calibration=task.calibration)
    cut = evaluate_model(small.eval(), task.reward)
    assert measured.accuracy == pytest.approx(cut.accuracy)
    assert measured.loss == pytest.approx(cut.loss, rel=1e-4)
    exported = problem.evaluator.export(kept)
    torch.testing.assert_close(exported.state_dict()["conv2.weight"], small.state_dict()["conv2.weight"])
    repaired = PruningProblem(task, selection="magnitude").load().evaluator.evaluate(kept)
    assert repaired.loss < measured.loss


def test_measuring_leaves_the_dense_network_alone(problem):
    before = copy.deepcopy(problem.task.model.state_dict())
    dense = problem.dense
    problem.evaluator.evaluate([1 for _ in problem.groups])
    for name, tensor in problem.task.model.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    again = problem.evaluator.evaluate([units for _, units in sizes(problem)])
    assert again.loss == pytest.approx(dense.loss)


def test_measurements_of_other_selections_and_repairs_are_kept_apart(tiny_task):
    keys = {
        PruningProblem(tiny_task, selection=selection, repair=repair).measurement_key
        for selection in ("hobs", "magnitude")
        for repair in ("sequential", "none")
    }
    assert len(keys) == 4


def test_searches_start_on_the_target_and_predict(problem):
    start = problem.start_plan("knapsack", 0.5)
    assert problem.cost.reduction(start) >= 0.5
    predicted = problem.predicted_metrics(np.array([problem.cost.units, start]))
    assert predicted[0, 1] >= predicted[1, 1]
