"""Block kinds of one stream: residual, grouped, gated, shuffled, with norms and bare parameters of every form."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations

from benchmarks.studies.any_network.parts import (
    WIDTHS,
    Apply,
    Block,
    Draw,
    LayerNorm2d,
    Maker,
    SqueezeExcitation,
    activation,
    conv,
    norm,
    unit,
)


class _Residual(nn.Module):
    def __init__(self, body: nn.Module, skip: nn.Module, last: nn.Module) -> None:
        super().__init__()
        self.body, self.skip, self.last = body, skip, last

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.body(x) + self.skip(x))


def plain(draw: Draw, width: int) -> Block:
    """Convolution, norm, activation."""
    out = draw.choose(WIDTHS)
    return unit(draw, width, out, draw.choose((1, 3, 5))), out


def residual(draw: Draw, width: int) -> Block:
    """Two convolutions on a residual stream, the identity beside them."""
    inner = draw.choose(WIDTHS)
    body = nn.Sequential(unit(draw, width, inner), conv(draw, inner, width), norm(draw, width))
    return _Residual(body, nn.Identity(), activation(draw, width)), width


def projection(draw: Draw, width: int) -> Block:
    """A residual block that changes the width: a projection beside it."""
    inner, out = draw.choose(WIDTHS), draw.choose(WIDTHS)
    body = nn.Sequential(unit(draw, width, inner), conv(draw, inner, out), norm(draw, out))
    return _Residual(body, nn.Sequential(conv(draw, width, out, 1), norm(draw, out)), activation(draw, out)), out


def bottleneck(draw: Draw, width: int) -> Block:
    """ResNet's bottleneck, or ResNeXt's with groups in the middle."""
    inner, groups = draw.choose((8, 12, 16)), draw.choose((1, 2, 4))
    body = nn.Sequential(
        unit(draw, width, inner, 1),
        unit(draw, inner, inner, groups=groups),
        conv(draw, inner, width, 1),
        norm(draw, width),
    )
    return _Residual(body, nn.Identity(), activation(draw, width)), width


def preactivation(draw: Draw, width: int) -> Block:
    """A block whose norm and activation come first."""
    inner = draw.choose(WIDTHS)
    body = nn.Sequential(norm(draw, width), nn.ReLU(), unit(draw, width, inner), conv(draw, inner, width))
    return _Residual(body, nn.Identity(), nn.Identity()), width


def depthwise(draw: Draw, width: int) -> Block:
    """MobileNet's depthwise separable convolution; some with two filters a channel."""
    filters, out = draw.choose((1, 1, 2)), draw.choose(WIDTHS)
    return nn.Sequential(unit(draw, width, width * filters, groups=width), unit(draw, width * filters, out, 1)), out


def inverted(draw: Draw, width: int) -> Block:
    """MobileNetV3's inverted residual with squeeze-excitation."""
    inner = 2 * width
    body = nn.Sequential(
        unit(draw, width, inner, 1),
        unit(draw, inner, inner, groups=inner),
        SqueezeExcitation(inner) if draw.choose((True, True, False)) else nn.Identity(),
        conv(draw, inner, width, 1),
        norm(draw, width),
    )
    return _Residual(body, nn.Identity(), nn.Identity()), width


