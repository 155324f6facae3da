import pytest
import torch
from torch import nn

from hessian.patches import matrices as covariance

LAYERS = {
    "linear": (nn.Linear(5, 3), (4, 5)),
    "linear over tokens": (nn.Linear(5, 3), (4, 7, 5)),
    "conv": (nn.Conv2d(4, 6, 3, stride=2, padding=1), (3, 4, 7, 6)),
    "1x1 strided": (nn.Conv2d(4, 6, 1, stride=2, bias=False), (3, 4, 7, 6)),
    "dilated, rectangular": (nn.Conv2d(4, 6, (3, 2), padding=(2, 0), dilation=(2, 1)), (3, 4, 7, 6)),
    "same padding": (nn.Conv2d(4, 6, 3, padding="same"), (3, 4, 7, 6)),
    "reflected": (nn.Conv2d(4, 6, 3, padding=1, padding_mode="reflect"), (3, 4, 7, 6)),
    "grouped": (nn.Conv2d(4, 6, 3, padding=1, groups=2), (3, 4, 7, 6)),
    "depthwise": (nn.Conv2d(4, 4, 3, padding=1, groups=4), (3, 4, 7, 6)),
    "1d": (nn.Conv1d(4, 6, 3, stride=2, padding=1), (3, 4, 9)),
    "3d": (nn.Conv3d(2, 3, 2, padding=1), (2, 2, 4, 3, 5)),
    "transposed": (nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1, output_padding=1), (3, 4, 5, 6)),
    "transposed, grouped": (nn.ConvTranspose2d(4, 6, 3, stride=2, groups=2), (3, 4, 5, 6)),
}


@pytest.fixture(params=LAYERS, ids=str)
def layer_and_inputs(request):
    layer, shape = LAYERS[request.param]
    generator = torch.Generator().manual_seed(0)
    for parameter in layer.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    return layer.double(), torch.randn(shape, generator=generator, dtype=torch.float64)


def test_weight_matrix_times_patches_is_the_layer(layer_and_inputs):
    layer, inputs = layer_and_inputs
    outputs = covariance.weight_matrix(layer, bias=False) @ covariance.patches(layer, inputs)
    expected = covariance.output_columns(layer, layer(inputs))
    if layer.bias is not None:
        outputs = outputs + layer.bias.view(1, outputs.shape[1], -1, 1)
    torch.testing.assert_close(outputs, expected)


def test_matrices_turn_back_into_the_weight_they_came_from(layer_and_inputs):
    layer, _ = layer_and_inputs
    biased = layer.bias is not None
    weight, bias = covariance.from_matrix(layer, covariance.weight_matrix(layer), bias=biased)
    assert torch.equal(weight, layer.weight)
    assert bias is None if not biased else torch.equal(bias, layer.bias)


def test_the_second_moment_does_not_depend_on_chunking(layer_and_inputs, monkeypatch):
    layer, inputs = layer_and_inputs
    whole, terms = covariance.input_second_moment(layer, inputs, bias=True)
    monkeypatch.setattr(covariance, "CHUNK_ELEMENTS", 1)
    parts, same_terms = covariance.input_second_moment(layer, inputs, bias=True)
    torch.testing.assert_close(whole, parts)
    assert (
        terms == same_terms == covariance.patches(layer, inputs).shape[0] * covariance.patches(layer, inputs).shape[3]
    )
    assert whole[0, -1, -1] == terms


def test_the_second_moment_is_that_of_the_unfolded_patches(layer_and_inputs):
    layer, inputs = layer_and_inputs
    columns = covariance.patches(layer, inputs)
    columns = torch.cat([columns, torch.ones_like(columns[:, :, :1])], dim=2)
    expected = torch.einsum("ngis,ngjs->gij", columns, columns)
    moment, terms = covariance.input_second_moment(layer, inputs, bias=True)
    torch.testing.assert_close(moment, expected, atol=1e-10, rtol=1e-10)
    assert terms == columns.shape[0] * columns.shape[3]
    moment, _ = covariance.input_second_moment(layer, inputs, bias=False)
    torch.testing.assert_close(moment, expected[:, :-1, :-1], atol=1e-10, rtol=1e-10)


def test_reduced_moments_average_the_patches_of_an_image_first(layer_and_inputs):
    layer, inputs = layer_and_inputs
    means = covariance.patches(layer, inputs).mean(dim=3)
    means = torch.cat([means, torch.ones_like(means[:, :, :1])], dim=2)
    moment, terms = covariance.input_second_moment(layer, inputs, bias=True, reduce=True)
    torch.testing.assert_close(moment, torch.einsum("ngi,ngj->gij", means, means), atol=1e-10, rtol=1e-10)
    assert terms == len(inputs)


def test_output_moments_are_over_images_and_positions(layer_and_inputs):
    layer, inputs = layer_and_inputs
    gradients = layer(inputs)
    columns = covariance.output_columns(layer, gradients)
    expected = torch.einsum("ngis,ngjs->gij", columns, columns)
    torch.testing.assert_close(covariance.output_second_moment(layer, gradients), expected, atol=1e-10, rtol=1e-10)
    totals = columns.sum(dim=3)
    expected = torch.einsum("ngi,ngj->gij", totals, totals)
    reduced = covariance.output_second_moment(layer, gradients, reduce=True)
    torch.testing.assert_close(reduced, expected, atol=1e-10, rtol=1e-10)
