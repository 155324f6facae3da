"""Block kinds of several streams: concatenations, splits, pyramids, fusions, resampling, attention, shared weights."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.studies.any_network.parts import WIDTHS, Apply, Block, Draw, Maker, activation, conv, norm, unit


class _Dense(nn.Module):
    def __init__(self, layers: list[nn.Module]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = torch.cat([x, layer(x)], dim=1)
        return x


def dense(draw: Draw, width: int) -> Block:
    """DenseNet's block: every layer reads all maps before it; a transition follows."""
    layers: list[nn.Module] = []
    total = width
    for _ in range(draw.choose((1, 2, 3))):
        layers.append(nn.Sequential(nn.BatchNorm2d(total), nn.ReLU(), conv(draw, total, 4)))
        total += 4
    out = draw.choose(WIDTHS)
    return nn.Sequential(_Dense(layers), unit(draw, total, out, 1)), out


class _Parallel(nn.Module):
    def __init__(self, branches: list[nn.Module]) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([branch(x) for branch in self.branches], dim=1)


def inception(draw: Draw, width: int) -> Block:
    """Inception's branches, one of them a pool."""
    pool = draw.choose((nn.MaxPool2d(3, 1, 1), nn.AvgPool2d(3, 1, 1)))
    branches: list[nn.Module] = [
        unit(draw, width, 4, 1),
        unit(draw, width, 8),
        nn.Sequential(pool, unit(draw, width, 4, 1)),
    ]
    if draw.choose((True, False)):
        branches.append(pool)
    total = 16 + (width if len(branches) == 4 else 0)
    return nn.Sequential(_Parallel(branches), norm(draw, total), unit(draw, total, 8, 1)), 8


class _Ghost(nn.Module):
    def __init__(self, primary: nn.Module, cheap: nn.Module, size: int) -> None:
        super().__init__()
        self.primary, self.cheap, self.size = primary, cheap, size

    def forward(self, x: Tensor) -> Tensor:
        first = self.primary(x)
        return torch.cat([first, self.cheap(first)], dim=1)[:, : self.size]


def ghost(draw: Draw, width: int) -> Block:
    """GhostNet's module: half of the maps by a convolution, half of them depthwise from the first half."""
    out = draw.choose((8, 12, 16))
    half = out // 2
    return _Ghost(unit(draw, width, half, 1), unit(draw, half, half, groups=half), out), out


class _Res2(nn.Module):
    def __init__(self, before: nn.Module, layers: list[nn.Module], after: nn.Module) -> None:
        super().__init__()
        self.before, self.layers, self.after = before, nn.ModuleList(layers), after

    def forward(self, x: Tensor) -> Tensor:
        parts = torch.chunk(self.before(x), len(self.layers) + 1, dim=1)
        out = [parts[0]]
        for layer, part in zip(self.layers, parts[1:], strict=True):
            out.append(layer(part if len(out) == 1 else part + out[-1]))
        return x + self.after(torch.cat(out, dim=1))


def res2net(draw: Draw, width: int) -> Block:
    """Res2Net's block: the parts of a map one after the other, each with the result before it."""
    scale = draw.choose((2, 4))
    part = 16 // scale
    layers: list[nn.Module] = [unit(draw, part, part) for _ in range(scale - 1)]
    return _Res2(unit(draw, width, 16, 1), layers, conv(draw, 16, width, 1)), width


class _SplitAttention(nn.Module):
    def __init__(self, width: int, radix: int, groups: int) -> None:
        super().__init__()
        self.radix, self.width = radix, width
        self.conv = nn.Conv2d(width, width * radix, 3, padding=1, groups=groups * radix)
        self.norm = nn.BatchNorm2d(width * radix)
        self.squeeze, self.excite = nn.Conv2d(width, 4, 1), nn.Conv2d(4, width * radix, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.conv(x)))
        n, _, h, w = x.shape
        parts = x.reshape(n, self.radix, self.width, h, w)
        gap = parts.sum(dim=1).mean((2, 3), keepdim=True)
        gate = self.excite(torch.relu(self.squeeze(gap))).reshape(n, self.radix, self.width, 1, 1).softmax(dim=1)
        return (parts * gate).sum(dim=1)


def split_attention(draw: Draw, width: int) -> Block:
    """ResNeSt's split attention: one width of several radices."""
    inner = draw.choose((8, 16))
    attention = _SplitAttention(inner, draw.choose((2, 4)), draw.choose((1, 2)))
    return nn.Sequential(unit(draw, width, inner, 1), attention, unit(draw, inner, width, 1)), width


