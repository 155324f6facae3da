"""The oracle against algebra: networks in which zero rows already mean zero channels, norms by hand, wrong cuts."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations

from benchmarks.studies.any_network.blocks import standardised
from benchmarks.studies.any_network.judge import enliven
from benchmarks.studies.any_network.oracle import (
    ChannelReachesOutputError,
    network_outputs,
    zeroed_outputs,
    zeroing_gap,
)
from benchmarks.studies.any_network.parts import Apply, SeededDraw


def moved(function, mixed=8):
    """A layer "0" whose channels go through a function that keeps zero at zero, and one that reads them."""
    layers = nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), Apply(function), nn.Conv2d(mixed, 4, 3), nn.AdaptiveAvgPool2d(1)
    return enliven(nn.Sequential(*layers))


def shuffled(x):
    return x.view(x.shape[0], 2, 4, 8, 8).transpose(1, 2).reshape(x.shape)


MOVES = {
    "nothing": (lambda x: x, 8),
    "flip": (lambda x: x.flip(1), 8),
    "roll": (lambda x: x.roll(3, 1), 8),
    "shuffle": (shuffled, 8),
    "kernel shuffle": (lambda x: F.channel_shuffle(x, 2), 8),
    "pixel shuffle": (lambda x: F.pixel_shuffle(x, 2), 2),
    "twice": (lambda x: torch.cat([x, x.flip(1)], 1), 16),
    "part": (lambda x: x[:, 2:7], 5),
    "sum of halves": (lambda x: x[:, :4] + x[:, 4:].flip(1), 4),
    "padded": (lambda x: F.pad(x, (1, 1, 1, 1, 2, 2)), 12),
    "pooled and resized": (lambda x: F.interpolate(F.max_pool2d(x, 2), scale_factor=2, mode="bilinear"), 8),
    "hardswish": (F.hardswish, 8),
    "squared": (lambda x: torch.einsum("bchw,bchw->bchw", x, x), 8),
    "by place": (lambda x: (x.flatten(2).transpose(1, 2) @ x.flatten(2)).reshape(-1, 1, 64, 64), 1),
    "sum over channels": (lambda x: x.sum(1, keepdim=True), 1),
    "normalised": (lambda x: F.normalize(x, dim=1), 8),
    "stacked": (lambda x: torch.stack([x, 2 * x]).sum(0), 8),
    "unfolded": (lambda x: F.unfold(x, 3, padding=1).reshape(x.shape[0], 72, 8, 8), 72),
}


@pytest.mark.parametrize("move", MOVES)
def test_reading_zero_is_what_zero_rows_do_where_activations_keep_zero(move):
    function, mixed = MOVES[move]
    net, images, gone = moved(function, mixed), torch.randn(2, 3, 8, 8).double(), [1, 6]
    zeroed = copy.deepcopy(net)
    zeroed[0].weight.data[gone] = 0
    zeroed[0].bias.data[gone] = 0
    (expected,), (found,) = network_outputs(zeroed, images), zeroed_outputs(net, {"0": gone}, images)
    assert torch.allclose(found, expected, rtol=1e-12, atol=1e-12)
    assert not torch.allclose(expected, network_outputs(net, images)[0], rtol=1e-3)


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_rows_of_transposed_convolutions_are_counted_over_their_groups(groups):
    net = enliven(nn.Sequential(nn.ConvTranspose2d(8, 8, 2, 2, groups=groups), nn.ReLU(), nn.Conv2d(8, 4, 3)))
    images, zeroed = torch.randn(2, 8, 4, 4).double(), copy.deepcopy(net)
    zeroed[2].weight.data[:, [1, 5]] = 0
    (expected,), (found,) = network_outputs(zeroed, images), zeroed_outputs(net, {"0": [1, 5]}, images)
    assert torch.allclose(found, expected, rtol=1e-12)


def test_shifts_behind_a_layer_are_not_left_behind():
    layers = nn.Conv2d(3, 6, 3, bias=False), nn.BatchNorm2d(6), nn.Sigmoid(), nn.Conv2d(6, 6, 3, padding=1, groups=6)
    net = enliven(nn.Sequential(*layers, nn.SiLU(), nn.Conv2d(6, 4, 1)))
    images, zeroed = torch.randn(2, 3, 8, 8).double(), copy.deepcopy(net)
    zeroed[5].weight.data[:, [0, 3]] = 0
    (expected,), (found,) = network_outputs(zeroed, images), zeroed_outputs(net, {"0": [0, 3]}, images)
    assert torch.allclose(found, expected, rtol=1e-12)


def test_a_depthwise_kernel_does_not_find_a_removed_map_in_its_own_padding():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last = nn.Conv2d(3, 6, 1), nn.Conv2d(6, 4, 1)
            self.own = nn.Conv2d(6, 6, 3, groups=6)

        def forward(self, x):
            return self.last(self.own(F.pad(self.first(x), (2, 1, 2, 1))))

    net, images = enliven(Net()), torch.randn(2, 3, 8, 8).double()
    zeroed = copy.deepcopy(net)
    zeroed.last.weight.data[:, 2] = 0
    (expected,), (found,) = network_outputs(zeroed, images), zeroed_outputs(net, {"first": [2]}, images)
    assert torch.allclose(found, expected, rtol=1e-12)


@pytest.mark.parametrize("make", [parametrizations.spectral_norm, parametrizations.weight_norm])
def test_computed_weights_keep_the_rows_that_stay(make):
    net = enliven(nn.Sequential(make(nn.Conv2d(3, 6, 3)), nn.ReLU(), nn.Conv2d(6, 4, 1)))
    images, zeroed = torch.randn(2, 3, 8, 8).double(), copy.deepcopy(net)
    zeroed[2].weight.data[:, 1] = 0
    (expected,), (found,) = network_outputs(zeroed, images), zeroed_outputs(net, {"0": [1]}, images)
    assert torch.allclose(found, expected, rtol=1e-9)


@pytest.mark.parametrize("training", [False, True])
def test_norms_over_channels_leave_removed_ones_out(training):
    def net(width, groups):
        return nn.Sequential(nn.Conv2d(3, width, 3), nn.GroupNorm(groups, width), nn.ReLU(), nn.Conv2d(width, 4, 1))

    dense, small, kept = enliven(net(8, 2)), net(6, 2).double(), [0, 1, 3, 4, 6, 7]
    for name, tensor in dense.state_dict().items():
        tensor = tensor[kept] if not name.startswith("3") else tensor
        small.state_dict()[name].copy_(tensor[:, kept] if name == "3.weight" else tensor)
    gap = zeroing_gap(dense, small, {"0": [2, 5]}, torch.randn(2, 3, 8, 8).double(), training=training)
    assert gap.error < 1e-12 < 1e-2 < gap.effect


@pytest.mark.parametrize(("groups", "gone"), [(1, [1, 6]), (2, [1, 5])])
def test_standardised_weights_are_standardised_over_the_columns_that_stay(groups, gone):
    conv = standardised(SeededDraw(0), 8)[0][0][0]
    conv.weight, conv.groups = nn.Parameter(conv.weight[:, : 8 // groups].clone()), groups
    dense = enliven(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), conv, nn.ReLU(), nn.Conv2d(conv.out_channels, 4, 1)))
    small, kept = copy.deepcopy(dense), [channel for channel in range(8) if channel not in gone]
    small[0].weight.data, small[0].bias.data = dense[0].weight.data[kept], dense[0].bias.data[kept]
    small[2].weight.data = dense[2].weight.data[:, [column for column in range(8 // groups) if column not in gone]]
    gap = zeroing_gap(dense, small, {"0": gone}, torch.randn(2, 3, 8, 8).double())
    assert gap.error < 1e-12 < 1e-2 < gap.effect


def test_layer_norm_by_hand():
    net = enliven(nn.Sequential(nn.Linear(5, 6), nn.LayerNorm(6), nn.Linear(6, 3)))
    images, kept = torch.randn(4, 5).double(), [0, 1, 3, 5]
    hidden = F.layer_norm(net[0](images)[:, kept], (4,), net[1].weight[kept], net[1].bias[kept])
    expected = hidden @ net[2].weight[:, kept].T + net[2].bias
    assert torch.allclose(zeroed_outputs(net, {"0": [2, 4]}, images)[0], expected, rtol=1e-12)


def test_a_channel_of_the_output_may_not_go():
    net = enliven(nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU()))
    with pytest.raises(ChannelReachesOutputError):
        zeroed_outputs(net, {"0": [1]}, torch.randn(2, 3, 8, 8).double())


@pytest.mark.parametrize("columns", [[0, 2], [1, 3]])
def test_columns_of_other_channels_are_seen(columns):
    dense = enliven(nn.Sequential(nn.Conv2d(3, 6, 3), nn.Tanh(), Apply(lambda x: x.roll(1, 1)), nn.Conv2d(6, 4, 1)))
    kept = [channel for channel in range(6) if channel not in (1, 3)]
    staying = [column for column in range(6) if column not in columns]
    small = copy.deepcopy(dense)
    small[0].weight.data, small[0].bias.data = dense[0].weight.data[kept], dense[0].bias.data[kept]
    order = [kept.index((column - 1) % 6) for column in range(6) if (column - 1) % 6 in kept]
    small[2].function = lambda x: x[:, order]
    small[3].weight.data = dense[3].weight.data[:, staying]
    gap = zeroing_gap(dense, small, {"0": [1, 3]}, torch.randn(2, 3, 8, 8).double())
    assert gap.error > 1e-2


def test_the_right_columns_are_right():
    dense = enliven(nn.Sequential(nn.Conv2d(3, 6, 3), nn.Tanh(), Apply(lambda x: x.roll(1, 1)), nn.Conv2d(6, 4, 1)))
    kept, staying = [0, 2, 4, 5], [0, 1, 3, 5]
    small = copy.deepcopy(dense)
    small[0].weight.data, small[0].bias.data = dense[0].weight.data[kept], dense[0].bias.data[kept]
    small[3].weight.data = dense[3].weight.data[:, staying]
    gap = zeroing_gap(dense, small, {"0": [1, 3]}, torch.randn(2, 3, 8, 8).double())
    assert gap.error < 1e-12


def test_neither_network_nor_random_numbers_are_changed():
    net = enliven(nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.Dropout(), nn.Conv2d(6, 4, 1)))
    before, state, images = copy.deepcopy(net.state_dict()), torch.get_rng_state(), torch.randn(2, 3, 8, 8).double()
    state = torch.get_rng_state()
    zeroed_outputs(net, {"0": [1]}, images, training=True)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())
    assert not net.training


def test_dropout_is_off_be_it_a_module_or_a_function():
    net = enliven(
        nn.Sequential(nn.Conv2d(3, 6, 3), nn.Dropout(), Apply(lambda x: F.dropout(x, 0.5)), nn.Conv2d(6, 4, 1))
    )
    images = torch.randn(2, 3, 8, 8).double()
    ((first,), (second,)) = (network_outputs(net, images, training=training) for training in (True, False))
    assert torch.equal(first, second)


def test_rows_that_values_pick_are_compared_and_other_rows_than_the_whole_network_has_are_an_effect():
    pick = Apply(lambda x: x[x[:, 0] > 0])
    dense = enliven(nn.Sequential(nn.Linear(3, 6), nn.Tanh(), nn.Linear(6, 4), pick))
    kept = [0, 2, 4]
    small = copy.deepcopy(dense)
    small[0].weight.data, small[0].bias.data = dense[0].weight.data[kept], dense[0].bias.data[kept]
    small[2].weight.data = dense[2].weight.data[:, kept]
    rows = torch.randn(64, 3, generator=torch.Generator().manual_seed(0)).double()
    gap = zeroing_gap(dense, small, {"0": [1, 3, 5]}, rows)
    assert len(dense(rows)) != len(small(rows))
    assert gap.error < 1e-12
    assert gap.effect == 1.0
