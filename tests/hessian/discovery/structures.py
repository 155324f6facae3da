"""Structures that networks are made of, as small as they get, and what can be pruned of each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import nn

IMAGE = (1, 3, 8, 8)


def conv(inputs, outputs, kernel=3, **options):
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False, **options),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
    )


class Block(nn.Module):
    """A stem of twelve channels, something in the middle, a head of five classes."""

    def __init__(self, out=12):
        super().__init__()
        self.stem, self.head = conv(3, 12), nn.Linear(out, 5)

    def forward(self, x):
        return self.head(self.middle(self.stem(x)).mean((2, 3)))


class C2f(Block):
    """YOLOv8: halves of a convolution, one of which goes through blocks; all are concatenated."""

    def __init__(self, fixed=False):
        super().__init__()
        self.c, self.fixed = 4, fixed
        self.cv1, self.cv2 = conv(12, 8, 1), conv(16, 12, 1)
        self.m = nn.ModuleList(nn.Sequential(conv(4, 4), conv(4, 4)) for _ in range(2))

    def middle(self, x):
        y = list(self.cv1(x).split((self.c, self.c), 1) if self.fixed else self.cv1(x).chunk(2, 1))
        for block in self.m:
            y.append(y[-1] + block(y[-1]))
        return self.cv2(torch.cat(y, 1))


class SPPF(Block):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.pool = conv(12, 6, 1), conv(24, 12, 1), nn.MaxPool2d(5, 1, 2)

    def middle(self, x):
        y = [self.a(x)]
        for _ in range(3):
            y.append(self.pool(y[-1]))
        return self.b(torch.cat(y, 1))


class PixelShuffle(Block):
    def __init__(self):
        super().__init__(out=6)
        self.up, self.last = conv(12, 16), conv(4, 6)

    def middle(self, x):
        return self.last(F.pixel_shuffle(self.up(x), 2))


class ShuffleV1(Block):
    """Grouped convolutions with a shuffle between them, in a residual block."""

    def __init__(self, width=12, groups=3, native=False):
        super().__init__()
        self.groups, self.native = groups, native
        self.a, self.d = conv(12, width, 1, groups=groups), conv(width, width, groups=width)
        self.b, self.e = nn.Conv2d(width, 12, 1, groups=groups), conv(12, 12, 1)

    def middle(self, x):
        h = self.a(x)
        n, c, height, width = h.shape
        if self.native:
            h = F.channel_shuffle(h, self.groups)
        else:
            h = h.view(n, self.groups, c // self.groups, height, width).transpose(1, 2).reshape(n, c, height, width)
        return self.e(F.relu(x + self.b(self.d(h))))


class ShuffleV2(Block):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.last = conv(6, 9, 1), conv(9, 6), conv(12, 12, 1)

    def middle(self, x):
        first, second = x.chunk(2, 1)
        return self.last(F.channel_shuffle(torch.cat([first, self.b(self.a(second))], 1), 2))


class Siamese(Block):
    """One encoder for two views of the image."""

    def __init__(self):
        super().__init__(out=24)
        self.encode = nn.Sequential(conv(12, 8), conv(8, 12))

    def middle(self, x):
        return torch.cat([self.encode(x), self.encode(x.flip(3))], 1)


class FPN(Block):
    def __init__(self):
        super().__init__()
        self.down, self.top, self.side, self.out = (
            conv(12, 16, stride=2),
            conv(16, 10, 1),
            conv(12, 10, 1),
            conv(10, 12),
        )

    def middle(self, x):
        low = self.top(self.down(x))
        return self.out(F.interpolate(low, size=x.shape[-2:]) + self.side(x)) + F.interpolate(
            self.out(low), scale_factor=2
        )


class SplitAttention(Block):
    """ResNeSt: as many branches as the radix, weighted by a softmax over them."""

    def __init__(self):
        super().__init__()
        self.a, self.fc1, self.fc2 = conv(12, 16, groups=2), nn.Conv2d(8, 6, 1), nn.Conv2d(6, 16, 1)
        self.last = conv(8, 12, 1)

    def middle(self, x):
        h = self.a(x)
        n, c, height, width = h.shape
        h = h.reshape(n, 2, c // 2, height, width)
        gap = h.sum(1).mean((2, 3), keepdim=True)
        weights = self.fc2(F.relu(self.fc1(gap))).view(n, 2, c // 2, 1, 1).softmax(1)
        return self.last((weights * h).sum(1))


class Res2Net(Block):
    """Parts of fixed width; each goes through a convolution together with the one before."""

    def __init__(self):
        super().__init__()
        self.width = 4
        self.convs, self.last = nn.ModuleList(conv(4, 4) for _ in range(2)), conv(12, 12, 1)

    def middle(self, x):
        parts = torch.split(x, self.width, 1)
        made = [self.convs[0](parts[0])]
        made.append(self.convs[1](made[-1] + parts[1]))
        return self.last(torch.cat([*made, parts[2]], 1))


class Ghost(Block):
    """Half of the outputs are made by a depthwise convolution from the other half."""

    def __init__(self):
        super().__init__()
        self.primary, self.cheap, self.last = conv(12, 6, 1), conv(6, 6, groups=6), conv(12, 12, 1)

    def middle(self, x):
        primary = self.primary(x)
        return self.last(torch.cat([primary, self.cheap(primary)], 1))


class HighResolution(Block):
    """HRNet: two resolutions exchange."""

    def __init__(self):
        super().__init__()
        self.high, self.low = conv(12, 12), conv(12, 10, stride=2)
        self.to_low, self.to_high = conv(12, 10, stride=2), conv(10, 12, 1)

    def middle(self, x):
        high, low = self.high(x), self.low(x)
        low, high = F.relu(low + self.to_low(high)), F.relu(high + F.interpolate(self.to_high(low), scale_factor=2))
        return high + F.interpolate(self.to_high(low), scale_factor=2, mode="bilinear")


class Dense(Block):
    def __init__(self):
        super().__init__(out=24)
        self.a, self.b = conv(12, 6), conv(18, 6)

    def middle(self, x):
        y = torch.cat([x, self.a(x)], 1)
        return torch.cat([y, self.b(y)], 1)


class Excitation(Block):
    def __init__(self):
        super().__init__()
        self.a, self.reduce, self.expand = conv(12, 12), nn.Linear(12, 4), nn.Linear(4, 12)

    def middle(self, x):
        h = self.a(x)
        return h * torch.sigmoid(self.expand(F.relu(self.reduce(h.mean((2, 3))))))[:, :, None, None] + x


class ECA(Block):
    """Gates by a convolution along channels: neighbours would change, so the gated channels stay."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.eca = conv(12, 8), conv(8, 12), nn.Conv1d(1, 1, 3, padding=1, bias=False)

    def middle(self, x):
        h = self.b(self.a(x))
        gate = torch.sigmoid(self.eca(h.mean((2, 3)).unsqueeze(1))).view(h.shape[0], -1, 1, 1)
        return h * gate.expand_as(h)


