"""A lattice of output positions: the same layer seen less often, and right on average."""

import copy
import itertools
import math

import pytest
import torch

from hessian import KFACHessianApproximator
from hessian.channels.layer_types import TRANSPOSED_TYPES
from hessian.patches.matrices import output_columns, patches
from hessian.patches.subsampling import Lattice, draw_lattice, position_extents
from tests.hessian import networks
from tests.hessian.patches.test_covariance import LAYERS

CASES = {name: case for name, case in LAYERS.items() if not isinstance(case[0], TRANSPOSED_TYPES) and name != "linear"}


@pytest.fixture(params=CASES, ids=str)
def seen(request):
    """A layer, its inputs and a gradient of its outputs."""
    layer, shape = CASES[request.param]
    layer, generator = copy.deepcopy(layer).double(), torch.Generator().manual_seed(0)
    inputs = torch.randn(shape, generator=generator, dtype=torch.float64)
    return layer, inputs, torch.randn(layer(inputs).shape, generator=generator, dtype=torch.float64)


def lattices(extents, stride):
    """The lattice through every position."""
    for position in itertools.product(*map(range, extents)):
        yield Lattice(tuple(index % stride for index in position), stride)


def outer(columns):
    return torch.einsum("ngis,ngjs->gij", columns, columns)


@pytest.mark.parametrize("stride", [2, 3])
def test_a_lattice_sees_what_the_layer_sees_at_those_positions(seen, stride):
    layer, inputs, gradients = seen
    extents = position_extents(layer, gradients)
    everywhere = patches(layer, inputs).unflatten(3, extents)
    for lattice in lattices(extents, stride):
        window = tuple(slice(offset, None, stride) for offset in lattice.offsets)
        expected = everywhere[(slice(None),) * 3 + window].flatten(3)
        torch.testing.assert_close(patches(*lattice.inputs(layer, inputs)), expected)
        assert expected.shape[3] == lattice.count(extents)


@pytest.mark.parametrize("stride", [2, 3])
def test_both_factors_are_exact_on_average_over_all_positions_that_can_be_drawn(seen, stride):
    layer, inputs, gradients = seen
    extents = position_extents(layer, gradients)
    A = G = 0
    for lattice in lattices(extents, stride):
        A = A + outer(patches(*lattice.inputs(layer, inputs))) / lattice.count(extents)
        G = G + outer(output_columns(layer, lattice.gradients(layer, gradients)))
    draws = math.prod(extents)
    torch.testing.assert_close(A / draws, outer(patches(layer, inputs)) / draws)
    torch.testing.assert_close(G / draws, outer(output_columns(layer, gradients)))


def test_positions_are_drawn_uniformly(seen):
    layer, _, gradients = seen
    extents = position_extents(layer, gradients)
    generator = torch.Generator().manual_seed(0)
    drawn = [draw_lattice(layer, gradients, 2, generator).offsets for _ in range(2000)]
    for axis, extent in enumerate(extents):
        share = sum(offsets[axis] == 0 for offsets in drawn) / len(drawn)
        assert share == pytest.approx(math.ceil(extent / 2) / extent, abs=0.05)


def test_estimated_factors_scatter_around_those_of_all_positions():
    model, (x, y) = networks.make(networks.Residual).double(), networks.images(16)
    batches = list(zip(x.double().split(4), y.split(4), strict=True))

    def estimate(**kwargs):
        return KFACHessianApproximator(model, dtype=torch.float64, **kwargs).estimate(batches, None, None, "type-2")

    exact, coarse = estimate(), [estimate(position_stride=2, seed=seed) for seed in range(40)]
    for name, factors in exact.items():
        for letter in "AG":
            expected = getattr(factors, letter)
            mean = torch.stack([getattr(each[name], letter) for each in coarse]).mean(dim=0)
            assert (mean - expected).norm() < 0.1 * expected.norm()
    torch.testing.assert_close(coarse[0]["head"].A, exact["head"].A)


def test_the_constant_stays_one():
    model, batch = networks.make(networks.Concat), networks.images(8)
    factors = KFACHessianApproximator(model, position_stride=3).estimate([batch])
    for name in ("left", "right", "merge"):
        assert factors[name].A[0, -1, -1].item() == pytest.approx(1)
