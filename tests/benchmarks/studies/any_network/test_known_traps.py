"""Structures that were once cut wrongly, refused without need, or crashed: cut to the oracle's numbers, or pinned."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torchvision.ops import FrozenBatchNorm2d

from benchmarks.studies.any_network.judge import RIGHT, enliven, judge
from benchmarks.studies.any_network.parts import Apply


def head(width):
    return nn.Sequential(nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 5))


class FlattenedLast(nn.Module):
    """Networks ported from TensorFlow: height, width, channels."""

    def __init__(self):
        super().__init__()
        self.a, self.f = nn.Conv2d(3, 8, 3, padding=1), nn.Linear(512, 5)

    def forward(self, x):
        return self.f(F.relu(self.a(x)).permute(0, 2, 3, 1).flatten(1))


def reordered(function):
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), Apply(function), nn.Conv2d(8, 5, 3), head(5))


class Shuffled(nn.Module):
    """ShuffleNet's first unit with sizes taken from the input.

    Every group of ``b`` reads channels of every group of ``a``: only one of each in each can leave together. Where that
    is one channel altogether, ``a`` stays.
    """

    def __init__(self, width=16, groups=4):
        super().__init__()
        self.groups = groups
        self.stem, self.f = nn.Conv2d(3, 4 * width, 3, padding=1), nn.Linear(4 * width, 5)
        self.a, self.norm = nn.Conv2d(4 * width, width, 1, groups=groups), nn.BatchNorm2d(width)
        self.d = nn.Conv2d(width, width, 3, padding=1, groups=width)
        self.b = nn.Conv2d(width, 4 * width, 1, groups=groups)

    def forward(self, x):
        x = F.relu(self.stem(x))
        h = F.relu(self.norm(self.a(x)))
        n, c, height, width = h.shape
        h = h.view(n, self.groups, c // self.groups, height, width).transpose(1, 2).reshape(n, c, height, width)
        return self.f(F.relu(x + self.b(self.d(h))).mean((2, 3)))


class Auxiliary(nn.Module):
    """A head that runs in training only, as GoogLeNet's."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.f, self.aux = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3), nn.Linear(8, 5), nn.Linear(8, 5)

    def forward(self, x):
        h = F.relu(self.a(x))
        out = self.f(F.relu(self.b(h)).mean((2, 3)))
        return (out, self.aux(h.mean((2, 3)))) if self.training else out


class WeightedSum(nn.Module):
    """BiFPN: one scalar a branch."""

    def __init__(self):
        super().__init__()
        self.a, self.c, self.b = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 5, 3)
        self.w = nn.Parameter(torch.ones(2))

    def forward(self, x):
        h = F.relu(self.a(x))
        return self.b(self.w[0] * h + self.w[1] * self.c(h)).mean((2, 3))


class Masked(nn.Module):
    """A mask of one channel times a map."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 5, 3)
        self.m = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 1, 1))

    def forward(self, x):
        return self.b(torch.sigmoid(self.m(x)) * F.relu(self.a(x))).mean((2, 3))


class Partial(nn.Module):
    """FasterNet's partial convolution."""

    def __init__(self):
        super().__init__()
        self.a, self.p, self.b, self.f = (
            nn.Conv2d(3, 16, 3),
            nn.Conv2d(4, 4, 3, padding=1),
            nn.Conv2d(16, 8, 3),
            nn.Linear(8, 5),
        )

    def forward(self, x):
        h = F.relu(self.a(x))
        h = torch.cat([F.relu(self.p(h[:, :4])), h[:, 4:]], 1)
        return self.f(F.relu(self.b(h)).mean((2, 3)))


class FixedView(nn.Module):
    """LeNet's view, its size written in code."""

    def __init__(self):
        super().__init__()
        self.a, self.f, self.g = nn.Conv2d(3, 8, 3, padding=1), nn.Linear(512, 16), nn.Linear(16, 5)

    def forward(self, x):
        return self.g(F.relu(self.f(F.relu(self.a(x)).view(-1, 512))))


