import itertools

import numpy as np
import pytest
import torch
from torch import nn

from hessian.channels import find_channel_groups
from prune_gym.allocation.knapsack import knapsack
from prune_gym.cost import CostModel


def chain(*widths: int) -> CostModel:
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise((1, *widths)):
        layers += [nn.Conv2d(before, after, 3, padding=1), nn.ReLU()]
    model, example = nn.Sequential(*layers, nn.Conv2d(widths[-1], 2, 1)), torch.randn(1, 1, 6, 6)
    return CostModel(find_channel_groups(model, example), model, example)


def random_curves(cost: CostModel, rng: np.random.Generator, growth: float = 4.0) -> list[np.ndarray]:
    steps = [np.exp(rng.normal(size=n - 1) + np.linspace(0, growth, n - 1)) for n in cost.units]
    return [np.append(0.0, np.cumsum(step)) * np.exp(rng.normal()) for step in steps]


def summed_loss(curves: list[np.ndarray], cost: CostModel, kept: np.ndarray) -> np.ndarray:
    return sum(curve[n - kept[..., layer]] for layer, (curve, n) in enumerate(zip(curves, cost.units, strict=True)))


@pytest.fixture(scope="module")
def toy() -> CostModel:
    return chain(5, 7, 6)


def test_knapsack_finds_the_brute_force_optimum_almost_always_and_never_misses_by_much(toy):
    rng = np.random.default_rng(0)
    plans = np.array(list(itertools.product(*(range(1, n + 1) for n in toy.units))))
    gaps = []
    for _ in range(40):
        curves, target = random_curves(toy, rng), rng.uniform(0.1, 0.85)
        legal = (toy.reduction(plans) >= target) & (plans >= toy.limits(0.95).minimum).all(axis=1)
        optimum = summed_loss(curves, toy, plans)[legal].min()
        gaps.append(summed_loss(curves, toy, knapsack(curves, toy, target)) / optimum - 1.0)
    assert np.mean(np.array(gaps) < 1e-9) >= 0.9
    assert max(gaps) < 0.5


@pytest.mark.parametrize("target", [0.0, 0.2, 0.5, 0.8, 0.93])
@pytest.mark.parametrize("round_to", [1, 2])
def test_the_plan_meets_the_target_and_no_unit_can_be_given_back(target, round_to):
    cost = chain(8, 12, 16, 12)
    limits = cost.limits(0.9, round_to=round_to)
    target = min(target, cost.largest_reduction(limits))
    kept = knapsack(random_curves(cost, np.random.default_rng(1)), cost, target, limits=limits)
    assert limits.contains(kept)
    assert cost.reduction(kept) >= target
    for layer in np.flatnonzero(limits.one_more(kept) > kept):
        more = kept.copy()
        more[layer] = limits.one_more(kept)[layer]
        assert cost.reduction(more) < target


def test_knapsack_beats_uniform_where_layers_differ(toy):
    curves = [scale * np.arange(n, dtype=float) ** 2 for scale, n in zip((100.0, 1.0, 0.01), toy.units, strict=True)]
    uniform = toy.project(np.full(3, 0.5), 0.5)
    assert summed_loss(curves, toy, knapsack(curves, toy, 0.5)) < summed_loss(curves, toy, uniform)


def test_free_layers_are_cut_first():
    cost = chain(6, 6, 6)
    curves = [np.arange(6.0), np.zeros(6), np.arange(6.0)]
    kept = knapsack(curves, cost, 0.3)
    assert kept[0] == kept[2] == 6
    assert kept[1] < 6


def test_same_problem_same_plan(toy):
    curves = random_curves(toy, np.random.default_rng(2))
    np.testing.assert_array_equal(knapsack(curves, toy, 0.6), knapsack(curves, toy, 0.6))


def test_zero_curves_still_give_a_plan_on_the_target(toy):
    assert toy.reduction(knapsack([np.zeros(n) for n in toy.units], toy, 0.7)) >= 0.7


@pytest.mark.parametrize(
    ("curves", "message"),
    [
        ([np.zeros(5)], "one curve a layer, 3"),
        ([np.zeros(5), np.zeros(6), np.zeros(6)], "layer '2' needs 7 finite entries"),
        ([np.zeros(5), np.full(7, np.nan), np.zeros(6)], "layer '2' needs 7 finite entries"),
    ],
)
def test_curves_that_do_not_fit_are_refused(toy, curves, message):
    with pytest.raises(ValueError, match=message):
        knapsack(curves, toy, 0.5)


def test_an_unreachable_target_names_the_range(toy):
    with pytest.raises(ValueError, match=r"reaches \[0, "):
        knapsack([np.zeros(n) for n in toy.units], toy, 0.9, max_ratio=0.3)
