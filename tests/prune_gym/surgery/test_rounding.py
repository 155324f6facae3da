"""Rounded plans keep the nearest multiples; automatic rounding keeps the FLOPs target and takes the fastest."""

import numpy as np
import pytest
import torch
from torch import nn

from hessian import HOBSSensitivityAnalyzer
from prune_gym.cost import CostModel
from prune_gym.surgery import auto_rounding
from prune_gym.surgery import pruner as pruner_module
from prune_gym.surgery.pruner import PhysicalPruner
from prune_gym.tasks.models import resnet20
from tests.prune_gym.surgery_networks import BY_NAME, CASES


@pytest.fixture
def network():
    torch.manual_seed(0)
    return resnet20(in_channels=3).eval(), torch.randn(2, 3, 16, 16)


def kept_channels(pruner, plan):
    return {group.name: group.size - len(plan.get(group.name, ())) for group in pruner.groups}


@pytest.mark.parametrize(("removed", "kept"), [(1, 16), (3, 12), (5, 12), (7, 8), (13, 4), (15, 4)])
def test_kept_channels_go_to_the_nearest_multiple_and_never_to_none(network, removed, kept):
    pruner = PhysicalPruner(*network)
    plan = {"layer1.0.conv1": range(removed)}
    pruned = pruner.prune(plan, round_to=4)
    assert pruned.layer1[0].conv1.out_channels == kept
    assert kept_channels(pruner, pruner.rounded(plan, 4))["layer1.0.conv1"] == kept


def test_layers_the_plan_spares_and_layers_narrower_than_the_multiple_stay_whole(network):
    pruner = PhysicalPruner(*network)
    counts = kept_channels(pruner, pruner.rounded({"layer1.0.conv1": [0, 1], "layer3.0.conv1": range(30)}, 32))
    assert counts["layer1.0.conv1"] == 16
    assert counts["layer3.0.conv1"] == 32
    assert counts["layer2.0.conv1"] == 32


def test_the_dearest_removed_channels_return_and_the_cheapest_kept_ones_leave(network):
    model, inputs = network
    norms = torch.arange(16.0)[torch.randperm(16, generator=torch.Generator().manual_seed(1))] + 1
    with torch.no_grad():
        model.layer1[0].conv1.weight.copy_(norms[:, None, None, None].expand(16, 16, 3, 3))
    cheap_first = torch.argsort(norms).tolist()
    pruner = PhysicalPruner(model, inputs)
    returned = pruner.rounded({"layer1.0.conv1": cheap_first[2:7]}, 4)["layer1.0.conv1"]
    left = pruner.rounded({"layer1.0.conv1": cheap_first[5:8]}, 4)["layer1.0.conv1"]
    assert returned == sorted(cheap_first[2:6])
    assert left == sorted([cheap_first[0], *cheap_first[5:8]])


def test_an_analyzers_elimination_order_decides_when_given(network):
    model, inputs = network
    analyzer = HOBSSensitivityAnalyzer(model, example_input=inputs)
    analyzer.orders = {group.name: torch.arange(group.num_units).flip(0) for group in analyzer.groups}
    pruner = PhysicalPruner(model, inputs)
    assert pruner.rounded({"layer1.0.conv1": [15, 14, 13]}, 4, analyzer=analyzer)["layer1.0.conv1"] == [12, 13, 14, 15]


def test_units_of_a_grouped_convolution_stay_whole():
    case = BY_NAME["grouped"]
    pruner = PhysicalPruner(case.model(), case.inputs())
    group = next(group for group in pruner.groups if group.name == "inner")
    plan = {"inner": group.channels([0])}
    rounded = pruner.rounded(plan, 4)
    assert (group.size - len(rounded.get("inner", ()))) % 4 == 0
    pruner.prune(plan, round_to=4)


@pytest.mark.parametrize("removed", [5, 9, 14])
def test_every_candidate_of_auto_meets_the_plans_own_flops_target(network, removed):
    model, inputs = network
    pruner = PhysicalPruner(model, inputs)
    plan = {group.name: list(range(removed)) for group in pruner.groups}
    cost = CostModel(pruner.groups, model, inputs)
    target = cost.reduction(np.array([group.size - removed for group in pruner.groups]))
    found = pruner.time_roundings(plan, num_iterations=1)
    assert [candidate.latency_ms for candidate in found] == sorted(candidate.latency_ms for candidate in found)
    assert {candidate.round_to for candidate in found} >= {1, 4, 8}
    for candidate in found:
        counts = kept_channels(pruner, candidate.plan)
        reduction = cost.reduction(np.array(list(counts.values())))
        assert reduction == pytest.approx(candidate.flops_reduction)
        assert reduction >= target
        assert all(count % candidate.round_to == 0 for count in counts.values())


