"""Second moments from shared products against the plain second moment of unfolded patches, in float64."""

import itertools

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn

from hessian.patches import autocorrelation
from hessian.patches import matrices as covariance
from hessian.patches.products import outer_sum, shifted_products
from hessian.patches.tap_geometry import Geometry, axis_phases

CONVS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def plain_second_moment(conv, inputs):
    columns = covariance.patches(conv, inputs)
    return torch.einsum("ngis,ngjs->gij", columns, columns)


def shared_second_moment(conv, inputs):
    geometry = Geometry(conv.kernel_size, conv.stride, conv.dilation, tuple((p, p) for p in conv.padding))
    shared = autocorrelation.SharedMoment(geometry, tuple(inputs.shape[2:]))
    width = inputs.shape[1] // conv.groups * torch.Size(conv.kernel_size).numel()
    moment = inputs.new_full((conv.groups, width, width), torch.nan)
    shared.write(inputs, conv.groups, moment)
    return moment


@st.composite
def convolutions(draw, axes):
    """A convolution of any walk, with an image on which it has an output."""

    def each(low, high):
        return tuple(draw(st.integers(low, high)) for _ in range(axes))

    groups, channels = draw(st.integers(1, 2)), draw(st.integers(1, 2))
    kernel, stride, dilation, padding, extents = each(1, 4), each(1, 3), each(1, 2), each(0, 3), each(1, 7)
    for extent, taps, step, zeros in zip(extents, kernel, dilation, padding, strict=True):
        assume(extent + 2 * zeros > step * (taps - 1))
    conv = CONVS[axes](groups * channels, groups, kernel, stride, padding, dilation, groups=groups)
    return conv, (2, groups * channels, *extents)


@settings(max_examples=150, derandomize=True)
@given(convolutions(axes=2))
def test_sharing_is_exact_for_any_kernel_stride_dilation_padding_and_size(case):
    conv, shape = case
    inputs = randn(*shape)
    torch.testing.assert_close(
        shared_second_moment(conv, inputs), plain_second_moment(conv, inputs), atol=1e-10, rtol=1e-10
    )


@pytest.mark.parametrize("axes", [1, 3])
def test_sharing_is_exact_along_one_and_three_axes(axes):
    @settings(max_examples=30, derandomize=True)
    @given(convolutions(axes=axes))
    def check(case):
        conv, shape = case
        inputs = randn(*shape)
        torch.testing.assert_close(
            shared_second_moment(conv, inputs), plain_second_moment(conv, inputs), atol=1e-10, rtol=1e-10
        )

    check()


def test_sharing_forms_the_main_sum_of_a_3x3_convolution_once_for_all_81_blocks():
    geometry = Geometry((3, 3), (1, 1), (1, 1), ((1, 1), (1, 1)))
    shared = autocorrelation.SharedMoment(geometry, (56, 56))
    (pair,) = shared.pairs
    main, *borders = pair.sums
    assert main.macs == 15 * 56 * 56
    assert sum(border.macs for border in borders) < 0.03 * main.macs
    assert shared.patch_macs(16, 64, 1) > 5 * shared.macs(16, 64, 1)


