"""Trace calibration: the Kronecker product of every layer has the trace of the layer's exact curvature."""

import copy

import pytest
import torch
from torch import nn

from hessian import HOBSSensitivityAnalyzer, KFACHessianApproximator
from hessian.kfac.calibration import sum_of_square_norms
from hessian.patches.matrices import output_columns, patches
from hessian.pricing.exact import dense_ggn
from tests.hessian import networks
from tests.hessian.patches.test_covariance import LAYERS


def factors_of(model, batches, **kwargs):
    approximator = KFACHessianApproximator(model, dtype=torch.float64, **kwargs)
    return approximator.estimate(batches, None, None, "type-2")


@pytest.mark.parametrize("kind", [networks.Residual, networks.Grouped, networks.Upsampling])
def test_the_calibrated_trace_is_that_of_the_exact_curvature(kind):
    model, (x, y) = networks.make(kind).double(), networks.images(6)
    x = x.double()
    calibrated = factors_of(model, [(x[:2], y[:2]), (x[2:], y[2:])], trace_calibration=True)
    for name, factors in calibrated.items():
        exact = dense_ggn(model, x, y, None, f"{name}.weight").trace()
        A = factors.A[:, :-1, :-1] if factors.bias else factors.A
        trace = A.diagonal(dim1=1, dim2=2).sum(dim=1) @ factors.G.diagonal(dim1=1, dim2=2).sum(dim=1)
        torch.testing.assert_close(trace, exact)


def test_calibration_scales_g_and_nothing_else():
    model, (x, y) = networks.make(networks.Residual).double(), networks.images(6)
    plain, calibrated = (factors_of(model, [(x.double(), y)], trace_calibration=on) for on in (False, True))
    for name, factors in plain.items():
        torch.testing.assert_close(calibrated[name].A, factors.A)
        scale = calibrated[name].G.diagonal(dim1=1, dim2=2).sum() / factors.G.diagonal(dim1=1, dim2=2).sum()
        torch.testing.assert_close(calibrated[name].G, scale * factors.G)


def test_a_layer_with_one_position_whose_gradients_do_not_depend_on_its_inputs_is_left_as_it_is():
    model = nn.Sequential(nn.Linear(5, 3, bias=False)).double()
    x = torch.randn(50, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    approximator = KFACHessianApproximator(model, dtype=torch.float64, trace_calibration=True)
    factors = approximator.estimate([(x, torch.zeros(50, 3).double())], nn.MSELoss(), None, "type-2")["0"]
    torch.testing.assert_close(factors.G[0].diagonal(), torch.full((3,), 2 / 3, dtype=torch.float64))


@pytest.mark.parametrize("chunk", [1, 1 << 24])
@pytest.mark.parametrize("name", LAYERS)
def test_both_ways_to_a_square_norm_give_the_norm_of_the_summed_outer_products(name, chunk, monkeypatch):
    monkeypatch.setattr("hessian.kfac.calibration.CHUNK_ELEMENTS", chunk)
    layer, shape = copy.deepcopy(LAYERS[name][0]).float(), LAYERS[name][1]
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(shape, generator=generator)
    gradients = torch.randn(layer(inputs).shape, generator=generator)
    outer = output_columns(layer, gradients) @ patches(layer, inputs).transpose(2, 3)
    total = sum_of_square_norms(layer, inputs, gradients)
    assert total.item() == pytest.approx(outer.square().sum().item(), rel=1e-4)


def test_calibration_keeps_the_order_of_layers_with_one_consumer():
    model, (x, y) = networks.make(networks.Grouped), networks.images(24)
    plain, calibrated = (HOBSSensitivityAnalyzer(model, trace_calibration=on) for on in (False, True))
    for hobs in (plain, calibrated):
        hobs.compute_sensitivity([(x, y)])
    assert all(len(group.consumers) == 1 for group in plain.groups)
    for name, order in plain.orders.items():
        assert torch.equal(order, calibrated.orders[name])
        ratio = calibrated.curves[name][1:] / plain.curves[name][1:]
        torch.testing.assert_close(ratio, ratio[:1].expand_as(ratio), rtol=1e-4, atol=0)
