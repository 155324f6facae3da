"""Folding batch norms away changes nothing but the time of a forward pass."""

import pytest
import torch
from torch import nn

from prune_gym.measuring.folding import FoldedNetwork
from tests.hessian import networks


def with_statistics(model):
    """Batch norms with statistics and gains of their own."""
    generator = torch.Generator().manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor, low in ((module.running_mean, -1.0), (module.running_var, 0.5)):
                tensor.copy_(torch.rand(tensor.shape, generator=generator) + low)
            if module.affine:
                module.weight.data.uniform_(0.5, 2.0, generator=generator)
                module.bias.data.uniform_(-1.0, 1.0, generator=generator)
    return model.eval()


@pytest.mark.parametrize("kind", networks.ALL)
@torch.no_grad()
def test_the_folded_network_computes_the_same(kind, device):
    model = with_statistics(networks.make(kind)).to(device)
    images = networks.images(8)[0].to(device)
    folded = FoldedNetwork(model, images[:1])
    torch.testing.assert_close(folded.model(images), model(images), atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_every_norm_behind_one_bias_free_convolution_is_gone():
    folded = FoldedNetwork(networks.make(networks.Residual), networks.images(1)[0])
    assert folded.norms
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.model.modules())


class SecondReader(nn.Module):
    """A convolution whose output is read before its batch norm too."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4, affine=False)

    def forward(self, x):
        x = self.conv(x)
        return (self.norm(x) + x).mean(dim=(2, 3))


class SharedNorm(nn.Module):
    """Two convolutions into one batch norm."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 3, bias=False), nn.Conv2d(3, 4, 3, bias=False)
        self.norm = nn.BatchNorm2d(4)

    def forward(self, x):
        return (self.norm(self.first(x)) + self.norm(self.second(x))).mean(dim=(2, 3))


@pytest.mark.parametrize("kind", [SecondReader, SharedNorm])
@torch.no_grad()
def test_norms_that_cannot_be_folded_stay(kind):
    torch.manual_seed(0)
    model, images = with_statistics(kind()), networks.images(8)[0]
    folded = FoldedNetwork(model, images[:1])
    assert folded.norms == {}
    torch.testing.assert_close(folded.model(images), model(images))


class Activated(nn.Module):
    """An activation whose input is a convolution's output, the images, or read again behind it."""

    def __init__(self, place):
        super().__init__()
        self.conv, self.norm, self.relu = nn.Conv2d(3, 3, 3, padding=1, bias=False), nn.BatchNorm2d(3), nn.ReLU()
        self.place = place

    def forward(self, x):
        if self.place == "the images":
            return self.norm(self.conv(self.relu(x))).mean(dim=(2, 3))
        if self.place == "shared memory":
            return (self.relu(x[:, :1].expand(-1, 3, -1, -1)) + self.norm(self.conv(x))).mean(dim=(2, 3))
        x = self.norm(self.conv(x))
        return (self.relu(x) + (x if self.place == "read again" else 0)).mean(dim=(2, 3))


@pytest.mark.parametrize(
    ("place", "overwrites"),
    [("output", True), ("the images", False), ("read again", False), ("shared memory", False)],
)
@torch.no_grad()
def test_activations_overwrite_their_input_only_where_nothing_else_reads_it(place, overwrites):
    torch.manual_seed(0)
    model, images = with_statistics(Activated(place)), networks.images(8)[0]
    given = images.clone()
    folded = FoldedNetwork(model, images[:1])
    assert folded.model.relu.inplace is overwrites
    assert folded.norms
    torch.testing.assert_close(folded.model(given), model(images))
    torch.testing.assert_close(given, images, atol=0, rtol=0)
    assert not model.relu.inplace


@torch.no_grad()
def test_a_state_may_be_cut_and_the_model_is_left_alone():
    model = with_statistics(networks.make(networks.Residual))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    folded = FoldedNetwork(model, networks.images(1)[0])
    layer, norm = next(iter(folded.norms.items()))
    cut = dict(before)
    for name in (f"{layer}.weight", *(f"{norm}.{part}" for part in ("weight", "bias", "running_mean", "running_var"))):
        cut[name] = before[name][:1]
    state = folded.fold(cut)
    assert state[f"{layer}.bias"].shape == (1,)
    assert not any(name.startswith(f"{norm}.") for name in state)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