class _SelectiveKernel(nn.Module):
    def __init__(self, branches: list[nn.Module], width: int) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)
        self.squeeze, self.excite = nn.Linear(width, 4), nn.ModuleList(nn.Linear(4, width) for _ in branches)

    def forward(self, x: Tensor) -> Tensor:
        maps = torch.stack([branch(x) for branch in self.branches], dim=1)
        z = torch.relu(self.squeeze(maps.sum(dim=1).mean(dim=(2, 3))))
        gates = torch.softmax(torch.stack([layer(z) for layer in self.excite], dim=1), dim=1)
        return (maps * gates[..., None, None]).sum(dim=1)


def selective_kernel(draw: Draw, width: int) -> Block:
    """SKNet: branches of different kernels, weighed against each other channel by channel."""
    out = draw.choose(WIDTHS)
    return _SelectiveKernel([unit(draw, width, out), unit(draw, width, out, 5)], out), out


class _C2f(nn.Module):
    def __init__(self, before: nn.Module, layers: list[nn.Module], after: nn.Module, fixed: int | None) -> None:
        super().__init__()
        self.before, self.layers, self.after, self.fixed = before, nn.ModuleList(layers), after, fixed

    def forward(self, x: Tensor) -> Tensor:
        y = self.before(x)
        parts = list(y.chunk(2, 1) if self.fixed is None else y.split((self.fixed, self.fixed), 1))
        for layer in self.layers:
            parts.append(parts[-1] + layer(parts[-1]))
        return self.after(torch.cat(parts, 1))


def c2f(draw: Draw, width: int) -> Block:
    """YOLO's C2f: halves by chunk or by sizes fixed in code, and all that comes of one of them."""
    half, count, out = draw.choose((4, 8)), draw.choose((1, 2)), draw.choose(WIDTHS)
    layers: list[nn.Module] = [nn.Sequential(unit(draw, half, half), unit(draw, half, half)) for _ in range(count)]
    fixed = draw.choose((None, half))
    return _C2f(unit(draw, width, 2 * half, 1), layers, unit(draw, (2 + count) * half, out, 1), fixed), out


