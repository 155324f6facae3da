"""Refit in front of a ReLU: what it shuts off need not be matched."""

import math

import pytest
import torch
from torch import nn

from hessian.channels import find_channel_groups
from hessian.channels.slicing import NetworkSlicer, installed
from hessian.refit.relu_aware import ReluTargets
from hessian.refit.ridge import ridge_refit
from hessian.refit.sequential import SequentialRefitter
from hessian.refit.surroundings import Rectifier, surroundings
from hessian.support.batches import Batch
from tests.hessian import networks

LAYERS = {
    "linear": (lambda: nn.Linear(5, 4), (40, 5)),
    "tokens": (lambda: nn.Linear(5, 4), (10, 6, 5)),
    "conv": (lambda: nn.Conv2d(3, 4, 3, padding=1), (8, 3, 5, 5)),
    "grouped": (lambda: nn.Conv2d(4, 6, 3, groups=2), (8, 4, 5, 5)),
    "windows": (lambda: nn.Conv2d(3, 4, 3), (60, 3, 3, 3)),
}


def problem(kind, ceiling=math.inf, offset=0.0, seed=0):
    torch.manual_seed(seed)
    make, shape = LAYERS[kind]
    layer, inputs = make(), torch.randn(shape)
    with torch.no_grad():
        wanted = layer(inputs) + torch.randn(layer(inputs).shape)  # out of the layer's reach
    axis = -1 if isinstance(layer, nn.Linear) else 1
    channels = wanted.shape[axis]
    gain = torch.linspace(-2.0, 2.0, channels)
    gain = gain if axis == -1 else gain.view(1, -1, *[1] * (wanted.ndim - 2))
    targets = ReluTargets(wanted, gain * wanted + torch.randn(wanted.shape) + offset, gain, ceiling)
    return layer, inputs, targets


def error_of(layer, inputs, targets, matrix):
    weight, bias = matrix[..., :-1].reshape(layer.weight.shape), matrix[..., -1].reshape(-1)
    outputs = torch.func.functional_call(layer, {"weight": weight.float(), "bias": bias.float()}, (inputs,))
    return targets.error(outputs).item()


@pytest.mark.parametrize("ceiling", [math.inf, 0.8])
@pytest.mark.parametrize("kind", LAYERS)
@torch.no_grad()
def test_every_round_lowers_the_error_behind_the_relu(kind, ceiling, monkeypatch):
    layer, inputs, targets = problem(kind, ceiling)
    errors = []
    for rounds in range(5):
        monkeypatch.setattr("hessian.refit.ridge.ROUNDS", rounds)
        matrix = ridge_refit(layer, layer.bias, [inputs], [targets.wanted], 1e-9, [targets]).matrix
        errors.append(error_of(layer, inputs, targets, matrix))
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.95 * errors[0]


@pytest.mark.parametrize("kind", LAYERS)
@torch.no_grad()
def test_where_the_relu_shuts_nothing_off_the_solution_is_the_plain_one(kind):
    layer, inputs, targets = problem(kind, offset=100.0)
    plain = ridge_refit(layer, layer.bias, [inputs], [targets.wanted], 1e-3).matrix
    aware = ridge_refit(layer, layer.bias, [inputs], [targets.wanted], 1e-3, [targets]).matrix
    torch.testing.assert_close(aware, plain)


@torch.no_grad()
def test_many_rounds_reach_what_gradient_descent_on_the_error_reaches(monkeypatch):
    layer, inputs, targets = problem("linear")
    monkeypatch.setattr("hessian.refit.ridge.ROUNDS", 400)
    matrix = ridge_refit(layer, layer.bias, [inputs], [targets.wanted], 1e-9, [targets]).matrix
    trained = nn.Linear(5, 4)
    trained.load_state_dict(layer.state_dict())
    optimizer = torch.optim.LBFGS(trained.parameters(), max_iter=500, line_search_fn="strong_wolfe")

    @torch.enable_grad()
    def closure():
        optimizer.zero_grad()
        loss = targets.error(trained(inputs))
        loss.backward()
        return loss

    optimizer.step(closure)
    assert error_of(layer, inputs, targets, matrix) == pytest.approx(targets.error(trained(inputs)).item(), rel=1e-3)


