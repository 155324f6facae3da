"""Every kind of structure: what is found of it, and that any plan cuts it to what the dense network computes."""

import copy
from functools import cache

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from hessian.channels.slicing import NetworkSlicer, installed
from hessian.discovery.discover import discover
from tests.hessian.discovery.structures import IMAGE, MIXING, STRUCTURES


def network(name, seed=0):
    torch.manual_seed(seed)
    model = STRUCTURES[name].build().eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.3)
            nn.init.normal_(module.running_mean, std=0.3)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return model


@pytest.mark.parametrize("name", STRUCTURES)
def test_everything_that_can_go_is_found_and_the_rest_is_named(name):
    found = discover(network(name), torch.randn(IMAGE))
    assert {group.name: group.num_units for group in found.groups} == STRUCTURES[name].layers
    pinned = {stay.name: stay.count for stay in found.pinned if stay.name != "head"}
    assert pinned == STRUCTURES[name].pinned
    assert all(stay.reason for stay in found.pinned)


@cache
def discovered(name):
    model = network(name)
    return model, discover(model, torch.randn(IMAGE)).groups


@settings(max_examples=100, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_any_plan_on_any_structure_equals_the_dense_network_that_makes_nothing_of_these_channels(data):
    name = data.draw(st.sampled_from(sorted(STRUCTURES.keys() - MIXING)))
    model, groups = discovered(name)
    plan = {}
    for group in groups:
        units = data.draw(st.sets(st.integers(0, group.num_units - 1), max_size=group.num_units - 1))
        plan[group.name] = group.channels(units)
    cut = NetworkSlicer(model, groups).cut(plan)
    images = torch.randn(3, *IMAGE[1:], generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = silenced(model, groups, plan)(images)
        with installed(model, cut.state(), cut.attributes):
            torch.testing.assert_close(model(images), expected, rtol=1e-4, atol=1e-4)


def silenced(model, groups, plan):
    """The dense network whose producers and carriers make zeros of the channels removed; consumers are untouched."""
    model = copy.deepcopy(model)
    modules = dict(model.named_modules())
    for group in groups:
        for member in (*group.producers, *group.carriers):
            gone = member.indices[plan[group.name]].reshape(-1)
            if member.parameter is not None:
                owner, _, suffix = member.parameter.rpartition(".")
                getattr(modules[owner], suffix).data.index_fill_(member.axis, gone, 0.0)
                continue
            module = modules[member.module]
            for suffix in ("weight", "bias", "running_mean"):
                tensor = getattr(module, suffix, None)
                if tensor is not None and not isinstance(module, (nn.PReLU, nn.ConvTranspose2d)):
                    tensor.data[gone] = 0.0
            if isinstance(module, nn.ConvTranspose2d):
                module.bias.data[gone] = 0.0
                width = module.out_channels // module.groups
                module.weight.data[:, [index for index in gone.tolist() if index < width]] = 0.0
    return model


def test_the_proof_is_what_finds_sizes_fixed_in_code():
    model = network("a view of fixed size")
    assert "a.0" in {group.name for group in discover(model, torch.randn(IMAGE), verify=False).groups}
    assert "a.0" not in {group.name for group in discover(model, torch.randn(IMAGE)).groups}


def test_an_auxiliary_head_is_cut_with_what_it_reads():
    model = network("an auxiliary head")
    groups = discover(model, torch.randn(IMAGE)).groups
    assert [member.module for member in groups[0].silent] == ["aux"]
    assert "aux" not in {member.module for member in groups[0].consumers}
    cut = NetworkSlicer(model, groups).cut({"stem.0": [0, 5]})
    with torch.no_grad(), installed(model, cut.state(), cut.attributes):
        assert model.train()(torch.randn(2, *IMAGE[1:]))[1].shape == (2, 5)


def test_sizes_a_module_keeps_follow_the_cut():
    model = network("Res2Net")
    groups = discover(model, torch.randn(IMAGE)).groups
    cut = NetworkSlicer(model, groups).cut({"stem.0": groups[0].channels([0, 2])})
    assert cut.attributes[""] == {"width": 2}


def test_half_precision_and_autocast_change_nothing():
    expected = STRUCTURES["FPN"].layers
    for dtype in (torch.bfloat16, torch.float16):
        found = discover(network("FPN").to(dtype), torch.randn(IMAGE).to(dtype))
        assert {group.name: group.num_units for group in found.groups} == expected
    with torch.autocast("cpu", torch.bfloat16):
        found = discover(network("FPN"), torch.randn(IMAGE))
    assert {group.name: group.num_units for group in found.groups} == expected


def snapshot(model):
    return (
        {name: tensor.clone() for name, tensor in model.state_dict().items()},
        [module.training for module in model.modules()],
        [
            (name, parameter.requires_grad, id(parameter), parameter.grad)
            for name, parameter in model.named_parameters()
        ],
        [
            (len(module._forward_hooks), len(module._forward_pre_hooks), len(module._backward_hooks), set(vars(module)))
            for module in model.modules()
        ],
        torch.get_rng_state(),
    )


def assert_untouched(model, before):
    after = snapshot(model)
    assert after[1:4] == before[1:4]
    assert all(torch.equal(after[0][name], tensor) for name, tensor in before[0].items())
    assert torch.equal(after[4], before[4])


@pytest.mark.parametrize("name", ["an auxiliary head", "Res2Net", "a filter that is not saved", "attention"])
@pytest.mark.parametrize("training", [True, False])
def test_the_model_is_left_as_it_was(name, training):
    model = network(name).train(training)
    model.stem[0].weight.requires_grad_(False)
    model.head.eval()
    before = snapshot(model)
    discover(model, torch.randn(IMAGE, generator=torch.Generator().manual_seed(0)))
    assert_untouched(model, before)


def test_the_model_is_left_as_it_was_after_an_error():
    class Late(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm, self.conv = nn.BatchNorm2d(3), nn.Conv2d(3, 4, 1)

        def forward(self, x):
            self.conv(nn.functional.dropout(self.norm(x)))
            raise RuntimeError("no more")

    model = Late()
    before = snapshot(model)
    with pytest.raises(ValueError, match=r"Late does not run on an example input of shape \[\[1, 3, 8, 8\]\]: no more"):
        discover(model, torch.randn(IMAGE, generator=torch.Generator().manual_seed(0)))
    assert_untouched(model, before)


class ByKeyword(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 5, 3)

    def forward(self, image, *, scale=1.0):
        return {"out": [self.b(input=torch.relu(self.a(input=image))) * scale]}


@pytest.mark.parametrize(
    "example", [torch.randn(IMAGE), (torch.randn(IMAGE),), {"image": torch.randn(IMAGE), "scale": 2.0}]
)
def test_inputs_are_a_tensor_a_tuple_or_keywords_and_outputs_anything(example):
    assert [group.name for group in discover(ByKeyword(), example).groups] == ["a"]


def test_wrappers_are_looked_through_or_named():
    model = network("SPPF")
    for wrapped in (nn.DataParallel(model), torch.compile(model, backend="eager")):
        assert [group.name for group in discover(wrapped, torch.randn(IMAGE)).groups] == ["stem.0", "a.0", "b.0"]
    with pytest.raises(TypeError, match="TorchScript"):
        discover(torch.jit.trace(model, torch.randn(IMAGE)), torch.randn(IMAGE))
    with pytest.raises(TypeError, match="must be a torch"):
        discover("resnet50", torch.randn(IMAGE))
    with torch.inference_mode():
        assert len(discover(model, torch.randn(IMAGE)).groups) == 3
