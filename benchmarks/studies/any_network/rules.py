"""Rules of operators for removed channels, NaN: moved by what moves, zero to what adds up, left out by norms."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

from hessian.channels.layer_types import CONV_TYPES

aten = torch.ops.aten


class ReadsNaNAsZero(TorchDispatchMode):
    """Inside, operators move NaN, contractions read it as zero, and norms over channels leave it out.

    Operators without a rule here compute what they always do: what they make of NaN is NaN, so a removed channel that
    they mix with others spreads, and shows.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.read: dict[str, Tensor] = {}
        """Convolution that makes its weight from a parameter -> which of its input channels are removed, [C]."""
        self._stored = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
        self._running: tuple[str, Any] = ("", None)
        self._handles = [
            module.register_forward_pre_hook(self._entering(name))
            for name, module in model.named_modules()
            if isinstance(module, CONV_TYPES) and not is_parametrized(module)
        ]

    def __exit__(self, *error: Any) -> None:
        for handle in self._handles:
            handle.remove()
        super().__exit__(*error)

    def _entering(self, name: str) -> Callable[[nn.Module, Any], None]:
        def enter(module: nn.Module, inputs: Any) -> None:
            self._running = (name, module)

        return enter

    def _note_computed_weight(self, inputs: Tensor, weight: Tensor) -> None:
        name, module = self._running
        if module is None or weight.shape != module.weight.shape:
            return
        if weight.untyped_storage().data_ptr() not in self._stored:
            whole = _of_whole_maps(inputs.isnan())
            if whole is not None and bool(whole.any()):
                self.read[name] = whole.flatten()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run one operator."""
        kwargs = kwargs or {}
        tensors = [leaf for leaf in tree_flatten((args, kwargs))[0] if isinstance(leaf, Tensor)]
        if not any(tensor.is_floating_point() and bool(tensor.isnan().any()) for tensor in tensors):
            return func(*args, **kwargs)
        if func.overloadpacket is aten.convolution:
            self._note_computed_weight(*args[:2])
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
    """Maps that are removed, [1, C, 1, ...]; None if parts of maps are, or not the same ones of every image."""
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