def test_chunks_and_batches_do_not_matter(monkeypatch):
    layer, inputs, targets = problem("conv")
    whole = ridge_refit(layer, layer.bias, [inputs], [targets.wanted], 1e-3, [targets]).matrix
    monkeypatch.setattr("hessian.refit.ridge.CHUNK_ELEMENTS", 1000)
    parts = [slice(0, 3), slice(3, 8)]
    pieces = [targets.at(part) for part in parts]
    wanted = [targets.wanted[part] for part in parts]
    in_parts = ridge_refit(layer, layer.bias, [inputs[part] for part in parts], wanted, 1e-3, pieces).matrix
    torch.testing.assert_close(in_parts, whole, atol=1e-5, rtol=1e-5)


class Activations(nn.Module):
    """One layer for every way an activation can follow, or not."""

    def __init__(self):
        super().__init__()
        self.through_norm, self.norm = nn.Conv2d(3, 4, 1, bias=False), nn.BatchNorm2d(4)
        self.closes, self.shortcut = nn.Conv2d(4, 4, 1), nn.Conv2d(3, 4, 1)
        self.capped, self.relu6 = nn.Conv2d(4, 4, 1), nn.ReLU6()
        self.smooth, self.twice, self.head = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 2, 1)

    def forward(self, x):
        y = torch.relu(self.norm(self.through_norm(x)))
        y = (self.closes(y) + self.shortcut(x)).relu()
        y = self.relu6(self.capped(y))
        y = nn.functional.gelu(self.smooth(y))
        z = self.twice(y)
        return self.head(torch.relu(z) + z)


def test_the_relu_behind_a_layer_is_found_through_norms_and_sums():
    model = Activations().eval()
    around = surroundings(model, Batch((torch.zeros(1, 3, 2, 2),)))
    assert around.rectifiers == {
        "through_norm": Rectifier("norm", summed=False, ceiling=math.inf),
        "closes": Rectifier(None, summed=True, ceiling=math.inf),
        "capped": Rectifier(None, summed=False, ceiling=6.0),
    }
    assert around.closing == {"closes": None}


@torch.no_grad()
def output_error(model, cut, state, x):
    expected = model(x)
    with installed(model, state, cut.attributes):
        return (model(x) - expected).square().mean().item()


class Chain(nn.Sequential):
    """Three layers, each with a ReLU behind it."""

    def __init__(self):
        super().__init__(
            *(nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU()),
            *(nn.Conv2d(8, 8, 3, padding=1), nn.ReLU()),
            *(nn.Conv2d(8, 6, 3), nn.ReLU()),
        )


def test_networks_of_relus_come_closer_to_the_dense_one_than_without_minding_them():
    for seed in range(6):
        model, (x, _) = networks.make(Chain, seed), networks.images(200)
        groups = find_channel_groups(model, x[:1])
        plan = {group.name: list(range(group.size // 2)) for group in groups}
        cut = NetworkSlicer(model, groups).cut(plan)
        aware, plain = (
            output_error(model, cut, SequentialRefitter(model, groups, [x], relu_aware=choice).state(plan), x)
            for choice in (True, False)
        )
        assert aware < plain


@pytest.mark.parametrize("kind", LAYERS)
@torch.no_grad()
def test_the_error_of_a_solution_is_what_it_misses_of_the_variance(kind):
    layer, inputs, targets = problem(kind)
    found = ridge_refit(layer, layer.bias, [inputs], [targets.wanted], 1e-3)
    weight, bias = found.matrix[..., :-1].reshape(layer.weight.shape), found.matrix[..., -1].reshape(-1)
    outputs = torch.func.functional_call(layer, {"weight": weight.float(), "bias": bias.float()}, (inputs,))
    axis = -1 if isinstance(layer, nn.Linear) else 1
    rows = targets.wanted.movedim(axis, -1).flatten(0, -2)
    missed = (outputs - targets.wanted).square().sum() / (rows - rows.mean(dim=0)).square().sum()
    assert found.error == pytest.approx(missed.item(), rel=1e-4)


@pytest.mark.parametrize("kind", LAYERS)
@torch.no_grad()
def test_before_a_relu_the_error_bounds_what_gets_through(kind):
    layer, inputs, targets = problem(kind)
    targets = ReluTargets(targets.wanted, targets.wanted, torch.ones(()))
    found = ridge_refit(layer, layer.bias, [inputs], [targets.wanted], 1e-9, [targets])
    axis = -1 if isinstance(layer, nn.Linear) else 1
    rows = targets.wanted.movedim(axis, -1).flatten(0, -2)
    through = error_of(layer, inputs, targets, found.matrix) / (rows - rows.mean(dim=0)).square().sum().item()
    plain = ridge_refit(layer, layer.bias, [inputs], [targets.wanted], 1e-9).error
    assert through <= found.error * (1 + 1e-5) < plain