class SpatialGate(Block):
    """CBAM's second half: mean and maximum over channels."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.gate = conv(12, 8), conv(8, 12), nn.Conv2d(2, 1, 3, padding=1)

    def middle(self, x):
        h = self.b(self.a(x))
        return h * torch.sigmoid(self.gate(torch.cat([h.mean(1, keepdim=True), h.amax(1, keepdim=True)], 1)))


class LayerScaled(Block):
    """A ConvNeXt block: depthwise, LayerNorm and MLP with channels last, layer scale."""

    def __init__(self):
        super().__init__()
        self.d, self.norm = nn.Conv2d(12, 12, 3, padding=1, groups=12), nn.LayerNorm(12)
        self.up, self.down, self.gamma = nn.Linear(12, 20), nn.Linear(20, 12), nn.Parameter(torch.full((12,), 1e-6))

    def middle(self, x):
        h = self.norm(self.d(x).permute(0, 2, 3, 1))
        return x + (self.gamma * self.down(F.gelu(self.up(h)))).permute(0, 3, 1, 2)


class Partial(Block):
    """FasterNet: a convolution on the first channels only."""

    def __init__(self):
        super().__init__()
        self.p, self.b = nn.Conv2d(3, 3, 3, padding=1), conv(12, 12)

    def middle(self, x):
        return self.b(torch.cat([F.relu(self.p(x[:, :3])), x[:, 3:]], 1))


class HardView(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.f, self.g = conv(3, 8), nn.Linear(512, 16), nn.Linear(16, 5)

    def forward(self, x):
        return self.g(F.relu(self.f(self.a(x).view(-1, 512))))


class Transposed(Block):
    """Channels last before a flatten, as in networks ported from TensorFlow."""

    def __init__(self):
        super().__init__(out=6)
        self.f = nn.Linear(768, 6)

    def middle(self, x):
        return self.f(x.permute(0, 2, 3, 1).flatten(1))[:, :, None, None]


class Rolled(Block):
    def __init__(self):
        super().__init__()
        self.a = conv(12, 12)

    def middle(self, x):
        return self.a(torch.roll(x, 3, 1)).flip(1)


class Positions(Block):
    """Tokens with a parameter for every place."""

    def __init__(self):
        super().__init__()
        self.where, self.mix = nn.Parameter(torch.randn(1, 64, 12)), nn.Linear(12, 9)
        self.last = nn.Linear(9, 12)

    def middle(self, x):
        tokens = x.flatten(2).transpose(1, 2) + self.where
        return self.last(F.gelu(self.mix(tokens))).transpose(1, 2)[..., None]


class Concatenated(Block):
    """GroupNorm over a concatenation of unequal widths, as in diffusion networks."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.n, self.c = conv(12, 16), conv(12, 8), nn.GroupNorm(4, 24), conv(24, 12)

    def middle(self, x):
        return self.c(F.silu(self.n(torch.cat([self.a(x), self.b(x)], 1))))


