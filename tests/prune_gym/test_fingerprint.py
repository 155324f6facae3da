"""Two criteria that compute differently never share a cached analysis; the same one always does."""

import functools

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from prune_gym.files import sha256_of
from prune_gym.fingerprint import fingerprint_of


class Scaled(nn.CrossEntropyLoss):
    def __init__(self, scale):
        super().__init__()
        self.scale = scale


def times(factor):
    return lambda z, y: factor * F.cross_entropy(z, y)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (lambda z, y: F.cross_entropy(z, y), lambda z, y: F.nll_loss(z, y)),
        (lambda z, y: F.cross_entropy(z, y) * 2, lambda z, y: F.cross_entropy(z, y) * 3),
        (times(2.0), times(3.0)),
        (nn.CrossEntropyLoss(weight=torch.ones(3)), nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0, 9.0]))),
        (nn.CrossEntropyLoss(), nn.CrossEntropyLoss(label_smoothing=0.1)),
        (Scaled(1), Scaled(2)),
        (
            functools.partial(F.cross_entropy, label_smoothing=0.0),
            functools.partial(F.cross_entropy, label_smoothing=0.1),
        ),
    ],
)
def test_what_computes_differently_differs(first, second):
    assert sha256_of(fingerprint_of(first)) != sha256_of(fingerprint_of(second))


@pytest.mark.parametrize("make", [lambda: times(2.0), lambda: Scaled(1), lambda: F.cross_entropy])
def test_what_computes_the_same_is_the_same(make):
    assert sha256_of(fingerprint_of(make())) == sha256_of(fingerprint_of(make()))


def test_the_mode_of_a_loss_does_not_matter():
    assert sha256_of(fingerprint_of(Scaled(1))) == sha256_of(fingerprint_of(Scaled(1).eval()))
