"""The dense network in which removed channels read as zero, made without any map of where channels go.

The removed *rows* of the producers, the one thing a plan says, are filled with NaN, and the dense network is run as it
is. PyTorch's own operators then carry the NaN wherever the channel goes: through views, permutations, flips, shuffles,
concatenations, sums and gates, whatever they are. Where channels are mixed (every contraction: convolutions, linear
layers, matrix products), NaN is read as zero; where nothing but removed channels meets (a depthwise convolution), the
result is removed too. Norms over channels are computed over those that stay, which is what the smaller network
computes. A pruned network has to give the same numbers, and a NaN that reaches an output is a channel that may not go.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.utils.parametrize import is_parametrized
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map_only

from hessian.channels.layer_types import CONV_TYPES, TRANSPOSED_TYPES

aten = torch.ops.aten
Rows = Mapping[str, Sequence[int]]


class ChannelReachesOutputError(ValueError):
    """A removed channel reaches an output of the network without being read by any layer."""


@dataclass(frozen=True)
class Gap:
    """A pruned network against the dense one in which the removed channels read as zero.

    Attributes:
        error: largest difference of an output, relative to that output's largest entry; NaN if one is not finite.
        effect: how far the dense network's own outputs are from both, in the same measure: with next to no effect,
            the comparison could not have found an error.
    """

    error: float
    effect: float


def zeroing_gap(
    dense: nn.Module,
    pruned: nn.Module,
    rows: Rows,
    inputs: Any,
    *,
    training: bool = False,
    watched: Sequence[str] = (),
    whole: Sequence[Tensor] | None = None,
) -> Gap:
    """Compare a pruned network with the dense one in which the removed channels read as zero.

    Args:
        dense: the network before pruning; not changed.
        pruned: the smaller one; not changed.
        rows: module name -> removed output channels of that convolution or linear layer.
        inputs: a tensor, a tuple of positional arguments or a dictionary of keyword arguments, at least two images.
        training: compare in training mode (dropout off), where auxiliary heads run.
        watched: modules whose outputs are compared as well (a detector's heads, before boxes are sorted out).
        whole: the dense network's own outputs where they are known.

    Raises:
        ChannelReachesOutputError: a removed channel is part of an output.
        ValueError: outputs of another number or shape.
    """
    if whole is None:
        whole = network_outputs(dense, inputs, training=training, watched=watched)
    expected = zeroed_outputs(dense, rows, inputs, training=training, watched=watched)
    actual = network_outputs(pruned, inputs, training=training, watched=watched)
    return Gap(distance(actual, expected), distance(whole, expected))


def network_outputs(
    model: nn.Module, inputs: Any, *, training: bool = False, watched: Sequence[str] = ()
) -> list[Tensor]:
    """All floating-point outputs of a network, in order; see `zeroing_gap` for the arguments."""
    # Evaluation changes nothing of a network; training changes statistics.
    return _run(_private(model, training) if training or model.training else model, inputs, watched)


def zeroed_outputs(
    dense: nn.Module, rows: Rows, inputs: Any, *, training: bool = False, watched: Sequence[str] = ()
) -> list[Tensor]:
    """Outputs of the dense network in which some channels read as zero; see `zeroing_gap` for the arguments.

    Raises:
        ChannelReachesOutputError: a removed channel is part of an output.
    """
    model = _private(dense, training)
    with _poisoned_rows(model, rows), ReadsNaNAsZero(), sdpa_kernel(SDPBackend.MATH):
        found = _run(model, inputs, watched)
    if any(bool(output.isnan().any()) for output in found):
        raise ChannelReachesOutputError("a removed channel reaches an output of the network")
    return found


def _private(model: nn.Module, training: bool) -> nn.Module:
    """A copy in a mode."""
    return copy.deepcopy(model).train(training)


class _WithoutDropout(TorchFunctionMode):
    """Inside, dropout passes everything on, be it a module or a function."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return args[0] if func in _DROPOUT else func(*args, **(kwargs or {}))


_DROPOUT = {F.dropout, F.dropout1d, F.dropout2d, F.dropout3d, F.alpha_dropout, F.feature_alpha_dropout}


def _run(model: nn.Module, inputs: Any, watched: Sequence[str]) -> list[Tensor]:
    seen: list[Any] = []
    handles = [model.get_submodule(name).register_forward_hook(lambda *call: seen.append(call[2])) for name in watched]
    # Detectors clip boxes in place and classifiers drop paths at random: every run gets the same of both.
    inputs = tree_map_only(Tensor, Tensor.clone, inputs)
    fast_path = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]), _WithoutDropout():
            torch.manual_seed(0)
            output = _call(model, inputs)
    finally:
        torch.backends.mha.set_fastpath_enabled(fast_path)
        for handle in handles:
            handle.remove()
    leaves = tree_flatten([_plain(output), [_plain(each) for each in seen]])[0]
    return [leaf for leaf in leaves if isinstance(leaf, Tensor) and leaf.is_floating_point()]