class OneSlope(Block):
    def __init__(self):
        super().__init__()
        self.r, self.b, self.w = nn.PReLU(), conv(12, 12), nn.Parameter(torch.ones(2))

    def middle(self, x):
        h = self.r(x)
        return self.w[0] * h + self.w[1] * self.b(h)


class Tied(Block):
    """One parameter under two names, one module under two names."""

    def __init__(self):
        super().__init__()
        self.a, self.b = conv(12, 8), conv(8, 12)
        self.w, self.again = self.a[0].weight, self.b

    def middle(self, x):
        return self.again(self.a(x))


class Auxiliary(Block):
    """A head that runs in training only."""

    def __init__(self):
        super().__init__()
        self.a, self.aux = conv(12, 12), nn.Linear(12, 5)

    def forward(self, x):
        h = self.stem(x)
        out = self.head(self.a(h).mean((2, 3)))
        return (out, self.aux(h.mean((2, 3)))) if self.training else out


class Blurred(Block):
    """A filter that is a buffer no state dict holds, with its number of channels beside it."""

    def __init__(self):
        super().__init__()
        self.channels = 12
        self.register_buffer("filter", torch.randn(12, 1, 3, 3), persistent=False)
        self.a = conv(12, 12)

    def middle(self, x):
        return self.a(F.conv2d(x, self.filter, groups=self.channels, padding=1))


class FrozenNorm(Block):
    def __init__(self):
        super().__init__()
        self.a = conv(12, 12)
        for name in ("weight", "bias", "mean", "var"):
            self.register_buffer(name, torch.rand(12) + 0.5)

    def middle(self, x):
        scale = self.weight * (self.var + 1e-5).rsqrt()
        return self.a(x * scale.view(1, -1, 1, 1) + (self.bias - self.mean * scale).view(1, -1, 1, 1))


class Multiplied(Block):
    """A depthwise convolution that makes two channels of each."""

    def __init__(self):
        super().__init__()
        self.d, self.a = nn.Conv2d(12, 24, 3, padding=1, groups=12), conv(24, 12)

    def middle(self, x):
        return self.a(F.relu(self.d(x)))


class GroupedUp(Block):
    def __init__(self):
        super().__init__(out=6)
        self.up, self.a = nn.ConvTranspose2d(12, 8, 2, stride=2, groups=2), conv(8, 6)

    def middle(self, x):
        return self.a(F.relu(self.up(x)))