@pytest.mark.parametrize(
    ("kernel", "stride", "extent", "shares"),
    [((3, 3), 1, 28, True), ((3, 3), 2, 56, True), ((2, 2), 2, 28, False), ((3, 3), 1, 1, False)],
    ids=["3x3", "3x3 strided", "no overlap", "one position"],
)
def test_the_cheaper_method_is_chosen(kernel, stride, extent, shares, monkeypatch):
    written = []
    write = autocorrelation.SharedMoment.write
    monkeypatch.setattr(
        autocorrelation.SharedMoment, "write", lambda self, *args: written.append(self) or write(self, *args)
    )
    conv = nn.Conv2d(48, 4, kernel, stride, padding=(kernel[0] - 1) // 2).double()
    inputs = randn(4, 48, extent, extent)
    moment, _ = covariance.input_second_moment(conv, inputs, bias=False)
    assert bool(written) == shares
    torch.testing.assert_close(moment, plain_second_moment(conv, inputs), atol=1e-10, rtol=1e-10)


@settings(max_examples=100, derandomize=True)
@given(
    extent=st.integers(1, 9),
    kernel=st.integers(1, 5),
    stride=st.integers(1, 4),
    dilation=st.integers(1, 3),
    before=st.integers(0, 3),
    after=st.integers(0, 3),
)
def test_phases_say_which_position_every_tap_reads(extent, kernel, stride, dilation, before, after):
    assume(extent + before + after > dilation * (kernel - 1))
    geometry = Geometry((kernel,), (stride,), (dilation,), ((before, after),))
    (outputs,) = geometry.outputs((extent,))
    phases = axis_phases(extent, kernel, stride, dilation, before, outputs)
    assert sorted(tap for phase in phases for tap in phase.taps) == list(range(kernel))
    for phase in phases:
        places = list(range(extent))[phase.window]
        assert len(places) == phase.size
        for index, tap in enumerate(phase.taps):
            window = range(phase.starts[index], phase.starts[index] + outputs)
            read = [places[place] for place in window if 0 <= place < phase.size]
            expected = [stride * p + dilation * tap - before for p in range(outputs)]
            assert read == [place for place in expected if 0 <= place < extent]
            assert read == list(geometry.reads((extent,))[0][tap])
            outside = {place for missing in phase.outside(index) for place in missing}
            assert outside == set(range(phase.size)) - set(window)


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("lags", [range(-2, 3), range(0, 3, 2), range(1, 2), range(-1, 0)], ids=str)
def test_shifted_products_are_what_they_say(lags, groups):
    left, right = randn(3, 2 * groups, 4, 3), randn(3, 3 * groups, 5, 2, seed=1)
    products = shifted_products(left, right, [lags, range(-1, 2)], groups)
    assert products.shape == (groups, 2, 3, len(lags), 3)
    left, right = left.view(3, groups, 2, 4, 3), right.view(3, groups, 3, 5, 2)
    expected = torch.zeros_like(products)
    for (y, dy), (x, dx) in itertools.product(enumerate(lags), enumerate(range(-1, 2))):
        for i, j in itertools.product(range(4), range(3)):
            if 0 <= i + dy < 5 and 0 <= j + dx < 2:
                expected[..., y, x] += torch.einsum("nga,ngb->gab", left[..., i, j], right[..., i + dy, j + dx])
    torch.testing.assert_close(products, expected, atol=1e-10, rtol=1e-10)


def test_products_do_not_depend_on_how_many_images_are_taken_at_once(monkeypatch):
    left, right = randn(5, 2, 4, 4), randn(5, 3, 4, 4, seed=1)
    whole = shifted_products(left, right, [range(3), range(-1, 2)])
    monkeypatch.setattr("hessian.patches.products.BUFFER_ELEMENTS", 1)
    torch.testing.assert_close(shifted_products(left, right, [range(3), range(-1, 2)]), whole)


@pytest.mark.parametrize("width", [4, 48], ids=["by matrix products", "by convolution"])
@pytest.mark.parametrize("positions", [1, 6, 100])
@pytest.mark.parametrize("groups", [1, 2])
def test_outer_sums_agree_with_einsum_in_single_precision(width, positions, groups):
    columns, other = randn(3, groups, width, positions), randn(3, groups, 40, positions, seed=1)
    expected = torch.einsum("ngis,ngjs->gij", columns, other).float()
    torch.testing.assert_close(outer_sum(columns.float(), other.float()), expected, atol=1e-4, rtol=1e-4)
    expected = torch.einsum("ngis,ngjs->gij", columns, columns).float()
    torch.testing.assert_close(outer_sum(columns.float()), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("width", [32, 33, 47])
def test_the_mirrored_half_of_a_wide_sum_is_the_other_one(width, monkeypatch):
    monkeypatch.setattr("hessian.patches.products.SYMMETRIC_WIDTH", 32)
    columns = randn(3, 1, width, 6)
    expected = torch.einsum("ngis,ngjs->gij", columns, columns).float()
    torch.testing.assert_close(outer_sum(columns.float()), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("width", [48, 64])
def test_channels_last_maps_give_the_same_sums(width, monkeypatch):
    monkeypatch.setattr("hessian.patches.products.SYMMETRIC_WIDTH", 64)
    maps = randn(3, width, 4, 5).float()
    columns = maps.contiguous(memory_format=torch.channels_last).reshape(3, 1, width, 20)
    assert not columns.is_contiguous()
    expected = torch.einsum("ncs,nds->cd", maps.flatten(2), maps.flatten(2))[None]
    torch.testing.assert_close(outer_sum(columns), expected, atol=1e-4, rtol=1e-4)
