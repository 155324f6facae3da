"""Fusing convolutions with what follows them changes nothing but the time of a forward pass."""

import operator

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from hessian.slicing import installed
from prune_gym import fused as module
from prune_gym.folding import FoldedNetwork
from prune_gym.fused import FusedConv2d, fused
from prune_gym.models import resnet20, vgg11
from tests.hessian import networks

pytestmark = pytest.mark.skipif(not module.kernels_present(), reason="this PyTorch has no oneDNN")


class Mobile(nn.Module):
    """Expansion, depthwise convolution and projection with ReLU6 in place, and a shortcut."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.block = nn.Sequential(
            nn.Conv2d(6, 12, 1, bias=False),
            nn.BatchNorm2d(12),
            nn.ReLU6(inplace=True),
            nn.Conv2d(12, 12, 3, padding=1, groups=12),
            nn.ReLU6(inplace=True),
            nn.Conv2d(12, 6, 1),
        )
        self.head = nn.Linear(6, 4)

    def forward(self, x):
        x = F.silu(self.stem(x))
        return self.head((x + self.block(x)).mean(dim=(2, 3)))


class Dense(nn.Module):
    """Convolutions that read the concatenation of everything before, as in DenseNet."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.first, self.second = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(8, 4, 3, padding=1)
        self.last, self.head = nn.Conv2d(12, 5, 1), nn.Linear(5, 4)

    def forward(self, x):
        features = [self.stem(x)]
        features.append(F.relu(self.first(features[0]), inplace=True))
        features.append(self.second(torch.cat(features, dim=1)).relu())
        return self.head(F.hardswish(self.last(torch.cat(features, dim=1))).mean(dim=(2, 3)))


class TwoReaders(nn.Module):
    """A convolution whose output is read before its ReLU too, and a sum that two layers read."""

    def __init__(self):
        super().__init__()
        self.stem, self.conv = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.head = nn.Linear(4, 4)

    def forward(self, x):
        x = self.stem(x)
        x = self.conv(torch.relu(x)) + x
        return self.head((torch.relu(x) - 0.1 * x).mean(dim=(2, 3)))


class Sums(nn.Module):
    """Every way to write a sum, with the convolution as either operand."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.convs = nn.ModuleList(nn.Conv2d(4, 4, 3, padding=1) for _ in range(5))
        self.head = nn.Linear(4, 4)

    def forward(self, x):
        x = self.stem(x)
        x = torch.relu(torch.add(x, self.convs[0](x)))
        x = self.convs[1](x).add(x).relu_()
        x = operator.iadd(self.convs[2](x), x)
        x = self.convs[3](x).add_(self.convs[4](x))
        return self.head(F.relu6(x).mean(dim=(2, 3)))


FUSIBLE = (*networks.ALL, Mobile, Dense, TwoReaders, Sums)
EXPECTED = {Mobile: 4, Dense: 3, TwoReaders: 1, Sums: 4, networks.Residual: 5, networks.Upsampling: 2}
"""How many convolutions take something over."""


def fused_layers(model):
    return [name for name, layer in model.named_modules() if isinstance(layer, FusedConv2d)]


@pytest.mark.parametrize("kind", FUSIBLE)
@torch.no_grad()
def test_the_fused_network_computes_the_same(kind):
    model, images = networks.make(kind), networks.images(8)[0]
    folded = FoldedNetwork(model, images[:1]).model
    network = fused(folded, images[:1])
    assert len(fused_layers(network)) == EXPECTED.get(kind, len(fused_layers(network))) > 0
    for layout in (torch.contiguous_format, torch.channels_last):
        given = network.to(memory_format=layout)(images.contiguous(memory_format=layout))
        torch.testing.assert_close(given, model(images), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("make", "count"), [(resnet20, 19), (vgg11, 8)])
@torch.no_grad()
def test_all_that_can_be_fused_of_the_named_networks_is(make, count):
    torch.manual_seed(0)
    model, images = (
        make(in_channels=3, widths=(4, 6, 8) if make is resnet20 else (4,) * 8).eval(),
        torch.randn(4, 3, 16, 16),
    )
    network = fused(FoldedNetwork(model, images[:1]).model, images[:1])
    assert len(fused_layers(network)) == count
    torch.testing.assert_close(network(images), model(images), atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_other_tensors_and_attributes_can_be_swapped_in():
    model, images = networks.make(Mobile), networks.images(8)[0]
    network = fused(FoldedNetwork(model, images[:1]).model, images[:1])
    cut = dict(network.state_dict())
    for name in ("block.0.weight", "block.0.bias", "block.3.weight", "block.3.bias"):
        cut[name] = cut[name][:5]
    cut["block.5.weight"] = cut["block.5.weight"][:, :5]
    masked = network.state_dict()
    masked["block.5.weight"] = masked["block.5.weight"].clone()
    masked["block.5.weight"][:, 5:] = 0
    with installed(network, masked, {}):
        expected = network(images)
    with installed(network, cut, {"block.3": {"groups": 5}}):
        torch.testing.assert_close(network(images), expected)


class Branching(nn.Module):
    """What it computes depends on the values it sees."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x):
        x = torch.relu(self.conv(x)).mean(dim=(2, 3))
        return x if x.sum() > 0 else -x


class Shared(nn.Module):
    """One convolution called twice, followed by different things."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, x):
        return self.conv(torch.relu(self.conv(x))).mean(dim=(2, 3))


class Overwritten(nn.Module):
    """What the convolution has read changes before its sum."""

    def __init__(self):
        super().__init__()
        self.stem, self.conv = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1)

    def forward(self, x):
        x = self.stem(x)
        y = self.conv(x)
        return (y + x.relu_()).mean(dim=(2, 3))


class Broadcast(nn.Module):
    """A constant as large as one image's map is added to every image's."""

    def __init__(self):
        super().__init__()
        self.conv, self.constant = nn.Conv2d(3, 4, 1), nn.Parameter(torch.zeros(1, 4, 8, 8))

    def forward(self, x):
        return (self.conv(x) + self.constant).mean(dim=(2, 3))


class Unused(nn.Module):
    """A head for training alone."""

    def __init__(self):
        super().__init__()
        self.conv, self.extra = nn.Conv2d(3, 4, 1), nn.Linear(4, 4)

    def forward(self, x):
        return torch.relu(self.conv(x)).mean(dim=(2, 3))


@pytest.mark.parametrize("kind", [Branching, Shared, Overwritten, Broadcast, Unused])
def test_what_cannot_be_fused_is_returned_as_it_is(kind):
    model = networks.make(kind)
    assert fused(model, networks.images(1)[0]) is model


def test_a_network_that_is_not_float32_is_returned_as_it_is():
    model = networks.make(networks.Residual).double()
    assert fused(model, networks.images(1)[0].double()) is model


def test_a_convolution_that_does_more_than_convolve_is_left_alone():
    model, images = networks.make(networks.Grouped), networks.images(1)[0]
    model.first.register_forward_hook(lambda layer, inputs, output: 2 * output)
    model.last.padding, model.grouped.padding_mode = "same", "circular"
    assert fused(model, images) is model


def test_without_the_kernels_the_network_is_returned_as_it_is(monkeypatch):
    monkeypatch.setattr(module, "kernels_present", lambda: False)
    model = networks.make(networks.Residual)
    assert fused(model, networks.images(1)[0]) is model