class Attention(Block):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.attend = conv(12, 8), conv(8, 12), nn.MultiheadAttention(12, 2, batch_first=True)

    def middle(self, x):
        tokens = self.b(self.a(x)).flatten(2).transpose(1, 2)
        return self.attend(tokens, tokens, tokens)[0].transpose(1, 2)[..., None]


class Standardised(nn.Conv2d):
    """Weight standardisation that reads the sizes it was made with."""

    def forward(self, x):
        weight = F.batch_norm(self.weight.reshape(1, self.out_channels, -1), None, None, training=True)
        return F.conv2d(x, weight.reshape_as(self.weight), self.bias, padding=1)


class WeightStandardised(Block):
    def __init__(self):
        super().__init__()
        self.a, self.b = Standardised(12, 8, 3), Standardised(8, 12, 3)

    def middle(self, x):
        return F.relu(self.b(F.relu(self.a(x))))


class HalvesByAnother(Block):
    """Instance-batch normalisation whose halves are counted on the input of the convolution it follows."""

    def __init__(self):
        super().__init__()
        self.a, self.left, self.right = nn.Conv2d(12, 12, 3, padding=1), nn.InstanceNorm2d(6), nn.BatchNorm2d(6)
        self.b = conv(12, 12)

    def middle(self, x):
        left, right = self.a(x).split(x.shape[1] // 2, 1)
        return self.b(F.relu(torch.cat([self.left(left), self.right(right)], 1)))


class TiedTranspose(Block):
    """An autoencoder whose second weight is the first one's transpose."""

    def __init__(self):
        super().__init__()
        self.code, self.last = nn.Linear(12, 6), nn.Linear(12, 12)

    def middle(self, x):
        h = F.relu(self.code(x.mean((2, 3))))
        return F.relu(self.last(F.relu(F.linear(h, self.code.weight.t()))))[:, :, None, None]


class Recurrent(Block):
    def __init__(self):
        super().__init__()
        self.lstm, self.last = nn.LSTM(12, 6, batch_first=True), nn.Linear(6, 12)

    def middle(self, x):
        h, _ = self.lstm(x.flatten(2).transpose(1, 2))
        return F.relu(self.last(h[:, -1]))[:, :, None, None]


class UndoneShuffle(Block):
    """Moves that cancel still count their channels in blocks."""

    def __init__(self):
        super().__init__()
        self.a = conv(12, 12)

    def middle(self, x):
        return self.a(F.pixel_unshuffle(F.pixel_shuffle(x, 2), 2))


@dataclass(frozen=True)
class Structure:
    """What is expected of a network.

    Attributes:
        build: makes it.
        layers: name -> number of units.
        pinned: name -> number of channels that stay, besides the head's.
    """

    build: Callable[[], nn.Module]
    layers: dict[str, int]
    pinned: dict[str, int] = field(default_factory=dict)


STRUCTURES = {
    "C2f": Structure(C2f, {"stem.0": 12, "cv1.0": 4, "m.0.0.0": 4, "m.1.0.0": 4, "cv2.0": 12}),
    "C2f with sizes of its own": Structure(
        lambda: C2f(fixed=True), {"stem.0": 12, "cv1.0": 4, "m.0.0.0": 4, "m.1.0.0": 4, "cv2.0": 12}
    ),
    "SPPF": Structure(SPPF, {"stem.0": 12, "a.0": 6, "b.0": 12}),
    "pixel shuffle": Structure(PixelShuffle, {"stem.0": 12, "up.0": 4, "last.0": 6}),
    "ShuffleNet v1": Structure(lambda: ShuffleV1(18), {"stem.0": 4, "a.0": 2, "e.0": 12}),
    "ShuffleNet v1 whose groups share no places": Structure(
        lambda: ShuffleV1(24), {"stem.0": 4, "a.0": 2, "e.0": 12}, {"a.0": 6}
    ),
    "ShuffleNet v1 with PyTorch's shuffle": Structure(
        lambda: ShuffleV1(30, native=True), {"stem.0": 4, "a.0": 3, "e.0": 12}, {"a.0": 3}
    ),
    "ShuffleNet v1 too narrow to choose": Structure(ShuffleV1, {"stem.0": 4, "e.0": 12}, {"a.0": 12}),
    "ShuffleNet v2": Structure(ShuffleV2, {"stem.0": 6, "a.0": 9, "last.0": 12}),
    "siamese": Structure(Siamese, {"stem.0": 12, "encode.0.0": 8, "encode.1.0": 12}),
    "FPN": Structure(FPN, {"stem.0": 12, "down.0": 16, "top.0": 10, "out.0": 12}),
    "split attention": Structure(SplitAttention, {"stem.0": 6, "a.0": 8, "fc1": 6, "last.0": 12}),
    "Res2Net": Structure(Res2Net, {"stem.0": 4, "convs.1.0": 4, "last.0": 12}),
    "Ghost": Structure(Ghost, {"stem.0": 12, "primary.0": 6, "last.0": 12}),
    "HRNet": Structure(HighResolution, {"stem.0": 12, "high.0": 12, "low.0": 10}),
    "DenseNet": Structure(Dense, {"stem.0": 12, "a.0": 6, "b.0": 6}),
    "squeeze and excitation": Structure(Excitation, {"stem.0": 12, "reduce": 4}),
    "ECA": Structure(ECA, {"stem.0": 12, "a.0": 8}, {"b.0": 12}),
    "CBAM's spatial gate": Structure(SpatialGate, {"stem.0": 12, "a.0": 8}, {"b.0": 12}),
    "ConvNeXt": Structure(LayerScaled, {"stem.0": 12, "up": 20}),
    "FasterNet": Structure(Partial, {"stem.0": 9, "p": 3, "b.0": 12}, {"stem.0": 3}),
    "a view of fixed size": Structure(HardView, {"f": 16}, {"a.0": 8, "g": 5}),
    "channels last": Structure(Transposed, {"stem.0": 12, "f": 6}),
    "roll and flip": Structure(Rolled, {"stem.0": 9, "a.0": 12}, {"stem.0": 3}),
    "a parameter for every position": Structure(Positions, {"stem.0": 12, "mix": 9, "last": 12}),
    "GroupNorm over a concatenation": Structure(Concatenated, {"stem.0": 12, "a.0": 4, "a.0[4:12]": 2, "c.0": 12}),
    "parameters shared by all channels": Structure(OneSlope, {"stem.0": 12}),
    "tied tensors and modules": Structure(Tied, {"stem.0": 12, "a.0": 8, "b.0": 12}),
    "an auxiliary head": Structure(Auxiliary, {"stem.0": 12, "a.0": 12}, {"aux": 5}),
    "a filter that is not saved": Structure(Blurred, {"stem.0": 12, "a.0": 12}),
    "frozen BatchNorm": Structure(FrozenNorm, {"stem.0": 12, "a.0": 12}),
    "depthwise with a multiplier": Structure(Multiplied, {"stem.0": 12, "a.0": 12}),
    "grouped transposed convolution": Structure(GroupedUp, {"stem.0": 6, "up": 4, "a.0": 6}),
    "weight standardisation": Structure(WeightStandardised, {"stem.0": 12, "a": 8, "b": 12}),
    "halves counted on another tensor": Structure(HalvesByAnother, {"a": 6, "b.0": 12}, {"stem.0": 12, "a": 6}),
    "moves that cancel": Structure(UndoneShuffle, {"stem.0": 3, "a.0": 12}),
    "a weight and its transpose": Structure(TiedTranspose, {"last": 12}, {"stem.0": 12, "code": 6}),
    "a recurrent layer": Structure(Recurrent, {"last": 12}, {"stem.0": 12}),
    "attention": Structure(Attention, {"stem.0": 12, "a.0": 8}, {"b.0": 12}),
}

MIXING = {"ConvNeXt", "GroupNorm over a concatenation", "weight standardisation"}
"""Their normalisations take statistics over channels: the smaller network equals no dense one with zeros in it."""
