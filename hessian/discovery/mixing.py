"""Norms that mix channels by statistics, computed in the dense network over the channels a cut leaves.

A LayerNorm or GroupNorm over fewer channels has other statistics than one over the same channels and some zeros: the
dense network that equals the smaller one is the one that takes its statistics over the channels that are left.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from hessian.channels.layer_types import TRANSPOSED_TYPES
from hessian.channels.slicing import Cut

MIXING_NORMS = (nn.LayerNorm, nn.GroupNorm)


@contextmanager
def norms_over(model: nn.Module, cut: Cut) -> Iterator[None]:
    """Inside, the dense network's mixing normalisations see only the channels a cut leaves; others read as zero.

    Args:
        model: the dense network.
        cut: what is left.
    """
    modules = dict(model.named_modules())
    kept = {
        id(modules[name]): part.rows
        for name, part in cut.slices.items()
        if part.rows is not None and isinstance(modules[name], MIXING_NORMS)
    }
    if not kept:
        yield
        return
    running: list[Tensor] = []
    handles = []

    def leave(*_: Any) -> None:
        running.pop()

    for module in modules.values():
        if id(module) in kept:
            handles.append(module.register_forward_pre_hook(lambda module, _: running.append(kept[id(module)])))
            handles.append(module.register_forward_hook(leave))
    try:
        with _Norms(running):
            yield
    finally:
        for handle in handles:
            handle.remove()


class _Norms(TorchDispatchMode):
    def __init__(self, running: list[Tensor]) -> None:
        super().__init__()
        self._running = running

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if self._running:
            kept = self._running[-1].to(args[0].device) if isinstance(args[0], Tensor) else self._running[-1]
            if func is torch.ops.aten.native_layer_norm.default:
                return _layer_norm(kept, *args)
            if func is torch.ops.aten.native_group_norm.default:
                return _group_norm(kept, *args)
        return func(*args, **(kwargs or {}))


def _layer_norm(kept: Tensor, x: Tensor, shape: Any, weight: Any, bias: Any, eps: float) -> Any:
    shape = [*shape[:-1], len(kept)]
    part = x.index_select(-1, kept)
    vectors = [None if vector is None else vector.index_select(-1, kept) for vector in (weight, bias)]
    result, *statistics = torch.ops.aten.native_layer_norm.default(part, shape, *vectors, eps)
    return torch.zeros_like(x).index_copy(-1, kept, result), *statistics


def _group_norm(
    kept: Tensor, x: Tensor, weight: Any, bias: Any, n: int, _c: int, hw: int, groups: int, eps: float
) -> Any:
    part = x.index_select(1, kept).contiguous()
    vectors = [None if vector is None else vector.index_select(0, kept) for vector in (weight, bias)]
    result, *statistics = torch.ops.aten.native_group_norm.default(part, *vectors, n, len(kept), hw, groups, eps)
    return torch.zeros_like(x).index_copy(1, kept, result), *statistics


class DerivedWeights:
    """Weights that modules compute from their parameters, taken from the smaller network into the dense one.

    Weight standardisation of fewer columns has other statistics than that of the same columns and some zeros: the dense
    network that equals the smaller one has its computed weights, and zeros where it has none.

    Args:
        model: the network.
        names: modules concerned.
        cut: what is left.
    """

    def __init__(self, model: nn.Module, names: Collection[str], cut: Cut) -> None:
        modules = dict(model.named_modules())
        self._modules = {name: modules[name] for name in sorted(names)}
        self._cut = cut
        self._seen: dict[str, Tensor] = {}

    def recorded(self) -> AbstractContextManager[None]:
        """Inside, the weights of the smaller network are written down."""

        def record(name: str, args: list[Any]) -> list[Any]:
            self._seen[name] = args[1]
            return args

        return self._inside(record)

    def replaced(self) -> AbstractContextManager[None]:
        """Inside, the dense network computes with the weights written down."""

        def replace(name: str, args: list[Any]) -> list[Any]:
            if name not in self._seen:
                return args
            part, weight = self._cut.slices[name], args[1]
            columns = part.weight_columns(self._modules[name])
            kept = [part.rows, columns]
            if isinstance(self._modules[name], TRANSPOSED_TYPES):
                kept.reverse()
            index = [
                torch.arange(size) if some is None else some for some, size in zip(kept, weight.shape, strict=False)
            ]
            full = torch.zeros_like(weight)
            full[index[0].to(weight.device)[:, None], index[1].to(weight.device)] = self._seen[name]
            return [args[0], full, *args[2:]]

        return self._inside(replace)

    @contextmanager
    def _inside(self, change: Callable[[str, list[Any]], list[Any]]) -> Iterator[None]:
        if not self._modules:
            yield
            return
        running: list[str] = []
        handles = []

        def entering(name: str) -> Any:
            return lambda *_: running.append(name)

        def leaving(*_: Any) -> None:
            running.pop()

        for name, module in self._modules.items():
            handles.append(module.register_forward_pre_hook(entering(name)))
            handles.append(module.register_forward_hook(leaving))
        try:
            with _Convolutions(running, change):
                yield
        finally:
            for handle in handles:
                handle.remove()


class _Convolutions(TorchDispatchMode):
    def __init__(self, running: list[str], change: Callable[[str, list[Any]], list[Any]]) -> None:
        super().__init__()
        self._running = running
        self._change = change

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if self._running and func is torch.ops.aten.convolution.default:
            return func(*self._change(self._running[-1], list(args)), **(kwargs or {}))
        return func(*args, **(kwargs or {}))