def _call(model: nn.Module, inputs: Any) -> Any:
    if isinstance(inputs, dict):
        return model(**inputs)
    return model(*inputs) if isinstance(inputs, tuple) else model(inputs)


def _plain(output: Any) -> Any:
    """Outputs as plain containers: dictionaries of their own kind are mappings too."""
    if isinstance(output, Mapping):
        return {str(key): _plain(value) for key, value in output.items()}
    if isinstance(output, (list, tuple)):
        return [_plain(value) for value in output]
    return output


def distance(actual: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    """Largest difference of an output, relative to the largest entry expected of it; NaN if one is not finite.

    Raises:
        ValueError: outputs of another number or shape.
    """
    shapes = [[list(output.shape) for output in outputs] for outputs in (actual, expected)]
    if shapes[0] != shapes[1]:
        raise ValueError(f"outputs have the shapes {shapes[0]}, expected {shapes[1]}")
    worst = 0.0
    for own, other in zip(actual, expected, strict=True):
        if not other.numel():
            continue
        scale = max(float(other.abs().max()), torch.finfo(other.dtype).tiny)
        error = float((own - other).abs().max()) / scale
        worst = error if math.isnan(error) else max(worst, error)
        if math.isnan(worst):
            return worst
    return worst


@contextmanager
def _poisoned_rows(model: nn.Module, rows: Rows) -> Iterator[None]:
    """Fill rows of weights with NaN; where the weight is computed (spectral norm), those channels of the output."""
    handles = []
    for name, removed in rows.items():
        if not len(removed):
            continue
        module, index = model.get_submodule(name), torch.as_tensor(list(removed))
        if is_parametrized(module):
            handles.append(module.register_forward_hook(_poisoning_hook(index)))
        else:
            _poison_weight(module, index)
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _poison_weight(module: Any, removed: Tensor) -> None:
    weight = module.weight.data
    if not isinstance(module, TRANSPOSED_TYPES):
        weight[removed] = math.nan
        return
    rows, columns = module.out_channels // module.groups, module.in_channels // module.groups
    for row in removed.tolist():
        group = row // rows
        weight[group * columns : (group + 1) * columns, row % rows] = math.nan


def _poisoning_hook(removed: Tensor) -> Callable[[nn.Module, Any, Tensor], Tensor]:
    def poison(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        axis = -1 - len(module.kernel_size) if isinstance(module, CONV_TYPES) else -1
        return output.index_fill(axis, removed, math.nan)

    return poison


class ReadsNaNAsZero(TorchDispatchMode):
    """Inside, operators move NaN, contractions read it as zero, and norms over channels leave it out.

    Operators without a rule here compute what they always do: what they make of NaN is NaN, so a removed channel that
    they mix with others spreads, and shows.
    """

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run one operator."""
        kwargs = kwargs or {}
        tensors = [leaf for leaf in tree_flatten((args, kwargs))[0] if isinstance(leaf, Tensor)]
        if not any(tensor.is_floating_point() and bool(tensor.isnan().any()) for tensor in tensors):
            return func(*args, **kwargs)
        rule = _RULES.get(func.overloadpacket)
        if rule is not None:
            return rule(func, *args, **kwargs)
        if func.overloadpacket in _STUBBORN or (torch.Tag.pointwise in func.tags and func.overloadpacket not in _OWN):
            return _elementwise(func, tensors, args, kwargs)
        return func(*args, **kwargs)


def _elementwise(func: Any, tensors: Sequence[Tensor], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """An entry of the result is removed where that of any operand is; kernels differ in what they make of NaN."""
    shape = torch.broadcast_shapes(*(tensor.shape for tensor in tensors))
    gone = torch.zeros(shape, dtype=torch.bool)
    for tensor in tensors:
        if tensor.is_floating_point():
            gone = gone | tensor.isnan()
    out = func(*args, **kwargs)
    if isinstance(out, Tensor) and out.is_floating_point() and out.shape == gone.shape:
        out.masked_fill_(gone, math.nan)
    return out


def _contraction(func: Any, left: Tensor, right: Tensor, *rest: Any, **kwargs: Any) -> Tensor:
    """Sum of products without those in which a factor is removed; removed itself where all of them are."""
    value = func(left.nan_to_num(nan=0.0), right.nan_to_num(nan=0.0), *rest, **kwargs)
    left_stays, right_stays = (~left.isnan()).to(left.dtype), (~right.isnan()).to(right.dtype)
    present = func(left_stays, right_stays, *rest, **kwargs).round() != 0
    possible = func(torch.ones_like(left), torch.ones_like(right), *rest, **kwargs).round() != 0
    return value.masked_fill(possible & ~present, math.nan)


def _affine_contraction(func: Any, bias: Tensor, left: Tensor, right: Tensor, **scales: Any) -> Tensor:
    """``addmm`` and its kin: a bias and a product of matrices."""
    product = {aten.addmm: aten.mm, aten.baddbmm: aten.bmm, aten.addmv: aten.mv}[func.overloadpacket].default
    return _added(_contraction(product, left, right) * scales.get("alpha", 1), bias * scales.get("beta", 1))


def _convolution(func: Any, inputs: Tensor, weight: Tensor, bias: Tensor | None, *geometry: Any) -> Tensor:
    def product(left: Tensor, right: Tensor) -> Tensor:
        return func(left, right, None, *geometry)

    ones = [1] * (weight.ndim - 2)
    whole = _of_whole_maps(inputs.isnan())
    if whole is None:
        value = _convolution_of_places(product, inputs, weight, tuple(range(2 - weight.ndim, 0)))
    else:
        # Whole maps are removed, so what is left of them can be counted on a single place.
        value = product(inputs.nan_to_num(nan=0.0), weight.nan_to_num(nan=0.0))
        stays = (~weight.isnan()).flatten(2).any(2).to(weight.dtype).reshape(*weight.shape[:2], *ones)
        zeros = [0] * len(ones)
        _, _, _, transposed, _, groups = geometry
        present = (
            func((~whole).to(inputs.dtype), stays, None, ones, zeros, ones, transposed, zeros, groups).round() != 0
        )
        value = value.masked_fill(~present, math.nan)
    return value if bias is None else _added(value, bias.reshape(-1, *ones))


def _of_whole_maps(gone: Tensor) -> Tensor | None:
    """Which maps are removed, [1, C, 1, ...]; None if parts of maps are, or not the same ones of every image."""
    first = gone[:1].flatten(2)[..., :1].reshape(1, -1, *[1] * (gone.ndim - 2))
    return first if bool((gone == first).all()) else None


def _convolution_of_places(
    product: Callable[[Tensor, Tensor], Tensor], inputs: Tensor, weight: Tensor, places: tuple[int, ...]
) -> Tensor:
    value = _contraction(product, inputs, weight)
    # Behind wide padding, or between the points of a strided transposed convolution, nothing but the bias is left.
    reached = product(torch.ones_like(inputs), torch.ones_like(weight)).round() != 0
    whole = (value.isnan() | ~reached).all(dim=places, keepdim=True) & reached.any(dim=places, keepdim=True)
    return value.masked_fill(whole, math.nan)


def _added(value: Tensor, bias: Tensor) -> Tensor:
    return (value + bias.nan_to_num(nan=0.0)).masked_fill(value.isnan(), math.nan)


def _sum(func: Any, inputs: Tensor, dims: Any = None, keepdim: bool = False, **kwargs: Any) -> Tensor:
    """Sums and means: removed where all entries are, else these read as zero."""
    options = (_dims(dims, inputs), keepdim)
    total = func(inputs.nan_to_num(nan=0.0), *(() if dims is None else options), **kwargs)
    gone = inputs.isnan().to(torch.float32).mean(_dims(dims, inputs), keepdim) == 1
    return total.masked_fill(gone, math.nan)


def _vector_norm(
    func: Any, inputs: Tensor, order: float = 2, dims: Any = None, keepdim: bool = False, **kwargs: Any
) -> Tensor:
    """Norms of vectors: zeros add nothing; removed where all entries are."""
    value = func(inputs.nan_to_num(nan=0.0), order, dims, keepdim, **kwargs)
    gone = inputs.isnan().to(torch.float32).mean(_dims(dims, inputs), keepdim) == 1
    return value.masked_fill(gone, math.nan)


def _dims(dims: Any, inputs: Tensor) -> list[int]:
    return [dims] if isinstance(dims, int) else list(dims) if dims else list(range(inputs.ndim))


def _layer_norm(
    func: Any, inputs: Tensor, shape: Sequence[int], weight: Tensor | None, bias: Tensor | None, eps: float
) -> tuple[Tensor, ...]:
    value, mean, deviation = _normalised(inputs, tuple(range(inputs.ndim - len(shape), inputs.ndim)), eps)
    value = value if weight is None else value * weight
    return (value if bias is None else value + bias), mean, deviation


def _group_norm(
    func: Any,
    inputs: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    count: int,
    channels: int,
    places: int,
    groups: int,
    eps: float,
) -> tuple[Tensor, ...]:
    value, mean, deviation = _normalised(inputs.reshape(count, groups, -1), (2,), eps)
    value = value.reshape(inputs.shape)
    per_channel = (-1, *[1] * (inputs.ndim - 2))
    value = value if weight is None else value * weight.reshape(per_channel)
    value = value if bias is None else value + bias.reshape(per_channel)
    return value, mean.reshape(count, groups), deviation.reshape(count, groups)


def _normalised(inputs: Tensor, dims: tuple[int, ...], eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """Standardised over the entries that stay."""
    mean = inputs.nanmean(dims, keepdim=True)
    deviation = ((inputs - mean).square().nanmean(dims, keepdim=True) + eps).rsqrt()
    return (inputs - mean) * deviation, mean, deviation


def _pad(func: Any, inputs: Tensor, amounts: Sequence[int], *value: Any) -> Tensor:
    """Padding: the border of a removed map is removed with it, else a depthwise kernel would still find it there."""
    gone = inputs.isnan()
    for place in range(len(amounts) // 2):
        axis, (before, after) = inputs.ndim - 1 - place, amounts[2 * place : 2 * place + 2]
        if before < 0 or after < 0:
            gone = gone.narrow(axis, max(0, -before), gone.shape[axis] - max(0, -before) - max(0, -after))
            before, after = max(0, before), max(0, after)
        line = gone.all(dim=axis, keepdim=True)
        borders = [line.expand(*(size if at == axis else -1 for at in range(line.ndim))) for size in (before, after)]
        gone = torch.cat([borders[0], gone, borders[1]], dim=axis)
    return func(inputs, amounts, *value).masked_fill(gone, math.nan)


_RULES: dict[Any, Callable[..., Any]] = {
    aten.convolution: _convolution,
    aten.mm: _contraction,
    aten.bmm: _contraction,
    aten.mv: _contraction,
    aten.dot: _contraction,
    aten.addmm: _affine_contraction,
    aten.baddbmm: _affine_contraction,
    aten.addmv: _affine_contraction,
    aten.sum: _sum,
    aten.mean: _sum,
    aten.linalg_vector_norm: _vector_norm,
    aten.native_layer_norm: _layer_norm,
    aten.native_group_norm: _group_norm,
    aten.constant_pad_nd: _pad,
}
_STUBBORN = {aten.hardswish, aten.hardswish_, aten.hardtanh, aten.hardtanh_}
"""Elementwise operators that PyTorch does not tag so."""
_OWN = {aten.where, aten.masked_fill, aten.masked_fill_, aten.fill_, aten.copy_, aten.nan_to_num}
"""Elementwise operators that choose between operands: only what is chosen counts."""
