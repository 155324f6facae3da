"""Rebalanced plans: the latency model is exact where its law holds, and the search keeps what it must and gains."""

import itertools

import numpy as np
import pytest
import torch

from prune_gym.surgery import rebalance
from prune_gym.surgery.call_model import CallModel, MeasuredCalls, measure_calls
from prune_gym.surgery.pruner import PhysicalPruner
from prune_gym.surgery.rebalance import LARGEST_BLOCK, LARGEST_MOVE, SLACK, Neighbourhood, fastest, rebalanced
from prune_gym.surgery.rounding import PlanRounder
from prune_gym.tasks.models import resnet20
from tests.prune_gym.surgery_networks import BY_NAME


def problem(network="chain", round_to=1, removed=1):
    """Groups, rounder and the neighbourhood of a plan that removes the same number of units everywhere."""
    if network == "resnet20":
        torch.manual_seed(0)
        model, inputs = resnet20(in_channels=3).eval(), torch.randn(2, 3, 8, 8)
    else:
        model, inputs = BY_NAME[network].model(), BY_NAME[network].inputs()
    pruner = PhysicalPruner(model, inputs)
    plan = {group.name: group.channels(range(removed)) for group in pruner.groups}
    rounder = PlanRounder(pruner.groups, model, pruner.example_input)
    start = rounder.candidates(plan, (round_to,))[round_to]
    limits = rounder.limits(plan, round_to)
    return pruner, rounder, Neighbourhood.of(rounder.kept(plan), start, limits, rounder.reduction(plan))


def random_plans(near, count, seed=0):
    generator = np.random.default_rng(seed)
    return np.stack([generator.choice(levels, count) for levels in near.levels], axis=1)


class ProductLaw:
    """Calls whose times are products of factors of sizes, some liking some sizes better."""

    def __init__(self, cost, seed=0):
        self.cost = cost
        self.names = list(cost.positions)
        generator = np.random.default_rng(seed)
        self.liking = generator.uniform(0.7, 1.3, (len(self.names), 2, 4096))

    def sizes(self, kept):
        pairs = [self.cost.module_sizes(name, kept) for name in self.names]
        return np.stack([pair[1] for pair in pairs], 1), np.stack([pair[0] for pair in pairs], 1)

    def times(self, kept):
        calls = np.arange(len(self.names))
        factors = [size**0.9 * self.liking[calls, side, size] for side, size in enumerate(self.sizes(kept))]
        return 1e-3 * factors[0] * factors[1]

    def measured(self, kept, moods=0.0):
        inputs, outputs = self.sizes(kept)
        slower = np.exp(moods * np.random.default_rng(1).normal(size=(len(kept), 1)))
        return MeasuredCalls(kept, self.times(kept) * slower, 7.0 * inputs, 3.0 * outputs)


@pytest.mark.parametrize(("network", "removed"), [("resnet20", 2), ("chain", 2), ("residual", 2), ("grouped", 1)])
def test_the_model_recovers_times_that_are_products_of_their_sizes(network, removed):
    _, rounder, near = problem(network, removed=removed)
    law = ProductLaw(rounder.cost)
    model = CallModel(rounder.cost, law.measured(random_plans(near, 40)))
    fresh = random_plans(near, 20, seed=5)
    assert model(fresh) == pytest.approx(law.times(fresh).sum(1), rel=1e-6)


def test_a_machine_that_is_slower_now_and_then_does_not_mislead_the_model():
    _, rounder, near = problem("resnet20", removed=2)
    law = ProductLaw(rounder.cost)
    fresh = random_plans(near, 30, seed=5)
    truth = law.times(fresh).sum(1)
    model = CallModel(rounder.cost, law.measured(random_plans(near, 20), moods=0.3))
    assert np.corrcoef(model(fresh), truth)[0, 1] > 0.9


def test_concatenated_inputs_follow_a_power_of_their_size():
    _, rounder, near = problem("concat", removed=1)
    kept = random_plans(near, 40)
    sizes = rounder.cost.module_sizes("join", kept)[1].astype(float)
    measured = MeasuredCalls(kept, sizes[:, None] ** 1.5, sizes[:, None], np.ones((40, 1)))
    fresh = random_plans(near, 10, seed=3)
    expected = rounder.cost.module_sizes("join", fresh)[1] ** 1.5
    assert CallModel(rounder.cost, measured)(fresh) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("seed", range(6))