class _ECA(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(1, 1, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = x.mean((2, 3)).view(x.shape[0], 1, -1)
        return x * torch.sigmoid(self.conv(y)).view(x.shape[0], -1, 1, 1).expand_as(x)


def eca(draw: Draw, width: int) -> Block:
    """Efficient channel attention: a convolution over neighbouring channels."""
    inner = draw.choose(WIDTHS)
    return nn.Sequential(unit(draw, width, inner), unit(draw, inner, width), _ECA()), width


def grouped(draw: Draw, width: int) -> Block:
    """Grouped convolutions behind each other, of different numbers of groups."""
    out = draw.choose((8, 12, 16))
    first, second = draw.choose((2, 4)), draw.choose((2, 4))
    return nn.Sequential(unit(draw, width, out, groups=first), unit(draw, out, out, groups=second)), out


class _Shuffle(nn.Module):
    def __init__(self, groups: int) -> None:
        super().__init__()
        self.groups = groups

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        return x.view(n, self.groups, c // self.groups, h, w).transpose(1, 2).reshape(n, c, h, w)


def shuffle_v1(draw: Draw, width: int) -> Block:
    """ShuffleNet's first unit: grouped convolutions around a channel shuffle."""
    inner, groups = draw.choose((8, 16)), draw.choose((2, 4))
    shuffle = draw.choose((_Shuffle(groups), nn.ChannelShuffle(groups)))
    body = nn.Sequential(
        unit(draw, width, inner, 1, groups=groups),
        shuffle,
        unit(draw, inner, inner, groups=inner),
        conv(draw, inner, width, 1, groups=groups),
    )
    return _Residual(body, nn.Identity(), activation(draw, width)), width


class _ShuffleV2(nn.Module):
    def __init__(self, body: nn.Module, shuffle: nn.Module) -> None:
        super().__init__()
        self.body, self.shuffle = body, shuffle

    def forward(self, x: Tensor) -> Tensor:
        kept, changed = x.chunk(2, dim=1)
        return self.shuffle(torch.cat([kept, self.body(changed)], dim=1))


def shuffle_v2(draw: Draw, width: int) -> Block:
    """ShuffleNet's second unit: half of the channels pass, then both halves are shuffled."""
    half = width // 2
    body = nn.Sequential(unit(draw, half, half, 1), unit(draw, half, half, groups=half), unit(draw, half, half, 1))
    return _ShuffleV2(body, _Shuffle(2)), width


class _Scaled(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.mix = nn.Conv2d(width, width, 3, padding=1, groups=width)
        self.norm, self.grow, self.shrink = (
            nn.LayerNorm(width),
            nn.Linear(width, 2 * width),
            nn.Linear(2 * width, width),
        )
        self.scale = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.mix(x).permute(0, 2, 3, 1))
        return x + (self.scale * self.shrink(F.gelu(self.grow(y)))).permute(0, 3, 1, 2)


def convnext(draw: Draw, width: int) -> Block:
    """ConvNeXt's block: linear layers over the last axis, LayerNorm, layer scale."""
    return _Scaled(width), width


class _Bare(nn.Module):
    def __init__(self, shape: tuple[int, ...], buffer: bool) -> None:
        super().__init__()
        if buffer:
            self.register_buffer("table", torch.ones(shape))
        else:
            self.table = nn.Parameter(torch.ones(shape))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.table + self.table


def bare(draw: Draw, width: int) -> Block:
    """A convolution, then a parameter or buffer of the channels, of everything, or of places."""
    shape = draw.choose(((width, 1, 1), (1, width, 1, 1), (1,), (), (1, 1, 8, 8), (1, width, 8, 8)))
    return nn.Sequential(unit(draw, width, width), _Bare(shape, draw.choose((True, False)))), width


class _FrozenNorm(nn.Module):
    weight: Tensor
    bias: Tensor
    running_mean: Tensor
    running_var: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        for name in ("weight", "bias", "running_mean", "running_var"):
            self.register_buffer(name, torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        scale = self.weight * (self.running_var + 1e-5).rsqrt()
        shift = self.bias - self.running_mean * scale
        return x * scale.reshape(1, -1, 1, 1) + shift.reshape(1, -1, 1, 1)


def frozen_norm(draw: Draw, width: int) -> Block:
    """Detectors' frozen BatchNorm: buffers only, combined before they meet the image."""
    out = draw.choose(WIDTHS)
    return nn.Sequential(conv(draw, width, out), _FrozenNorm(out), nn.ReLU()), out


def turned(draw: Draw, width: int) -> Block:
    """Channels in another order: flipped, rolled, picked."""
    out = draw.choose((8, 12))
    order = torch.randperm(out, generator=torch.Generator().manual_seed(out))
    turn = draw.choose(
        (
            lambda x: x.flip(1),
            lambda x: torch.roll(x, 3, 1),
            lambda x: x[:, order],
            lambda x: torch.cat([x[:, ::2], x[:, 1::2]], dim=1),
            lambda x: torch.cat([x[:, 4:], x[:, :4]], dim=1),
        )
    )
    return nn.Sequential(unit(draw, width, out), Apply(turn), unit(draw, out, out)), out


class _Gated(nn.Module):
    def __init__(self, grow: nn.Module, shrink: nn.Module, glu: bool) -> None:
        super().__init__()
        self.grow, self.shrink, self.glu = grow, shrink, glu

    def forward(self, x: Tensor) -> Tensor:
        y = self.grow(x)
        if self.glu:
            return self.shrink(F.glu(y, dim=1))
        first, second = y.chunk(2, dim=1)
        return self.shrink(first * second)


def gated(draw: Draw, width: int) -> Block:
    """NAFNet's gate: the halves of a map multiplied, or a gated linear unit."""
    return _Gated(unit(draw, width, 16), conv(draw, 8, width), draw.choose((True, False))), width


def channels_last_mlp(draw: Draw, width: int) -> Block:
    """Linear layers over the last axis of an image."""
    out, inner = draw.choose(WIDTHS), draw.choose(WIDTHS)
    mlp = nn.Sequential(nn.Linear(width, inner), nn.GELU(), nn.LayerNorm(inner), nn.Linear(inner, out))
    return nn.Sequential(Apply(lambda x: x.permute(0, 2, 3, 1)), mlp, Apply(lambda x: x.permute(0, 3, 1, 2))), out


def parametrized(draw: Draw, width: int) -> Block:
    """Convolutions whose weight is computed: spectral and weight norm."""
    out = draw.choose(WIDTHS)
    make = draw.choose(("spectral_norm", "weight_norm"))
    return nn.Sequential(getattr(parametrizations, make)(conv(draw, width, out)), nn.ReLU(), unit(draw, out, out)), out


class _StandardisedConv(nn.Conv2d):
    def forward(self, input: Tensor) -> Tensor:
        mean, deviation = self.weight.mean((1, 2, 3), keepdim=True), self.weight.std((1, 2, 3), keepdim=True)
        return self._conv_forward(input, (self.weight - mean) / (deviation + 1e-5), self.bias)


def standardised(draw: Draw, width: int) -> Block:
    """Weight standardisation, as with GroupNorm in BiT: each row of weights depends on all its columns."""
    out = draw.choose((8, 12, 16))
    body = nn.Sequential(_StandardisedConv(width, out, 3, padding=1), nn.GroupNorm(2, out), nn.ReLU())
    return nn.Sequential(body, unit(draw, out, out)), out


class _OwnPadding(nn.Conv2d):
    def forward(self, input: Tensor) -> Tensor:
        return self._conv_forward(F.pad(input, (1, 1, 1, 1)), self.weight, self.bias)


def pads_itself(draw: Draw, width: int) -> Block:
    """Convolutions that pad their input themselves, as those ported from TensorFlow do, one of them depthwise."""
    out = draw.choose(WIDTHS)
    first, second = _OwnPadding(width, out, 3), _OwnPadding(out, out, 3, groups=out)
    return nn.Sequential(first, norm(draw, out), activation(draw, out), second, nn.ReLU()), out


class _TwoNorms(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv, self.instance, self.batch = (
            nn.Conv2d(width, width, 3, padding=1),
            nn.InstanceNorm2d(width // 2, affine=True),
            nn.BatchNorm2d(width // 2),
        )
        self.last = nn.Sequential(LayerNorm2d(width), nn.Conv2d(width, width, 1))

    def forward(self, x: Tensor) -> Tensor:
        first, second = self.conv(x).split(x.shape[1] // 2, 1)
        return self.last(torch.relu(torch.cat([self.instance(first), self.batch(second)], 1)))


def ibn(draw: Draw, width: int) -> Block:
    """IBN-Net: half of the channels under an InstanceNorm, half under a BatchNorm."""
    return _TwoNorms(width), width


KINDS: dict[str, Maker] = {
    "plain": plain,
    "residual": residual,
    "projection": projection,
    "bottleneck": bottleneck,
    "preactivation": preactivation,
    "depthwise": depthwise,
    "inverted residual": inverted,
    "ECA": eca,
    "grouped": grouped,
    "shuffle v1": shuffle_v1,
    "shuffle v2": shuffle_v2,
    "ConvNeXt": convnext,
    "bare parameter": bare,
    "frozen norm": frozen_norm,
    "reordered channels": turned,
    "gated": gated,
    "channels-last MLP": channels_last_mlp,
    "parametrized": parametrized,
    "weight standardisation": standardised,
    "own padding": pads_itself,
    "IBN": ibn,
}
