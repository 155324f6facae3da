"""Amortised models: what many networks taught is right for one never seen, additive, and the same in any order."""

import numpy as np
import pytest
import torch

from agents.amortised.damages import DAMAGES, damage_tables
from agents.amortised.model import AmortisedModel, Sizes
from agents.amortised.networks import DamageNetwork
from agents.amortised.training import RewardTraining, predicted, reward_loss
from hessian.audit.rank_correlation import spearman
from prune_gym.allocation.knapsack import knapsack
from tests.agents.amortised import family


@pytest.mark.parametrize("width", [0, 16])
def test_networks_never_seen_are_judged_better_than_by_their_predicted_losses(width):
    for seed in (100, 101, 102):
        bench, problem = family.network(seed), family.problem(seed)
        known = family.trained(width).at(problem)
        kept, targets = family.plans(bench, 60, seed=9)
        kept = kept[targets == 0.8]
        soft = family.truth(bench, kept)[:, 1]
        ours = spearman(np.stack([known.expected(None, kept), soft], axis=-1))
        summed = spearman(np.stack([-problem.predicted_loss(kept), soft], axis=-1))
        assert ours > summed + 0.2


@pytest.mark.parametrize("width", [0, 16])
def test_the_first_plan_is_on_the_target_and_better_than_the_knapsacks(width):
    gains = []
    for seed in (100, 101, 102):
        bench, problem = family.network(seed), family.problem(seed)
        plan = family.trained(width).at(problem).plan(0.8, problem.cost, problem.cost.limits())
        assert problem.cost.reduction(plan) >= 0.8
        start = problem.start_plan("knapsack", 0.8)
        gains.append(np.diff(family.truth(bench, np.stack([start, plan]))[:, 1]).item())
    assert np.median(gains) > 0.0
    assert np.mean(gains) > 0.0


def test_expectations_are_sums_of_the_curves_and_curves_rise():
    problem = family.problem()
    known, target = family.trained(16).at(problem), 0.8
    curves = known.curves(target)
    assert all((np.diff(curve) >= 0).all() and curve[0] == 0.0 for curve in curves)
    kept = family.plans(family.network(100))[0]
    exact = kept[np.abs(problem.cost.reduction(kept) - target) < 1e-3]
    summed = [sum(curve[len(curve) - count] for curve, count in zip(curves, plan, strict=True)) for plan in exact]
    np.testing.assert_allclose(known.expected(None, exact), -np.array(summed), rtol=1e-2)
    assert known.opinions(exact).shape == (2, len(exact))


def test_layers_are_a_set_and_padding_is_not_seen():
    network = DamageNetwork(5, 3, width=8).eval()
    inputs, present = torch.randn(1, 6, 5), torch.ones(1, 6, dtype=torch.bool)
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    with torch.no_grad():
        level, slope = network(inputs, present)
        moved = network(inputs[:, order], present)
        padded = network(torch.cat([inputs, torch.randn(1, 2, 5)], 1), torch.arange(8)[None] < 6)
    torch.testing.assert_close(level[:, order], moved[0], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(level, padded[0][:, :6], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(slope, padded[1][:, :6], atol=1e-5, rtol=1e-5)


def test_damages_begin_at_nothing_and_rise():
    for table in damage_tables(family.problem().log_curves):
        assert table.shape[1] == len(DAMAGES)
        assert (table[0] == 0.0).all()
        assert (np.diff(table, axis=0) >= 0.0).all()


def test_training_sees_a_network_as_the_model_does_afterwards():
    model, examples = family.trained(16), family.examples()
    with torch.no_grad():
        batch = predicted(model.rewards[0], model.scaled(examples.inputs) * examples.present[..., None], examples)
    for row in (0, len(examples.comparisons) - 1):
        found = examples.comparisons[row]
        known = model.at(family.BenchProblem(family.network(found.network)))
        alone = known.opinions(found.kept)[0]
        np.testing.assert_allclose(batch[row, : len(alone)], alone, rtol=3e-2)


def test_the_loss_is_least_where_predictions_are_what_was_measured():
    examples, settings = family.examples(), RewardTraining()
    weights = torch.ones(len(examples.comparisons))

    def loss(found):
        return reward_loss(found, examples, settings, weights)

    true = loss(examples.log_odds)
    assert true < loss(torch.zeros_like(examples.log_odds))
    assert true < loss(-examples.log_odds)
    torch.testing.assert_close(true, loss(examples.log_odds + 3.0))


def test_equal_seeds_train_equal_models_and_leave_the_global_generator_alone():
    state = torch.get_rng_state()
    models = [AmortisedModel(Sizes(8, 1), seed=3) for _ in range(2)]
    for model in models:
        family.train_rewards(model, family.examples(), RewardTraining(steps=3), seed=1)
    for one, other in zip(models[0].state_dict().values(), models[1].state_dict().values(), strict=True):
        assert torch.equal(one, other)
    assert torch.equal(state, torch.get_rng_state())


def test_proposed_plans_weigh_both_curves_in_units_of_what_the_knapsacks_plan_loses():
    differ = 0
    for seed in range(20, 32):
        problem = family.problem(seed)
        limits = problem.cost.limits()
        model = AmortisedModel(Sizes(8, 1), seed=seed)
        known = model.at(problem)
        losses = [np.exp(curve) - np.exp(curve[0]) for curve in problem.log_curves]
        start = knapsack(losses, problem.cost, 0.8, limits=limits)
        units = [sum(c[len(c) - k] for c, k in zip(each, start, strict=True)) for each in (known.curves(0.8), losses)]
        plans = []
        for trust in (0.0, 0.6, 1.0):
            model.trust = trust
            mixed = [
                trust * own / units[0] + (1.0 - trust) * loss / units[1]
                for own, loss in zip(known.curves(0.8), losses, strict=True)
            ]
            plans.append(known.plan(0.8, problem.cost, limits).tolist())
            assert plans[-1] == knapsack(mixed, problem.cost, 0.8, limits=limits).tolist()
        assert plans[0] == start.tolist()
        differ += len({*map(tuple, plans)}) == 3
    assert differ > 3
