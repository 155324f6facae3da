"""Convolutions and linear maps as matrices, and the sums of outer products that curvature is made of.

Every weighted module is seen as ``y = W a`` at each of its S output positions, one matrix a group:

===================  =================  ====================================  ==========
module               W                  a (input)                             S
===================  =================  ====================================  ==========
``Linear``           [1, out, in]       the input vector                      tokens
``Conv*d``           [g, out/g, in/g k] a patch, ordered (channel, kernel)    positions
``ConvTranspose*d``  [g, out/g, in/g k] a patch of the zero-stuffed input     positions
===================  =================  ====================================  ==========

A bias is one more input that is constantly 1, the last. Pure functions: tensors in, tensors out.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hessian.channels.layer_types import CONV_TYPES, TRANSPOSED_TYPES
from hessian.patches.autocorrelation import shared_moment
from hessian.patches.products import outer_sum
from hessian.patches.tap_geometry import Geometry

CHUNK_ELEMENTS = 1 << 24
"""Largest patch matrix held at once (elements): 64 MiB in fp32."""


def num_groups(module: nn.Module) -> int:
    """Number of independent maps in a module: its ``groups``, 1 for a linear layer."""
    return module.groups if isinstance(module, CONV_TYPES) else 1


def weight_matrix(module: Any, *, bias: bool = True) -> Tensor:
    """The module's weight as one matrix a group, [groups, d_out, d_in (+ 1)].

    Args:
        module: a convolution or linear layer.
        bias: append the bias as a last column where the module has one.
    """
    return to_matrix(module, module.weight.detach(), module.bias.detach() if bias and module.bias is not None else None)


def to_matrix(module: Any, weight: Tensor, bias: Tensor | None) -> Tensor:
    """A (possibly sliced) weight as matrices [groups, d_out, d_in (+ 1)]; the inverse of :func:`from_matrix`."""
    groups = num_groups(module)
    if isinstance(module, TRANSPOSED_TYPES):
        kernel = weight.shape[2:]
        # A transposed convolution is a convolution of the zero-stuffed input with in and out exchanged and the kernel
        # flipped.
        weight = weight.view(groups, weight.shape[0] // groups, weight.shape[1], *kernel)
        weight = weight.transpose(1, 2).flip(dims=tuple(range(3, weight.ndim)))
        matrix = weight.reshape(groups, weight.shape[1], -1)
    else:
        matrix = weight.reshape(groups, weight.shape[0] // groups, -1)
    if bias is not None:
        matrix = torch.cat([matrix, bias.view(groups, -1, 1)], dim=2)
    return matrix


def from_matrix(module: Any, matrix: Tensor, *, bias: bool) -> tuple[Tensor, Tensor | None]:
    """Weight and bias tensors of a module (its kernel shape, any channel counts) from matrices.

    Args:
        module: gives the kernel shape and the memory layout.
        matrix: [groups, d_out, d_in (+ 1 when ``bias``)].
        bias: whether the last column is the bias.
    """
    groups, d_out, _ = matrix.shape
    shift = matrix[:, :, -1].reshape(-1) if bias else None
    matrix = matrix[:, :, :-1] if bias else matrix
    if isinstance(module, nn.Linear):
        return matrix[0].contiguous(), shift
    kernel = tuple(module.kernel_size)
    weight = matrix.reshape(groups, d_out, -1, *kernel)
    if isinstance(module, TRANSPOSED_TYPES):
        weight = weight.flip(dims=tuple(range(3, weight.ndim))).transpose(1, 2)
    return weight.reshape(groups * weight.shape[1], *weight.shape[2:]).contiguous(), shift


def matrix_columns(module: Any, positions: Tensor) -> Tensor:
    """Columns of the weight matrix that belong to input positions.

    Args:
        module: a convolution or linear layer.
        positions: LongTensor [n, m] of input positions inside one group.

    Returns:
        LongTensor [n, m * kernel].
    """
    if isinstance(module, nn.Linear):
        return positions
    kernel = math.prod(module.kernel_size)
    return (positions[:, :, None] * kernel + torch.arange(kernel, device=positions.device)).flatten(1)


def patches(module: Any, inputs: Tensor) -> Tensor:
    """Inputs of every output position as columns, [N, groups, d_in, S]; no bias row.

    Args:
        module: a convolution or linear layer.
        inputs: what the module was called with, [N, in, *spatial] or [N, *, in].
    """
    if isinstance(module, nn.Linear):
        return inputs.reshape(inputs.shape[0], -1, inputs.shape[-1]).transpose(1, 2)[:, None]
    groups = module.groups
    if isinstance(module, TRANSPOSED_TYPES):
        inputs = _zero_stuffed(module, inputs)
        stride: tuple[int, ...] = (1,) * (inputs.ndim - 2)
    else:
        inputs = _padded(module, inputs)
        stride = module.stride
    images = inputs.shape[0]
    # Kernels as large as the map, or of one pixel, read the input as it lies: nothing has to be unfolded.
    if tuple(inputs.shape[2:]) == tuple(module.kernel_size):
        return inputs.reshape(images, groups, -1, 1)
    if all(size == 1 for size in module.kernel_size):
        window = (slice(None), slice(None), *(slice(None, None, step) for step in stride))
        return inputs[window].reshape(images, groups, inputs.shape[1] // groups, -1)
    if inputs.ndim == 4:
        columns = F.unfold(inputs, module.kernel_size, module.dilation, 0, stride)
    else:
        columns = _unfold_any(module, inputs, stride)
    return columns.view(images, groups, -1, columns.shape[-1])


def _padded(module: Any, inputs: Tensor) -> Tensor:
    amounts = module._reversed_padding_repeated_twice
    if not any(amounts):
        return inputs
    mode = "constant" if module.padding_mode == "zeros" else module.padding_mode
    return F.pad(inputs, amounts, mode=mode)


def _zero_stuffed(module: Any, inputs: Tensor) -> Tensor:
    """The input an equivalent stride-1 convolution with the flipped kernel would see."""
    spatial = inputs.shape[2:]
    stuffed = inputs.new_zeros(
        *inputs.shape[:2], *((size - 1) * step + 1 for size, step in zip(spatial, module.stride, strict=True))
    )
    holes = (slice(None), slice(None), *(slice(None, None, step) for step in module.stride))
    stuffed[holes] = inputs
    amounts: list[int] = []
    for axis in reversed(range(len(spatial))):
        # Negative where the padding exceeds what the kernel reaches; F.pad crops then.
        reach = module.dilation[axis] * (module.kernel_size[axis] - 1) - module.padding[axis]
        amounts += [reach, reach + module.output_padding[axis]]
    return F.pad(stuffed, amounts)


def _unfold_any(module: Any, inputs: Tensor, stride: tuple[int, ...]) -> Tensor:
    """1-D and 3-D im2col: [N, in * kernel, S]."""
    spatial = inputs.ndim - 2
    for axis in range(spatial):
        reach = module.dilation[axis] * (module.kernel_size[axis] - 1) + 1
        # Tensor.unfold knows no dilation: everything within reach is cut out, then thinned.
        inputs = inputs.unfold(2 + axis, reach, stride[axis])[..., :: module.dilation[axis]]
    order = (0, 1, *range(2 + spatial, 2 + 2 * spatial), *range(2, 2 + spatial))
    blocks = inputs.permute(order)
    return blocks.reshape(blocks.shape[0], math.prod(blocks.shape[1 : 2 + spatial]), -1)


def output_columns(module: Any, gradients: Tensor) -> Tensor:
    """Output gradients of every position as columns, [N, groups, d_out, S]."""
    if isinstance(module, nn.Linear):
        return gradients.reshape(gradients.shape[0], -1, gradients.shape[-1]).transpose(1, 2)[:, None]
    images, channels = gradients.shape[:2]
    return gradients.reshape(images, module.groups, channels // module.groups, -1)


def input_second_moment(module: Any, inputs: Tensor, *, bias: bool, reduce: bool = False) -> tuple[Tensor, int]:
    """Sum of ``a a^T`` over images and positions, and how many terms it has.

    Args:
        module: a convolution or linear layer.
        inputs: what it was called with.
        bias: append the constant 1.
        reduce: average ``a`` over an image's positions first (KFAC-reduce).

    Returns:
        [groups, d, d] and the number of terms (images x positions, or images when ``reduce``).
    """
    images, positions = len(inputs), num_positions(module, inputs)
    if reduce:
        means = input_sums(module, inputs)[..., None] / positions
        return (moment_with_constant(means) if bias else outer_sum(means)), images
    width = matrix_width(module)
    moment = inputs.new_empty(num_groups(module), width + bias, width + bias)
    _write_patch_moment(module, inputs, moment[:, :width, :width])
    if bias:
        totals = input_sums(module, inputs.sum(dim=0, keepdim=True))[0]
        moment[:, width, :width] = moment[:, :width, width] = totals
        moment[:, width, width] = images * positions
    return moment, images * positions


def _write_patch_moment(module: Any, inputs: Tensor, out: Tensor) -> None:
    """Write the sum of ``a a^T`` over images and positions into [groups, d, d], the way that costs least."""
    if not isinstance(module, nn.Linear) and math.prod(module.kernel_size) > 1:
        images, geometry = _as_convolution(module, inputs)
        shared = shared_moment(geometry, tuple(images.shape[2:]))
        size = len(images), images.shape[1] // module.groups, module.groups
        if shared.macs(*size) < shared.patch_macs(*size):
            shared.write(images, module.groups, out)
            return
    for index, part in enumerate(_image_chunks(module, inputs)):
        moment = outer_sum(patches(module, part))
        if index == 0:
            out.copy_(moment)
        else:
            out.add_(moment)


def matrix_width(module: Any) -> int:
    """Columns of a module's weight matrix without the bias, d_in; read off the weight, which may be cut."""
    shape = tuple(module.weight.shape)
    if isinstance(module, TRANSPOSED_TYPES):
        return shape[0] // module.groups * math.prod(shape[2:])
    return math.prod(shape[1:])


