"""Two criteria or networks that compute differently never share a cached analysis; the same one always does."""

import functools
import os
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from prune_gym.support.files import sha256_of
from prune_gym.support.fingerprint import fingerprint_of, network_fingerprint


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


def test_a_changed_method_of_a_loss_of_ones_own_changes_it(monkeypatch):
    before = sha256_of(fingerprint_of(Scaled(1)))
    monkeypatch.setattr(Scaled, "forward", lambda self, z, y: self.scale * F.cross_entropy(z, y), raising=False)
    assert sha256_of(fingerprint_of(Scaled(1))) != before


class Callable:
    def __init__(self, scale):
        self.scale, self.myself = scale, self

    def __call__(self, z, y):
        return self.scale * F.cross_entropy(z, y)


def test_an_object_counts_with_what_it_holds():
    assert sha256_of(fingerprint_of(Callable(2.0))) == sha256_of(fingerprint_of(Callable(2.0)))
    assert sha256_of(fingerprint_of(Callable(2.0))) != sha256_of(fingerprint_of(Callable(3.0)))
    assert sha256_of(fingerprint_of(Callable(2.0).__call__)) != sha256_of(fingerprint_of(Callable(3.0).__call__))


class Base(nn.Module):
    """One convolution, and what a forward may use beside it."""

    def __init__(self, scale):
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(1, 2, 3)
        self.scale, self.activation, self.seen = scale, torch.relu, None
        self.register_buffer("mask", torch.full((1,), scale), persistent=False)


def network(expression, scale=0.5, **names):
    """A network whose forward returns an expression, as if its file had been edited: always the same class."""
    scope = {"Base": Base, "torch": torch, "__name__": "edited", **names}
    exec(f"class Network(Base):\n    def forward(self, x):\n        return {expression}\n", scope)
    return scope["Network"](scale)


def digest(*args, **kwargs):
    return sha256_of(network_fingerprint(network(*args, **kwargs)))


RELU = "torch.relu(self.conv(x))"
MASKED = "self.mask * self.conv(x) + torch.cat([torch.ones(1), torch.zeros(1)]).view(1, 2, 1, 1)"
ROUTED = "helper(self.conv(x)) if x.sum() > 0 and 'a' in {'a', 'b', 'c'} else self.scale * self.mask"
"""Not traceable: its way depends on the data."""


def helper(x):
    return x.abs()


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (network(RELU), network("torch.sigmoid(self.conv(x))")),
        (network("self.scale * self.conv(x)"), network("self.scale * self.conv(x)", scale=0.25)),
        (network(MASKED), network(MASKED, scale=0.25)),
        (network(ROUTED, helper=helper), network(ROUTED.replace("> 0", "> 1"), helper=helper)),
        (network(ROUTED, helper=helper), network(ROUTED, helper=helper, scale=0.25)),
        (network(ROUTED, helper=helper), network(ROUTED, helper=lambda x: x.square())),
    ],
)
def test_networks_that_compute_differently_differ(first, second):
    assert repr(first) == repr(second)
    assert all(torch.equal(tensor, second.state_dict()[name]) for name, tensor in first.state_dict().items())
    assert sha256_of(network_fingerprint(first)) != sha256_of(network_fingerprint(second))


@pytest.mark.parametrize(("expression", "way"), [(RELU, "traced"), (MASKED, "traced"), (ROUTED, "written")])
def test_a_network_is_its_own_equal_before_and_after_it_ran(expression, way):
    model = network(expression, helper=helper)
    before, attributes = network_fingerprint(model), set(vars(model))
    assert before[0] == way
    model.train()(torch.ones(1, 1, 4, 4))
    assert sha256_of(network_fingerprint(model)) == sha256_of(before) == digest(expression, helper=helper)
    assert set(vars(model)) == attributes
    assert model.training


def test_a_traceable_network_counts_as_what_it_does_not_as_it_is_written():
    assert digest(RELU) == digest("self.activation(self.conv(x))")
    assert digest(RELU) == digest("(lambda hidden: torch.relu(hidden))(self.conv(x))")


def test_a_forward_put_on_a_network_counts():
    plain, first, second = network(RELU), network(RELU), network(RELU)
    first.forward = functools.partial(type(network("self.conv(x)")).forward, first)
    second.forward = functools.partial(type(network("-self.conv(x)")).forward, second)
    assert len({sha256_of(network_fingerprint(model)) for model in (plain, first, second)}) == 3


def test_tracing_leaves_nothing_on_a_network_that_keeps_what_it_computes():
    model = network("setattr(self, 'seen', self.conv(x)) or self.seen")
    assert network_fingerprint(model)[0] == "traced"
    assert model.seen is None


def test_another_process_finds_the_same():
    code = (
        "from tests.prune_gym.support.test_fingerprint import MASKED, RELU, ROUTED, digest, helper\n"
        "print(*(digest(expression, helper=helper) for expression in (RELU, MASKED, ROUTED)))"
    )
    command, env = [sys.executable, "-c", code], {**os.environ, "PYTHONHASHSEED": "7"}
    found = subprocess.run(command, capture_output=True, text=True, check=True, env=env).stdout.split()
    assert found == [digest(expression, helper=helper) for expression in (RELU, MASKED, ROUTED)]