class _SPPF(nn.Module):
    def __init__(self, before: nn.Module, after: nn.Module) -> None:
        super().__init__()
        self.before, self.after, self.pool = before, after, nn.MaxPool2d(3, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.before(x)
        once = self.pool(x)
        twice = self.pool(once)
        return self.after(torch.cat((x, once, twice, self.pool(twice)), 1))


def sppf(draw: Draw, width: int) -> Block:
    """YOLO's SPPF: one map four times beside itself, pooled ever wider."""
    inner, out = draw.choose(WIDTHS), draw.choose(WIDTHS)
    return _SPPF(unit(draw, width, inner, 1), unit(draw, 4 * inner, out, 1)), out


def pixel_shuffle(draw: Draw, width: int) -> Block:
    """Sub-pixel convolution, and back to the size before."""
    out = draw.choose((4, 8))
    back = draw.choose((unit(draw, out, out, stride=2), nn.Sequential(nn.PixelUnshuffle(2), unit(draw, 4 * out, out))))
    return nn.Sequential(conv(draw, width, 4 * out), nn.PixelShuffle(2), activation(draw, out), back), out


def transposed(draw: Draw, width: int) -> Block:
    """Down and up again by a transposed convolution, some of them grouped."""
    inner, out, groups = draw.choose((8, 12)), draw.choose((8, 12)), draw.choose((1, 1, 2, 4))
    up = nn.ConvTranspose2d(
        inner, out, *draw.choose(((2, 2, 0), (4, 2, 1))), groups=groups, bias=draw.choose((True, False))
    )
    return nn.Sequential(unit(draw, width, inner, stride=2), up, norm(draw, out), activation(draw, out)), out


class _UNet(nn.Module):
    def __init__(self, down: nn.Module, up: nn.Module, merged: nn.Module) -> None:
        super().__init__()
        self.down, self.up, self.merged = down, up, merged

    def forward(self, x: Tensor) -> Tensor:
        return self.merged(torch.cat([x, self.up(self.down(x))], dim=1))


def unet(draw: Draw, width: int) -> Block:
    """One level of a UNet: a skip beside what comes from below, and a norm over both."""
    inner, out = draw.choose(WIDTHS), draw.choose(WIDTHS)
    up = draw.choose((nn.Upsample(scale_factor=2), nn.ConvTranspose2d(inner, inner, 2, 2)))
    total = width + inner
    merged = nn.Sequential(norm(draw, total), nn.SiLU(), conv(draw, total, out))
    return _UNet(unit(draw, width, inner, stride=2), up, merged), out


class _Pyramid(nn.Module):
    def __init__(self, width: int, middle: int, out: int) -> None:
        super().__init__()
        self.down = nn.Conv2d(width, middle, 3, 2, 1)
        self.lateral = nn.ModuleList([nn.Conv2d(width, out, 1), nn.Conv2d(middle, out, 1)])
        self.smooth = nn.ModuleList([nn.Conv2d(out, out, 3, padding=1), nn.Conv2d(out, out, 3, padding=1)])

    def forward(self, x: Tensor) -> Tensor:
        below = torch.relu(self.down(x))
        top = self.lateral[1](below)
        fine = self.lateral[0](x) + F.interpolate(top, size=x.shape[-2:], mode="nearest")
        maps = {"fine": self.smooth[0](fine), "coarse": self.smooth[1](top)}
        return maps["fine"] + F.interpolate(maps["coarse"], size=x.shape[-2:], mode="bilinear")


def pyramid(draw: Draw, width: int) -> Block:
    """A feature pyramid: the coarse map added to the fine one."""
    out = draw.choose(WIDTHS)
    return _Pyramid(width, draw.choose(WIDTHS), out), out


class _Fuse(nn.Module):
    def __init__(self, draw: Draw, width: int, low: int) -> None:
        super().__init__()
        self.split = unit(draw, width, low, stride=2)
        self.fine, self.coarse = unit(draw, width, width), unit(draw, low, low)
        self.down = nn.Sequential(nn.Conv2d(width, low, 3, 2, 1), nn.BatchNorm2d(low))
        self.up = nn.Sequential(nn.Conv2d(low, width, 1), nn.BatchNorm2d(width), nn.Upsample(scale_factor=2))
        self.join = unit(draw, width + low, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        fine, coarse = self.fine(x), self.coarse(self.split(x))
        fine, coarse = torch.relu(fine + self.up(coarse)), torch.relu(coarse + self.down(fine))
        return self.join(torch.cat([fine, F.interpolate(coarse, scale_factor=2.0)], dim=1))


def fuse(draw: Draw, width: int) -> Block:
    """HRNet's fusion: two resolutions, each added to the other."""
    return _Fuse(draw, width, draw.choose(WIDTHS)), width


class _Shared(nn.Module):
    def __init__(self, encoder: nn.Module, joined: nn.Module, how: str) -> None:
        super().__init__()
        self.encoder, self.joined, self.how = encoder, joined, how

    def forward(self, x: Tensor) -> Tensor:
        first, second = self.encoder(x), self.encoder(x.flip(3))
        if self.how == "concatenated":
            return self.joined(torch.cat([first, second], dim=1))
        return self.joined(torch.abs(first - second) if self.how == "difference" else torch.maximum(first, second))


def siamese(draw: Draw, width: int) -> Block:
    """One encoder over two inputs, whose results are compared."""
    inner, out = draw.choose(WIDTHS), draw.choose(WIDTHS)
    how = draw.choose(("concatenated", "difference", "larger"))
    encoder = nn.Sequential(unit(draw, width, inner), unit(draw, inner, inner))
    return _Shared(encoder, unit(draw, inner * (2 if how == "concatenated" else 1), out), how), out


class _Tied(nn.Module):
    def __init__(self, width: int, how: str) -> None:
        super().__init__()
        self.first, self.second, self.how = (
            nn.Conv2d(width, width, 3, padding=1),
            nn.Conv2d(width, width, 3, padding=1),
            how,
        )
        if how == "parameter":
            self.second.weight = self.first.weight
        if how == "second name":
            self.same = self.first.weight

    def forward(self, x: Tensor) -> Tensor:
        for layer in (self.first, self.first, self.second) if self.how == "twice" else (self.first, self.second):
            x = torch.relu(layer(x))
        return x


def tied(draw: Draw, width: int) -> Block:
    """Weights that serve twice: a module run twice, a parameter of two modules, a parameter of two names."""
    out = draw.choose(WIDTHS)
    middle = _Tied(out, draw.choose(("twice", "parameter", "second name")))
    return nn.Sequential(unit(draw, width, out), middle, unit(draw, out, out)), out


class _Weighted(nn.Module):
    def __init__(self, first: nn.Module, second: nn.Module, fast: bool) -> None:
        super().__init__()
        self.first, self.second, self.fast = first, second, fast
        self.weights = nn.Parameter(torch.ones(2))

    def forward(self, x: Tensor) -> Tensor:
        weights = torch.relu(self.weights) if self.fast else torch.softmax(self.weights, 0)
        maps = torch.stack([self.first(x), self.second(x)], dim=-1)
        return (maps * weights).sum(-1) if self.fast else weights[0] * maps[..., 0] + weights[1] * maps[..., 1]


def weighted_sum(draw: Draw, width: int) -> Block:
    """BiFPN's weighted sum: one scalar a branch."""
    out = draw.choose(WIDTHS)
    return _Weighted(unit(draw, width, out), unit(draw, width, out, 1), draw.choose((True, False))), out


class _Mask(nn.Module):
    def __init__(self, draw: Draw, width: int, statistics: bool) -> None:
        super().__init__()
        self.statistics, self.body = statistics, unit(draw, width, width)
        self.mask = nn.Sequential(nn.Conv2d(2 if statistics else width, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = self.body(x)
        seen = torch.cat([x.mean(1, keepdim=True), x.amax(1, keepdim=True)], 1) if self.statistics else x
        return x * torch.sigmoid(self.mask(seen))


def spatial_mask(draw: Draw, width: int) -> Block:
    """A mask of one channel times a map, from the map or (as in CBAM) from its mean and maximum over channels."""
    return _Mask(draw, width, draw.choose((True, False, False))), width


class _Partial(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.part = width // 4
        self.conv = nn.Conv2d(self.part, self.part, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([F.relu(self.conv(x[:, : self.part])), x[:, self.part :]], 1)


def partial_convolution(draw: Draw, width: int) -> Block:
    """FasterNet's partial convolution: a quarter of the channels, counted in code."""
    out = draw.choose((8, 16))
    return nn.Sequential(unit(draw, width, out), _Partial(out), unit(draw, out, out, 1), unit(draw, out, out)), out


class _NonLocal(nn.Module):
    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.queries, self.keys, self.values = (nn.Conv2d(width, inner, 1) for _ in range(3))
        self.last = nn.Conv2d(inner, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        queries, keys, values = (layer(x).flatten(2) for layer in (self.queries, self.keys, self.values))
        attention = torch.softmax(torch.einsum("bci,bcj->bij", queries, keys), dim=-1)
        return x + self.last(torch.einsum("bij,bcj->bci", attention, values).reshape(x.shape[0], -1, *x.shape[2:]))


def non_local(draw: Draw, width: int) -> Block:
    """A non-local block: attention between the places of an image."""
    return nn.Sequential(unit(draw, width, width), _NonLocal(width, draw.choose((4, 8)))), width


class _Padded(nn.Module):
    def __init__(self, body: nn.Module, grown: int) -> None:
        super().__init__()
        self.body, self.grown = body, grown

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.body(x) + F.pad(x, (0, 0, 0, 0, self.grown // 2, self.grown // 2)))


def padded_shortcut(draw: Draw, width: int) -> Block:
    """ResNet's shortcut without weights: channels of zeros around those there are."""
    out = width + 4
    return nn.Sequential(_Padded(unit(draw, width, out), 4), unit(draw, out, 8, 1)), 8


class _Coordinates(nn.Module):
    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        ramp = torch.linspace(-1, 1, x.shape[-1], dtype=x.dtype, device=x.device).expand(x.shape[0], 1, *x.shape[2:])
        return self.layer(torch.cat([x, ramp, ramp.transpose(2, 3)], dim=1))


def coordinates(draw: Draw, width: int) -> Block:
    """CoordConv: channels that no layer makes beside those that one does."""
    return _Coordinates(unit(draw, width + 2, 8)), 8


class _Rows(nn.Module):
    def __init__(self, width: int, out: int) -> None:
        super().__init__()
        self.along, self.across = nn.Conv1d(width, out, 3, padding=1), nn.Conv1d(width, out, 1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.sigmoid(self.along(x.mean(3)))[:, :, :, None] * self.across(x.mean(2)).unsqueeze(2)


def rows(draw: Draw, width: int) -> Block:
    """Coordinate attention: one-dimensional convolutions over rows and columns, multiplied."""
    out = draw.choose(WIDTHS)
    return nn.Sequential(unit(draw, width, width), _Rows(width, out)), out


def two_views(draw: Draw, width: int) -> Block:
    """The same map read by two layers in different orders of its channels."""
    out = draw.choose((8, 16))
    first, second = unit(draw, width, out), Apply(lambda x: torch.cat([x, x.flip(1)], dim=1))
    return nn.Sequential(first, second, unit(draw, 2 * out, 8)), 8


KINDS: dict[str, Maker] = {
    "dense": dense,
    "inception": inception,
    "ghost": ghost,
    "Res2Net": res2net,
    "split attention": split_attention,
    "selective kernel": selective_kernel,
    "C2f": c2f,
    "SPPF": sppf,
    "pixel shuffle": pixel_shuffle,
    "transposed": transposed,
    "UNet": unet,
    "pyramid": pyramid,
    "HRNet fusion": fuse,
    "shared encoder": siamese,
    "tied weights": tied,
    "weighted sum": weighted_sum,
    "spatial mask": spatial_mask,
    "partial convolution": partial_convolution,
    "non-local": non_local,
    "padded shortcut": padded_shortcut,
    "coordinates": coordinates,
    "rows and columns": rows,
    "mirrored twice": two_views,
}
