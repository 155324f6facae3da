import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from hessian.channels import find_channel_groups
from prune_gym.cost import CostModel
from prune_gym.cost.limits import CountLimits
from prune_gym.cost.projection import project
from prune_gym.surgery.pruner import PhysicalPruner
from prune_gym.tasks.models import resnet20


class Flattened(nn.Module):
    """A flatten, a grouped convolution, a depthwise one, a transposed one and a concatenation."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.norm = nn.BatchNorm2d(8)
        self.grouped = nn.Conv2d(8, 12, 3, stride=2, padding=1, groups=2)
        self.up = nn.ConvTranspose2d(12, 6, 2, stride=2)
        self.mix = nn.Conv2d(6 + 8, 5, 1)
        self.hidden = nn.Linear(5 * 36, 10)
        self.head = nn.Linear(10, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        skip = torch.relu(self.norm(self.depthwise(torch.relu(self.stem(x)))))
        x = self.up(torch.relu(self.grouped(skip)))
        x = torch.relu(self.mix(torch.cat([torch.relu(x), skip], dim=1)))
        return self.head(torch.relu(self.hidden(x.flatten(1))))


NETWORKS = {
    "plain": (
        lambda: nn.Sequential(
            nn.Conv2d(1, 6, 3), nn.ReLU(), nn.Conv2d(6, 8, 3), nn.PReLU(8), nn.Flatten(), nn.Linear(200, 3)
        ),
        (1, 9, 9),
    ),
    "everything": (Flattened, (3, 6, 6)),
    "residual": (lambda: resnet20(widths=(4, 6, 8)), (1, 8, 8)),
}


def build(name: str) -> tuple[nn.Module, torch.Tensor, CostModel]:
    torch.manual_seed(0)
    factory, shape = NETWORKS[name]
    model, example = factory().eval(), torch.randn(2, *shape)
    return model, example, CostModel(find_channel_groups(model, example), model, example)


@pytest.fixture(scope="module", params=sorted(NETWORKS))
def network(request: pytest.FixtureRequest) -> tuple[nn.Module, torch.Tensor, CostModel]:
    return build(request.param)


@pytest.fixture(scope="module")
def cost() -> CostModel:
    return build("residual")[2]


COST = build("residual")[2]
RATIOS = st.lists(st.floats(0.0, 1.0), min_size=len(COST.units), max_size=len(COST.units))


def counted_flops(model: nn.Module, example: torch.Tensor) -> int:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.eval()(example[:1])
    return counter.get_total_flops()


def test_flops_and_parameters_equal_those_of_the_physically_pruned_network(network):
    model, example, cost = network
    pruner = PhysicalPruner(model, example)
    rng = np.random.default_rng(0)
    plans = [cost.units, np.ones_like(cost.units), *(rng.integers(1, cost.units + 1) for _ in range(3))]
    for kept in plans:
        plan = {
            group.name: group.channels(range(group.num_units - count))
            for group, count in zip(cost.groups, kept, strict=True)
        }
        small = pruner.prune(plan)
        assert cost.flops(kept) == counted_flops(small, example)
        assert cost.params(kept) == sum(parameter.numel() for parameter in small.parameters())


def test_dense_cost_is_the_networks_and_building_leaves_the_model_alone():
    model = resnet20(widths=(4, 6, 8)).train()
    example = torch.randn(3, 1, 8, 8)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    cost = CostModel(find_channel_groups(model, example), model, example)
    assert all(module.training for module in model.modules())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert cost.dense_flops == counted_flops(model, example)
    assert cost.dense_params == sum(parameter.numel() for parameter in model.parameters())


def test_a_batch_of_plans_costs_what_its_plans_cost_one_by_one(cost):
    kept = np.random.default_rng(1).integers(1, cost.units + 1, size=(2, 5, len(cost.units)))
    for function in (cost.flops, cost.params, cost.reduction):
        one_by_one = np.array([[function(plan) for plan in row] for row in kept])
        assert function(kept).shape == (2, 5)
        np.testing.assert_array_equal(function(kept), one_by_one)


def test_modules_add_up_to_the_network(network):
    _, _, cost = network
    kept = np.random.default_rng(6).integers(1, cost.units + 1, size=(5, len(cost.units)))
    total = sum(cost.module_flops(name, kept) for name in cost.input_shapes)
    np.testing.assert_array_equal(total, cost.flops(kept))
    for name, shape in cost.input_shapes.items():
        outputs, inputs = cost.module_sizes(name, cost.units)
        assert int(inputs) in shape
        assert int(outputs) >= 1


def test_cost_change_of_one_layer_equals_the_difference_of_two_costs(cost):
    rng = np.random.default_rng(2)
    kept, other = rng.integers(1, cost.units + 1), rng.integers(1, cost.units + 1)
    for layer, change in enumerate(cost.flops_form.change(kept, other)):
        moved = kept.copy()
        moved[layer] = other[layer]
        assert change == cost.flops(moved) - cost.flops(kept)
        along = cost.flops_form.along(kept, layer, np.array([other[layer], kept[layer]]))
        assert along.tolist() == [cost.flops(moved), cost.flops(kept)]


@settings(max_examples=60)
@given(ratios=RATIOS, share=st.floats(0.0, 1.0), max_ratio=st.floats(0.5, 0.95), round_to=st.integers(1, 3))
def test_projection_meets_the_target_and_no_unit_can_be_given_back(ratios, share, max_ratio, round_to):
    limits = COST.limits(max_ratio, round_to=round_to)
    target = share * COST.largest_reduction(limits)
    kept = COST.project(np.array(ratios), target, limits=limits)
    assert limits.contains(kept)
    assert COST.reduction(kept) >= target
    for layer in range(len(kept)):
        more = kept.copy()
        more[layer] = limits.one_more(kept)[layer]
        assert more[layer] == kept[layer] or COST.reduction(more) < target


@settings(max_examples=30)
@given(ratios=RATIOS, target=st.floats(0.05, 0.9))
def test_projecting_twice_changes_nothing(ratios, target):
    once = COST.project(np.array(ratios), target)
    np.testing.assert_array_equal(COST.project(1.0 - once / COST.units, target), once)


def test_projection_before_the_fill_is_the_first_feasible_plan_of_the_path(cost):
    limits = cost.limits()
    rng = np.random.default_rng(3)
    for target in (0.3, 0.6, 0.9):
        logits = rng.normal(size=len(cost.units))
        kept = project(np.exp(logits)[None], np.array([target]), cost.flops_form, cost.dense_flops, limits, fill=False)
        path = limits.from_logits(logits + np.linspace(-15, 15, 200_001)[:, None])
        feasible = cost.reduction(path) >= target
        np.testing.assert_array_equal(kept[0], path[feasible.argmax()])


@pytest.mark.parametrize("batch", [2, 40, 300])
def test_projecting_many_plans_at_once_equals_one_by_one(cost, batch):
    rng = np.random.default_rng(4)
    ratios, targets = rng.uniform(size=(batch, len(cost.units))), rng.uniform(0.1, 0.9, size=batch)
    one_by_one = [cost.project(row, target) for row, target in zip(ratios, targets, strict=True)]
    np.testing.assert_array_equal(cost.project(ratios, targets), np.stack(one_by_one))


def test_an_unreachable_target_names_the_reachable_range(cost):
    reachable = cost.reduction(cost.limits(0.5).minimum)
    with pytest.raises(ValueError, match=rf"0\.97 is out of reach.*\[0, {reachable:.4f}\]"):
        cost.project(np.full(len(cost.units), 0.5), 0.97, max_ratio=0.5)
    with pytest.raises(ValueError, match="out of reach"):
        cost.project(np.full(len(cost.units), 0.5), float("nan"))


@pytest.mark.parametrize("ratios", [[0.5], [float("nan")] * 12, [1.5] * 12])
def test_ratios_that_are_none_are_refused(cost, ratios):
    with pytest.raises(ValueError, match="12 pruning ratios in"):
        cost.project(np.array(ratios), 0.5)


@pytest.mark.parametrize("settings", [{"max_ratio": 1.0}, {"min_channels": 0}, {"round_to": 2.5}])
def test_limits_refuse_settings_out_of_range(cost, settings):
    with pytest.raises(ValueError, match=r"max_pruning_ratio|min_channels|round_to"):
        CountLimits.of(cost.groups, **settings)


def test_steps_up_and_down_visit_exactly_the_legal_counts(cost):
    limits = cost.limits(0.8, round_to=3, min_channels=2)
    for layer in range(len(limits.units)):
        choices = limits.choices(layer)
        climbed, kept = [int(limits.minimum[layer])], limits.minimum.copy()
        while kept[layer] < limits.units[layer]:
            kept = limits.one_more(kept)
            climbed.append(int(kept[layer]))
        assert climbed == choices.tolist()
        descended, kept = [int(limits.units[layer])], limits.units.copy()
        while kept[layer] > limits.minimum[layer]:
            kept = limits.one_fewer(kept)
            descended.append(int(kept[layer]))
        assert descended[::-1] == choices.tolist()


def test_the_logits_of_a_plan_round_to_the_plan(cost):
    limits = cost.limits()
    kept = np.random.default_rng(5).integers(limits.minimum, limits.units + 1, size=(200, len(limits.units)))
    np.testing.assert_array_equal(limits.from_logits(limits.logits(kept)), kept)