def num_positions(module: Any, inputs: Tensor) -> int:
    """Output positions S of a module for one of its inputs."""
    if isinstance(module, nn.Linear):
        return inputs[0].numel() // inputs.shape[-1]
    images, geometry = _as_convolution(module, inputs)
    return math.prod(geometry.outputs(images.shape[2:]))


def input_sums(module: Any, inputs: Tensor) -> Tensor:
    """Sum of the patches over an image's output positions, [N, groups, d_in]; without forming the patches.

    Args:
        module: a convolution or linear layer.
        inputs: what it was called with.
    """
    if isinstance(module, nn.Linear):
        return inputs.reshape(len(inputs), -1, inputs.shape[-1]).sum(dim=1)[:, None]
    sums, geometry = _as_convolution(module, inputs)
    reads = geometry.reads(sums.shape[2:])
    # Axis after axis, the last first: what remains of an axis is one entry a tap.
    for axis in reversed(range(len(reads))):
        before = [slice(None)] * (2 + axis)
        windows = [(*before, slice(read.start, read.stop, read.step)) for read in reads[axis]]
        sums = torch.stack([sums[window].sum(dim=2 + axis) for window in windows], dim=2 + axis)
    return sums.reshape(len(sums), module.groups, -1)


def _as_convolution(module: Any, inputs: Tensor) -> tuple[Tensor, Geometry]:
    """A zero-padded convolution, and what it has to be given to see the module's patches."""
    kernel, dilation = tuple(module.kernel_size), tuple(module.dilation)
    unpadded = ((0, 0),) * len(kernel)
    if isinstance(module, TRANSPOSED_TYPES):
        return _zero_stuffed(module, inputs), Geometry(kernel, (1,) * len(kernel), dilation, unpadded)
    if module.padding_mode != "zeros":
        return _padded(module, inputs), Geometry(kernel, tuple(module.stride), dilation, unpadded)
    amounts = module._reversed_padding_repeated_twice
    # F.pad lists the last axis first, before and after an axis; here the first comes first.
    padding = tuple(zip(amounts[-2::-2], amounts[::-2], strict=True))
    return inputs, Geometry(kernel, tuple(module.stride), dilation, padding)


def output_second_moment(module: Any, gradients: Tensor, *, reduce: bool = False) -> Tensor:
    """Sum of ``g g^T`` over images and positions ([groups, d_out, d_out]); ``reduce`` sums positions first."""
    columns = output_columns(module, gradients)
    return outer_sum(columns.sum(dim=3, keepdim=True) if reduce else columns)


def moment_with_constant(columns: Tensor) -> Tensor:
    """Second moment of columns extended by a constant 1, [groups, d + 1, d + 1], without copying the columns."""
    images, groups, width, positions = columns.shape
    moment = columns.new_empty(groups, width + 1, width + 1)
    moment[:, :width, :width] = outer_sum(columns)
    moment[:, width, :width] = moment[:, :width, width] = columns.sum(dim=(0, 3))
    moment[:, width, width] = images * positions
    return moment


def _image_chunks(module: Any, inputs: Tensor) -> Iterator[Tensor]:
    """Split a batch so that no patch matrix passes ``CHUNK_ELEMENTS``."""
    kernel = 1 if isinstance(module, nn.Linear) else math.prod(module.kernel_size)
    per_image = max(1, inputs[0].numel() * kernel)
    size = max(1, CHUNK_ELEMENTS // per_image)
    yield from inputs.split(size)