def test_auto_takes_the_fastest(network, monkeypatch):
    pruner = PhysicalPruner(*network)
    honest = pruner_module.time_roundings

    def slow_unless_multiples_of_8(*args, **kwargs):
        return sorted(honest(*args, **kwargs), key=lambda candidate: candidate.round_to != 8)

    monkeypatch.setattr(pruner_module, "time_roundings", slow_unless_multiples_of_8)
    plan = {group.name: list(range(7)) for group in pruner.groups}
    pruned = pruner.prune(plan, round_to="auto")
    widths = {module.out_channels for module in pruned.modules() if isinstance(module, nn.Conv2d)}
    assert all(width % 8 == 0 for width in widths)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_auto_serves_every_kind_of_coupling(case):
    pruner = PhysicalPruner(case.model(), case.inputs())
    plan = {group.name: group.channels([0]) for group in pruner.groups if group.num_units > 1}
    cost = CostModel(pruner.groups, pruner.model, pruner.example_input)
    target = cost.reduction(np.array([group.num_units - (group.name in plan) for group in pruner.groups]))
    for candidate in pruner.time_roundings(plan, num_iterations=1):
        assert candidate.flops_reduction >= target
        pruner.prune(candidate.plan)


def test_auto_takes_networks_of_several_inputs():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Conv2d(3, 16, 1), nn.Conv2d(2, 16, 1)
            self.middle, self.head = nn.Conv2d(16, 16, 3), nn.Conv2d(16, 2, 1)

        def forward(self, x, y):
            return self.head(self.middle(self.first(x) * self.second(y)))

    pruner = PhysicalPruner(Two(), (torch.randn(1, 3, 8, 8), torch.randn(1, 2, 8, 8)))
    pruned = pruner.prune({group.name: [0, 1, 2] for group in pruner.groups}, round_to="auto")
    assert pruned.middle.out_channels < 16


def test_the_fastest_is_rebalanced_and_the_predicted_loss_of_an_analysis_bounds_it(network, monkeypatch):
    model, inputs = network
    analyzer = HOBSSensitivityAnalyzer(model, example_input=inputs)
    analyzer.orders = {group.name: torch.arange(group.num_units) for group in analyzer.groups}
    analyzer.curves = {group.name: torch.linspace(0, 1, group.num_units) ** 2 for group in analyzer.groups}
    pruner = PhysicalPruner(model, inputs)
    seen = []

    def spy(near, cost, variant, inputs):
        seen.append(near)
        return np.array([counts[0] for counts in near.levels])

    monkeypatch.setattr(auto_rounding, "rebalanced", spy)
    plan = {group.name: list(range(6)) for group in pruner.groups}
    found = pruner.time_roundings(plan, num_iterations=1, analyzer=analyzer)
    (balanced,) = (candidate for candidate in found if candidate.rebalanced)
    counts = kept_channels(pruner, balanced.plan)
    assert list(counts.values()) == [levels[0] for levels in seen[0].levels]
    assert all(count % balanced.round_to == 0 for count in counts.values())
    for group, levels, losses in zip(pruner.groups, seen[0].levels, seen[0].losses, strict=True):
        expected = [float(analyzer.curves[group.name][group.num_units - count]) for count in levels]
        assert losses == pytest.approx(expected)


def test_zero_iterations_are_refused_before_anything_is_cut(network, monkeypatch):
    pruner = PhysicalPruner(*network)
    monkeypatch.setattr(pruner, "_cut", None)
    with pytest.raises(ValueError, match="num_iterations must be at least 1, got 0"):
        pruner.time_roundings({"layer1.0.conv1": [0]}, num_iterations=0)


def test_auto_leaves_unpruned_layers_whole(network):
    pruner = PhysicalPruner(*network)
    for candidate in pruner.time_roundings({"layer1.0.conv1": [0, 5, 7]}, num_iterations=1):
        assert set(candidate.plan) == {"layer1.0.conv1"}


def test_auto_times_a_channels_last_network_on_channels_last_images(network, monkeypatch):
    model, inputs = network
    seen = []

    def spy(rounder, plan, cut, example_input, **kwargs):
        seen.append(example_input.is_contiguous(memory_format=torch.channels_last))
        return original(rounder, plan, cut, example_input, **kwargs)

    original = pruner_module.time_roundings
    monkeypatch.setattr(pruner_module, "time_roundings", spy)
    pruner = PhysicalPruner(model.to(memory_format=torch.channels_last), inputs)
    pruned = pruner.prune({"layer1.0.conv1": [0]}, round_to="auto")
    assert seen == [True]
    assert pruned.layer1[0].conv1.weight.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("round_to", [0, -8, 2.5, True, "fastest"])
def test_bad_roundings_are_refused(network, round_to):
    pruner = PhysicalPruner(*network)
    with pytest.raises(ValueError, match=r"round_to is a whole number of channels, at least 1, or 'auto'"):
        pruner.prune({"layer1.0.conv1": [0]}, round_to=round_to)


def test_illegal_plans_are_refused_before_any_rounding(network):
    with pytest.raises(ValueError, match="removes channels"):
        PhysicalPruner(*network).prune({"layer1.0.conv1": [99]}, round_to="auto")


def test_the_pruned_network_goes_where_it_is_wanted(network, device):
    pruned = PhysicalPruner(*network).prune({"layer1.0.conv1": [0]}, device=device)
    assert {tensor.device for tensor in pruned.state_dict().values()} == {device}


def test_a_device_that_is_not_there_is_named_before_the_work(network):
    with pytest.raises(ValueError, match="'cuda:99' is not present"):
        PhysicalPruner(*network).prune({"layer1.0.conv1": [0]}, device="cuda:99")
