"""Targets of parameters and latency: the same promises as for FLOPs."""

import itertools

import numpy as np
import pytest

from prune_gym.allocation.knapsack import knapsack
from prune_gym.cost.budgeted import BudgetedCost
from prune_gym.cost.joint import Budget, JointCost, guided
from prune_gym.cost.latency import LatencyTable, LayerTimes
from prune_gym.cost.latency_cost import LatencyCost
from prune_gym.cost.target import Target
from prune_gym.problem.problem import PruningProblem
from tests.prune_gym.tiny import tiny_task


@pytest.fixture(scope="module")
def problem():
    return PruningProblem(tiny_task())


def invented_table(cost) -> LatencyTable:
    """Times that are convex in neither size and have a step, as measured ones do."""
    layers = {}
    for name in cost.input_shapes:
        outputs, inputs = (float(size) for size in cost.module_sizes(name, cost.units))
        grids = [np.unique(np.ceil(np.array([0.05, 0.25, 0.5, 0.75, 1.0]) * size)) for size in (outputs, inputs)]
        times = 0.01 + 1e-3 * np.sqrt(np.outer(*grids)) + 0.02 * (grids[0][:, None] > outputs / 2)
        layers[name] = LayerTimes(*grids, times)
    return LatencyTable(cost, layers, rest=0.05)


def costs_of(problem):
    return [problem.cost, problem.cost.params_cost, LatencyCost(invented_table(problem.cost))]


@pytest.mark.parametrize("which", [0, 1, 2])
@pytest.mark.parametrize("target", [0.1, 0.35, 0.5])
def test_projected_plans_are_on_the_target_and_give_nothing_away(problem, which, target):
    cost = costs_of(problem)[which]
    limits = cost.limits()
    if target > cost.largest_reduction(limits):
        pytest.skip("out of reach")
    ratios = np.random.default_rng(0).uniform(0, 0.9, (20, len(cost.units)))
    kept = cost.project(ratios, target)
    assert (cost.reduction(kept) >= target).all()
    assert limits.contains(kept).all()
    np.testing.assert_array_equal(cost.project_logits(limits.logits(kept), target, limits), kept)
    for plan in kept:
        more = limits.one_more(plan)
        assert not ((more > plan) & (1 - cost.each_changed(plan, more) / cost.dense >= target)).any()


@pytest.mark.parametrize("which", [0, 1, 2])
def test_the_knapsack_finds_nearly_the_best_of_all_plans(problem, which):
    cost = costs_of(problem)[which]
    limits = cost.limits(0.75, round_to=4)
    generator = np.random.default_rng(which)
    curves = [np.append(0.0, np.cumsum(generator.exponential(size=count - 1))) for count in cost.units]
    every = np.array(list(itertools.product(*(limits.choices(layer) for layer in range(len(cost.units))))))
    losses = sum(curve[len(curve) - every[:, layer]] for layer, curve in enumerate(curves))
    for target in (0.1, 0.3, 0.45):
        feasible = cost.reduction(every) >= target
        plan = knapsack(curves, cost, target, limits=limits)
        loss = sum(curve[len(curve) - count] for curve, count in zip(curves, plan, strict=True))
        assert cost.reduction(plan) >= target
        assert loss <= 1.1 * losses[feasible].min()


def test_several_budgets_are_all_met_and_one_budget_is_the_plain_knapsack(problem):
    costs = costs_of(problem)
    curves = [np.linspace(0, 1, count) ** 2 for count in problem.cost.units]
    budgets = [Budget(costs[0], 0.3), Budget(costs[1], 0.6), Budget(costs[2], 0.2)]
    for cost in guided(budgets):
        plan = knapsack(curves, cost, cost.target)
        for budget in budgets:
            assert budget.cost.reduction(plan) >= budget.reduction - 1e-12
    alone = JointCost(budgets[:1], [1.0])
    loss = [
        sum(curve[len(curve) - count] for curve, count in zip(curves, knapsack(curves, cost, target), strict=True))
        for cost, target in ((alone, alone.target), (costs[0], 0.3))
    ]
    assert loss[0] == pytest.approx(loss[1], rel=0.05)


def test_a_table_never_says_that_a_larger_layer_is_faster():
    times = LayerTimes(np.array([1.0, 8.0]), np.array([1.0, 8.0]), np.array([[2.0, 1.0], [1.5, 3.0]]))
    np.testing.assert_array_equal(times.milliseconds, [[2.0, 2.0], [2.0, 3.0]])


def test_the_form_of_a_latency_is_close_to_the_table_and_never_falls(problem):
    cost = LatencyCost(invented_table(problem.cost))
    plans = np.stack([np.random.default_rng(1).integers(1, count + 1, 200) for count in cost.units], axis=1)
    assert np.corrcoef(cost.of(plans), cost.form(plans))[0, 1] > 0.95
    assert (cost.form.linear >= 0).all()
    assert (cost.form.pairwise >= 0).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"flops_reduction": 0.5, "latency": 0.5}, "one target; got target_flops_reduction, target_latency"),
        ({"latency": 1.5}, "target_latency is a fraction"),
        ({"params_reduction": (0.9, 0.1)}, "target_params_reduction is a fraction"),
    ],
)
def test_two_targets_and_impossible_ones_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Target.of_arguments(None, **arguments)


def test_a_latency_is_what_may_be_left_and_a_target_what_goes():
    assert Target.of_arguments(None, latency=(0.6, 0.75)).reduction == pytest.approx((0.25, 0.4))
    assert Target.of_arguments(None).reduction is None
    with pytest.raises(ValueError, match="did you mean 'latency'"):
        Target("latancy", 0.5)


def test_a_cost_says_its_form_and_what_the_dense_network_costs():
    class Incomplete(BudgetedCost):
        pass

    with pytest.raises(TypeError, match=r"dense.*form"):
        Incomplete()
