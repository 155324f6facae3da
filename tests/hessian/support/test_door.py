"""What is handed in as a network is unwrapped or named, and comes back as it was."""

import copy

import pytest
import torch
from torch import nn

from hessian import HOBSSensitivityAnalyzer, KFACHessianApproximator
from hessian.support.door import plain_execution, plain_model, undisturbed
from tests.hessian import networks


class Counting(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer, self.drop = nn.Linear(3, 2), nn.Dropout()
        self.register_buffer("calls", torch.zeros(()))
        self.register_buffer("mean", torch.zeros(2))

    def forward(self, x):
        self.calls += 1
        self.mean = 0.5 * self.mean + 1
        return self.drop(self.layer(x)) * torch.rand(())


def test_wrappers_are_taken_off_in_any_order():
    model = Counting()
    compiled = torch.compile(nn.DataParallel(model), backend="eager")
    assert plain_model(model) is plain_model(nn.DataParallel(compiled)) is model


class FSDPModule:
    pass


class Sharded(Counting, FSDPModule):
    pass


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (lambda: "resnet", "torch.nn.Module, got a str"),
        (lambda: Counting, "torch.nn.Module, got a type"),
        (lambda: torch.jit.script(nn.Linear(2, 2)), "the model is a TorchScript module"),
        (lambda: nn.Sequential(torch.jit.script(nn.Linear(2, 2))), "its part '0' is a TorchScript module"),
        (lambda: torch.export.export(nn.Linear(2, 2), (torch.zeros(1, 2),)), "exported from"),
        (Sharded, "sharded over processes"),
        (lambda: nn.Sequential(nn.DataParallel(nn.Linear(2, 2))), r"its part '0' is wrapped .*\.module"),
    ],
)
def test_what_cannot_be_reached_is_named_with_the_way_out(model, message):
    with pytest.raises(TypeError, match=message):
        plain_model(model())


@pytest.mark.parametrize("door", [KFACHessianApproximator, HOBSSensitivityAnalyzer])
def test_every_door_unwraps(door):
    model = networks.make(networks.Residual)
    assert door(nn.DataParallel(model)).model is model
    with pytest.raises(TypeError, match="TorchScript"):
        door(torch.jit.script(model))


@pytest.mark.parametrize("fails", [False, True])
def test_a_network_and_the_random_stream_come_back_as_they_were(fails):
    model = Counting()
    model.layer.weight.requires_grad_(False)
    model.drop.eval()
    torch.manual_seed(0)
    random, buffers = torch.get_rng_state(), dict(model.named_buffers())
    try:
        with undisturbed(model):
            model.eval().requires_grad_(True)
            model(torch.ones(1, 3))
            if fails:
                raise KeyError
    except KeyError:
        pass
    assert torch.equal(torch.get_rng_state(), random)
    assert [module.training for module in model.modules()] == [True, True, False]
    assert [parameter.requires_grad for parameter in model.parameters()] == [False, True]
    for name, buffer in model.named_buffers():
        assert buffer is buffers[name]
        assert not buffer.any()


def test_nothing_of_the_callers_contexts_is_in_force_inside():
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16), plain_execution():
        product = torch.ones(2, 2) @ torch.ones(2, 2, requires_grad=True)
        assert (product.dtype, product.requires_grad) == (torch.float32, True)
        assert not product.is_inference()


def test_weights_made_in_inference_mode_are_named_where_gradients_are_needed():
    x, y = networks.images(24)
    with torch.inference_mode():
        model = networks.make(networks.Residual)
    with pytest.raises(ValueError, match=r"inference_mode.*copy\.deepcopy"):
        KFACHessianApproximator(model).estimate([(x, y)])
    assert KFACHessianApproximator(copy.deepcopy(model)).estimate([(x, y)])


class Refusing(networks.Residual):
    def forward(self, x):
        torch.rand(())
        if len(x) == 5:
            raise RuntimeError("out of luck")
        return super().forward(x)


@pytest.mark.parametrize("fails", [False, True])
def test_an_analysis_leaves_nothing_behind_whether_it_works_or_fails(fails):
    model, (x, y) = networks.make(Refusing).train(), networks.images(24)
    model.requires_grad_(True)
    hobs = HOBSSensitivityAnalyzer(model, example_input=x[:1])
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    torch.manual_seed(0)
    random = torch.get_rng_state()
    data = [(x[:19], y[:19]), (x[19:], y[19:])] if fails else [(x, y)]
    if fails:
        with pytest.raises(RuntimeError, match="out of luck"):
            hobs.compute_sensitivity(data)
    else:
        hobs.compute_sensitivity(data)
    assert torch.equal(torch.get_rng_state(), random)
    assert all(module.training for module in model.modules())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