def test_exchanges_come_close_to_the_best_of_all_plans(seed):
    _, rounder, near = problem("residual", removed=1)
    target = float(rounder.cost.reduction(near.start))
    weights = np.random.default_rng(seed).uniform(0.2, 2.0, len(near.levels))
    found = fastest(near, rounder.cost, lambda kept: kept @ weights)
    plans = np.array(list(itertools.product(*near.levels)))
    flops = rounder.cost.flops(plans)
    least = min((1 - SLACK) * (1 - target) * rounder.cost.dense_flops, float(rounder.cost.flops(near.start)))
    allowed = plans[(rounder.cost.reduction(plans) >= target) & (flops >= least)]
    assert (allowed == found).all(1).any()
    assert found @ weights <= near.start @ weights
    assert found @ weights == pytest.approx((allowed @ weights).min(), rel=0.02)


@pytest.mark.parametrize("removed", [3, 6, 9])
@pytest.mark.parametrize("round_to", [1, 4])
def test_the_plan_found_gains_moves_little_and_keeps_the_flops(round_to, removed):
    _, rounder, near = problem("resnet20", round_to, removed)
    law = ProductLaw(rounder.cost, seed=2)
    found = fastest(near, rounder.cost, lambda kept: law.times(kept).sum(1))
    planned = np.array([group.num_units - removed for group in rounder.groups])
    assert law.times(found[None]).sum() < law.times(near.start[None]).sum() * (0.99 if round_to == 1 else 1 + 1e-9)
    assert rounder.cost.reduction(found) >= near.target
    least = min((1 - SLACK) * (1 - near.target), 1 - float(rounder.cost.reduction(near.start)))
    assert 1 - rounder.cost.reduction(found) >= least - 1e-12
    moved = np.abs(found - planned)
    reach = np.maximum(np.minimum(round_to, LARGEST_BLOCK * planned), LARGEST_MOVE * planned)
    assert ((moved <= reach) | (found == near.start)).all()
    assert (found % round_to == 0).all()


def test_a_bound_on_the_predicted_loss_is_kept():
    pruner, rounder, free = problem("resnet20", removed=6)
    planned = free.start
    curves = [np.random.default_rng(i).uniform(0, 1, group.num_units).cumsum() for i, group in enumerate(pruner.groups)]
    near = Neighbourhood.of(
        planned, planned, rounder.limits({g.name: [0] for g in pruner.groups}, 1), free.target, curves
    )
    law = ProductLaw(rounder.cost, seed=3)

    def loss(kept):
        return sum(curve[len(curve) - count] for curve, count in zip(curves, kept, strict=True))

    bound = fastest(near, rounder.cost, lambda kept: law.times(kept).sum(1))
    unbound = fastest(free, rounder.cost, lambda kept: law.times(kept).sum(1))
    assert loss(bound) <= loss(planned) * (1 + 1e-6)
    assert loss(unbound) > loss(planned)


def test_the_same_times_give_the_same_plan(monkeypatch):
    _, rounder, near = problem("resnet20", removed=5)
    law = ProductLaw(rounder.cost, seed=4)
    monkeypatch.setattr(rebalance, "measure_calls", lambda variant, kept, inputs: law.measured(kept, moods=0.1))
    found = [rebalanced(near, rounder.cost, variant=None, inputs=()) for _ in range(2)]
    assert np.array_equal(*found)
    assert not np.array_equal(found[0], near.start)


def test_one_free_layer_leaves_nothing_to_balance():
    _, rounder, near = problem("resnet20", removed=5)
    fixed = Neighbourhood(
        (near.levels[0], *(near.start[i : i + 1] for i in range(1, len(near.levels)))), near.start, 0.1
    )
    assert rebalanced(fixed, rounder.cost, variant=None, inputs=()) is None


class Fickle(torch.nn.Module):
    """Calls another module every other time."""

    def __init__(self):
        super().__init__()
        self.layers = torch.nn.ModuleList([torch.nn.Identity(), torch.nn.Identity()])
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        for layer in self.layers[: 1 + self.calls % 2]:
            x = layer(x)
        return x


def test_networks_that_call_other_modules_from_pass_to_pass_are_not_modelled():
    assert measure_calls(lambda kept: Fickle(), np.ones((2, 1), dtype=np.int64), (torch.zeros(1),)) is None