class SecondName(nn.Module):
    """A parameter registered under two names."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.f = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3), nn.Linear(8, 5)
        self.w = self.b.weight

    def forward(self, x):
        return self.f(F.relu(self.b(F.relu(self.a(x)))).mean((2, 3)))


class NormOverSkip(nn.Module):
    """Diffusion UNets: GroupNorm over a concatenation whose groups cross the seam."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(3, 8, 3, padding=1)
        self.n, self.c = nn.GroupNorm(4, 24), nn.Conv2d(24, 5, 3)

    def forward(self, x):
        return self.c(F.silu(self.n(torch.cat([self.a(x), self.b(x)], 1)))).mean((2, 3))


class ECA(nn.Module):
    """Efficient channel attention over a residual sum."""

    def __init__(self, width):
        super().__init__()
        self.a, self.b = nn.Conv2d(width, width, 3, padding=1), nn.Conv2d(width, width, 3, padding=1)
        self.c = nn.Conv1d(1, 1, 3, padding=1, bias=False)

    def forward(self, x):
        h = self.b(F.relu(self.a(x)))
        y = self.c(h.mean((2, 3)).view(h.shape[0], 1, -1))
        return F.relu(x + h * torch.sigmoid(y).view(h.shape[0], -1, 1, 1).expand_as(h))


class KeywordOnly(nn.Module):
    """Inputs by name, outputs by name."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 5, 3)

    def forward(self, *, image, scale):
        return {"out": self.b(F.relu(self.a(image)) * scale)}


TRAPS = {
    "flatten after permute": (FlattenedLast, {"a"}),
    "roll": (lambda: reordered(lambda x: torch.roll(x, 3, 1)), {"0", "3"}),
    "flip": (lambda: reordered(lambda x: x.flip(1)), {"0", "3"}),
    "shuffle": (Shuffled, {"stem", "b"}),
    "shuffle of shared places": (lambda: Shuffled(32), {"stem", "b", "a"}),
    "shuffle of no shared places": (lambda: Shuffled(60, 3), {"stem", "b", "a"}),
    "head in training": (Auxiliary, {"a", "b"}),
    "one slope": (lambda: nn.Sequential(nn.Conv2d(3, 8, 3), nn.PReLU(), nn.Conv2d(8, 5, 3), head(5)), {"0", "2"}),
    "weighted sum": (WeightedSum, {"a", "c"}),
    "mask": (Masked, {"a", "m.0"}),
    "partial convolution": (Partial, {"b"}),
    "fixed view": (FixedView, {"f"}),
    "frozen norm": (
        lambda: nn.Sequential(nn.Conv2d(3, 8, 3), FrozenBatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 5, 3), head(5)),
        {"0", "3"},
    ),
    "second name": (SecondName, {"a", "b"}),
    "norm over a skip": (NormOverSkip, set()),
    "ECA": (lambda: nn.Sequential(nn.Conv2d(3, 16, 3), ECA(16), ECA(16), head(16)), {"1.a", "2.a"}),
}
"""Name -> network, layers whose channels can go at least."""


@pytest.mark.parametrize("trap", TRAPS)
def test_known_traps_are_cut_to_the_oracles_numbers(trap):
    make, prunable = TRAPS[trap]
    torch.manual_seed(0)
    found = judge(enliven(make()), torch.randn(2, 3, 8, 8).double(), singles=3)
    assert found.verdict == RIGHT, found.message
    assert prunable <= set(found.producers)


def test_inputs_and_outputs_by_name():
    inputs = {"image": torch.randn(2, 3, 8, 8).double(), "scale": torch.rand(2, 1, 1, 1).double()}
    found = judge(enliven(KeywordOnly()), inputs)
    assert found.verdict == RIGHT, found.message


def test_what_stays_is_named_with_a_reason():
    found = judge(enliven(FixedView()), torch.randn(2, 3, 8, 8).double())
    assert {"a", "g"} == {pin.where for pin in found.pins}
    assert all(pin.reason for pin in found.pins)
