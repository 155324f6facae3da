"""Layers that standardise their weight are refitted to the best weight their forward can make."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from hessian import HOBSSensitivityAnalyzer
from hessian.channels import find_channel_groups
from hessian.channels.slicing import NetworkSlicer, installed
from hessian.patches.matrices import matrix_columns, to_matrix
from hessian.refit.closed_form import damped_inputs
from hessian.refit.sequential import SequentialRefitter
from hessian.refit.standardised import standardisation
from tests.hessian import networks

PLAN = {"first": [0, 2, 5]}
DAMPING = 1e-3


class Standard(nn.Conv2d):
    """Weight standardisation: every row has mean zero and variance one."""

    def made(self):
        variance, mean = torch.var_mean(self.weight, dim=(1, 2, 3), keepdim=True, correction=0)
        return (self.weight - mean) / (variance + 1e-12).sqrt()

    def forward(self, x):
        return F.conv2d(x, self.made(), self.bias, self.stride, self.padding, self.dilation, self.groups)


class Scaled(Standard):
    """Scaled weight standardisation, as in NFNets: a gain for every row, and a scale that is kept when inputs leave."""

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self.gain = nn.Parameter(torch.linspace(-0.5, 1.5, self.out_channels).view(-1, 1, 1, 1))
        self.scale = self.weight[0].numel() ** -0.5

    def made(self):
        return super().made() * self.gain * self.scale


class Net(nn.Module):
    """A layer that is cut, one that standardises its weight, and a head."""

    def __init__(self, kind, *, groups=1, bias=True, norm=False, calls=1):
        super().__init__()
        self.first = nn.Conv2d(3, 6, 3, padding=1)
        self.second = kind(6, 4, 3, padding=1, groups=groups, bias=bias)
        self.norm = nn.BatchNorm2d(4) if norm else nn.Identity()
        self.head, self.calls = nn.Linear(4, 3), calls

    def forward(self, x):
        x = torch.relu(self.first(x))
        y = sum(self.norm(self.second(x * (1 + call))) for call in range(self.calls))
        return self.head(torch.tanh(y).mean(dim=(2, 3)))


def refitted(model, x, plan, **options):
    groups = find_channel_groups(model, x[:1])
    refitter = SequentialRefitter(model, groups, [x], DAMPING, samples_per_input=None, **options)
    assert not refitter.left_out
    return NetworkSlicer(model, groups).cut(plan), refitter.state(plan)


def inputs_of(model, state, attributes, x, name="second"):
    """What a layer is called with, and what it gives, call by call."""
    seen = []
    handle = model.get_submodule(name).register_forward_hook(lambda _, given, out: seen.append((given[0], out)))
    with torch.no_grad(), installed(model, state, attributes):
        model(x)
    handle.remove()
    return torch.cat([given for given, _ in seen]), torch.cat([out for _, out in seen])


def best(layer, X, Y, start, free):
    """Least objective of a layer over its parameters: squared errors and damping, found by descent through forward."""
    layer = copy.deepcopy(layer).requires_grad_(True)
    for name, tensor in start.items():
        layer.register_parameter(name, nn.Parameter(tensor.clone()))
    centre = layer.made().detach()
    if free is not None:
        layer.register_parameter("bias", nn.Parameter(free.clone()))
    constant = None if layer.bias is None else layer.bias.detach().clone()
    steps = torch.optim.LBFGS(
        layer.parameters(),
        lr=1,
        max_iter=400,
        line_search_fn="strong_wolfe",
        tolerance_grad=1e-11,
        tolerance_change=1e-15,
    )

    def closure():
        steps.zero_grad()
        loss = objective(layer.made(), layer.bias, layer, X, Y, centre, constant)
        loss.backward()
        return loss

    for _ in range(6):
        steps.step(closure)
    return float(closure().detach()), centre, constant


def objective(weight, bias, layer, X, Y, centre, constant):
    found = F.conv2d(X, weight, bias, layer.stride, layer.padding, layer.dilation, layer.groups)
    loss = (found - Y).square().sum()
    columns = F.unfold(X, layer.kernel_size, padding=layer.padding).transpose(0, 1).flatten(1)
    power = columns.square().sum(1).reshape(layer.groups, -1).mean(1)
    rows = (weight - centre).square().flatten(1).sum(1).reshape(layer.groups, -1)
    loss = loss + DAMPING * (power[:, None] * rows).sum()
    if bias is not None:
        ridge = DAMPING * torch.minimum(power, power.new_tensor(columns.shape[1]))
        loss = loss + (ridge[:, None] * (bias - constant).square().reshape(layer.groups, -1)).sum()
    return loss


@pytest.mark.parametrize("kind", [Standard, Scaled])
@pytest.mark.parametrize(
    "options",
    [{}, {"bias": False}, {"bias": False, "norm": True}, {"groups": 2}, {"calls": 2}],
    ids=["bias", "no bias", "norm", "groups", "twice"],
)
def test_the_refit_finds_the_best_weight_that_forward_can_make(kind, options):
    model, x = networks.make(lambda: Net(kind, **options)).double(), networks.images(24)[0].double()
    plan = {"first": [0, 2, 3, 5] if options.get("groups") else [0, 2, 5]}
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    cut, state = refitted(model, x, plan)
    sliced, layer = cut.state(), copy.deepcopy(model.second)
    X, _ = inputs_of(model, sliced, cut.attributes, x)
    _, Y = inputs_of(model, before, {}, x)
    own = {name: sliced[f"second.{name}"] for name in ("weight", "bias", "gain") if f"second.{name}" in sliced}
    absorbed = before["norm.running_mean"] - state["norm.running_mean"] if options.get("norm") else None
    expected, centre, constant = best(layer, X, Y, own, None if absorbed is None else torch.zeros_like(absorbed))
    for name in own:
        layer.register_parameter(name, nn.Parameter(state[f"second.{name}"]))
    bias = layer.bias if absorbed is None else absorbed
    with torch.no_grad():
        found = float(objective(layer.made(), bias, layer, X, Y, centre, constant))
        plain = float(objective(centre, constant, layer, X, Y, centre, constant))
    assert found <= expected * (1 + 1e-6)
    assert found == pytest.approx(expected, rel=1e-3)
    assert found < 0.9 * plain
    assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in before.items())


@pytest.mark.parametrize("kind", [Standard, Scaled])
@pytest.mark.parametrize("options", [{}, {"bias": False}, {"groups": 2}], ids=["bias", "no bias", "groups"])
def test_the_closed_form_finds_the_best_weight_that_forward_can_make(kind, options):
    model, x = networks.make(lambda: Net(kind, **options)).double(), networks.images(24)[0].double()
    hobs = HOBSSensitivityAnalyzer(model, DAMPING, example_input=x[:1])
    hobs.measure_inputs([x], num_batches=None)
    assert not hobs.left_out
    removed = [0, 2, 3, 5] if options.get("groups") else [0, 2, 5]
    state = hobs.compensate({"first": removed})
    layer, factors = copy.deepcopy(model.second).requires_grad_(False), hobs.factors["second"]
    gone = matrix_columns(layer, torch.tensor([[at for at in removed if at < 6 // layer.groups]]))[0]
    A, dense = damped_inputs(factors, DAMPING), to_matrix(layer, layer.made(), layer.bias)
    left = [column for column in range(dense.shape[2]) if column not in gone.tolist()]

    def error():
        lost = dense.clone()
        lost[:, :, left] -= to_matrix(layer, layer.made(), layer.bias)
        return (lost @ A * lost).sum()

    def put(values):
        for name in ("weight", "bias", "gain"):
            if f"second.{name}" in values:
                layer.register_parameter(name, nn.Parameter(values[f"second.{name}"].clone()))

    put(state)
    found = float(error().detach())
    put(hobs.compensator.slicer.cut({"first": removed}).state())
    plain = float(error().detach())
    steps = torch.optim.LBFGS(layer.parameters(), max_iter=1500, line_search_fn="strong_wolfe", tolerance_grad=1e-12)

    def closure():
        steps.zero_grad()
        loss = error()
        loss.backward()
        return loss

    steps.step(closure)
    expected = float(error().detach())
    assert found <= expected * (1 + 1e-6)
    assert found == pytest.approx(expected, rel=1e-3)
    assert found < 0.9 * plain


def test_a_norm_free_network_of_timm_is_repaired():
    nfnet = pytest.importorskip("timm.models.nfnet")
    settings = nfnet.NfCfg(depths=(1, 1), channels=(16, 32), stem_type="3x3", stem_chs=8, group_size=8, num_features=32,
                           bottle_ratio=0.5, extra_conv=True, act_layer="silu")  # fmt: skip
    model = networks.make(lambda: nfnet.NormFreeNet(settings, num_classes=5))
    x = F.interpolate(torch.rand(96, 3, 8, 8, generator=torch.Generator().manual_seed(0)), scale_factor=4.0)
    groups = find_channel_groups(model, x[:1], ignored_layers=["final_conv"])
    plan = {group.name: group.channels(range(group.num_units // 3)) for group in groups if group.num_units > 2}
    refitter = SequentialRefitter(model, groups, [x[:64]])
    cut, state = refitter.slicer.cut(plan), refitter.state(plan)

    def error(weights):
        with torch.no_grad(), installed(model, weights, cut.attributes):
            found = model.forward_features(x[64:])
        with torch.no_grad():
            wanted = model.forward_features(x[64:])
        return float((found - wanted).square().mean() / (wanted - wanted.mean(0)).square().mean())

    assert not refitter.left_out
    assert error(state) < 0.2 * error(cut.state())


def test_a_gain_of_zero_is_no_trouble():
    model, x = networks.make(lambda: Net(Scaled)).double(), networks.images(24)[0].double()
    with torch.no_grad():
        model.second.gain[1] = 0.0
    _, state = refitted(model, x, PLAN)
    assert all(tensor.isfinite().all() for tensor in state.values())
    assert state["second.gain"][1].abs() < 1e-6


class Quantised(nn.Conv2d):
    def forward(self, x):
        return self._conv_forward(x, self.weight.sign() * self.weight.abs().mean(), self.bias)


class ByColumn(nn.Conv2d):
    """Standardises over the rows of a column."""

    def forward(self, x):
        variance, mean = torch.var_mean(self.weight, dim=0, keepdim=True)
        return self._conv_forward(x, (self.weight - mean) / variance.sqrt(), self.bias)


@pytest.mark.parametrize("kind", [Quantised, ByColumn, nn.Conv2d])
def test_weights_that_are_made_otherwise_are_not_taken_for_standardised(kind):
    assert standardisation(kind(6, 4, 3, padding=1), torch.randn(1, 6, 8, 8)) is None


@pytest.mark.parametrize(
    ("name", "gain"),
    [("StdConv2d", None), ("StdConv2dSame", None), ("ScaledStdConv2d", "gain"), ("ScaledStdConv2dSame", "gain")],
)
def test_layers_of_timm_are_known_by_what_they_do(name, gain):
    layers = pytest.importorskip("timm.layers")
    layer = getattr(layers, name)(6, 4, 3)
    found = standardisation(layer, torch.randn(1, 6, 8, 8))
    assert found is not None
    assert found.gain == gain
