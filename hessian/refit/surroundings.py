"""Surroundings behind a layer: seen in one pass of the network, whatever Python its forward is made of.

A layer closes a residual sum where its output goes straight into an addition (through a batch norm and through what
does nothing in evaluation mode, and nowhere else) and its branch is the deeper of the two operands. It lies in front of
a ReLU where its output, or the sum it closes, goes straight into one.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree
from torch.utils.weak import WeakTensorKeyDictionary

from hessian.channels.layer_types import MIXING_TYPES
from hessian.channels.norms import is_plain_norm
from hessian.support.batches import Batch

ADDITIONS = ("add", "add_")
TRANSPARENT_NAMES = ("Dropout", "Identity", "StochasticDepth", "DropPath")
_SIZE_READERS = ("size", "dim", "ndimension", "numel", "stride", "is_contiguous", "is_floating_point", "__len__")


def is_transparent(module: nn.Module) -> bool:
    """Return whether a module gives back what it is given, in evaluation mode."""
    return type(module).__name__.startswith(TRANSPARENT_NAMES)


def addends(function: Any, args: Any, kwargs: Mapping[str, Any]) -> tuple[Tensor, Tensor] | None:
    """The two tensors of one shape that a call of a torch function adds; None for any other call."""
    if getattr(function, "__name__", "") not in ADDITIONS or len(args) != 2 or kwargs.keys() - {"out"}:
        return None
    first, second = args
    same = isinstance(first, Tensor) and isinstance(second, Tensor) and first.shape == second.shape
    return (first, second) if same else None


def reads_values(function: Any, result: Any) -> bool:
    """Return whether a call of a torch function reads entries of its tensors, not just their sizes or types."""
    name = getattr(function, "__name__", "")
    if name == "__get__":
        return bool(tensors(result))
    return name not in _SIZE_READERS


def tensors(values: Any) -> list[Tensor]:
    """All tensors in nested containers."""
    return [leaf for leaf in _pytree.tree_leaves(values) if isinstance(leaf, Tensor)]


def ceiling(function: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> float | None:
    """Ceiling of a ReLU's output (``math.inf``, or 6 of a ReLU6); None for a call of anything else."""
    name = getattr(function, "__name__", "")
    if name in ("relu", "relu_"):
        return math.inf
    if name == "relu6":
        return 6.0
    if name in ("hardtanh", "hardtanh_"):
        low, high = (*args, *[None] * 3)[1:3]
        low = kwargs.get("min_val", -1.0) if low is None else low
        high = kwargs.get("max_val", 1.0) if high is None else high
        return float(high) if low == 0 else None
    return None


@dataclass(frozen=True)
class Rectifier:
    """The ReLU behind a layer.

    Attributes:
        norm: name of the batch norm on the way, or None.
        summed: whether the layer closes a residual sum on the way.
        ceiling: where the activation is flat again: ``math.inf`` for a ReLU, 6 for a ReLU6.
    """

    norm: str | None
    summed: bool
    ceiling: float


@dataclass(frozen=True)
class Surroundings:
    """Surroundings behind the layers of a network; layers that run more than once are left out.

    Attributes:
        closing: layer that closes a residual sum -> name of the batch norm in between, or None.
        rectifiers: layer in front of a ReLU -> the ReLU.
    """

    closing: Mapping[str, str | None]
    rectifiers: Mapping[str, Rectifier]


@torch.no_grad()
def surroundings(model: nn.Module, batch: Batch) -> Surroundings:
    """Look what lies behind every layer.

    Args:
        model: in evaluation mode; hooks are attached during the pass.
        batch: what it is called with.
    """
    watcher = _Watcher()
    with watcher.hooked(model), watcher:
        batch.run(model)
    return watcher.found()


@dataclass(eq=False)
class _Straight:
    """A tensor that is a layer's output, up to a batch norm, modules that do nothing, and the sum it closes."""

    layer: str
    norm: str | None = None
    parent: _Straight | None = None
    summed: bool = False
    reads: int = 0

    def alone(self) -> bool:
        """Return whether it, and what it comes from, is read once."""
        return self.reads == 1 and (self.parent is None or self.parent.alone())


@dataclass(eq=False)
class _Watcher(TorchFunctionMode):
    """Follows depths and straight ways of tensors through one pass."""

    sums: list[_Straight] = field(default_factory=list)
    rectified: list[tuple[_Straight, float]] = field(default_factory=list)
    calls: dict[str, int] = field(default_factory=dict)
    inside: int = 0

    def __post_init__(self) -> None:
        super().__init__()
        self._depths: Any = WeakTensorKeyDictionary()
        self._straight: Any = WeakTensorKeyDictionary()

    def found(self) -> Surroundings:
        """See :func:`surroundings`."""
        closing = {way.layer: way.norm for way in self.sums if self._alone(way)}
        rectified = [(way, top) for way, top in self.rectified if self._alone(way)]
        return Surroundings(closing, {way.layer: Rectifier(way.norm, way.summed, top) for way, top in rectified})

    def _alone(self, way: _Straight) -> bool:
        return way.alone() and self.calls[way.layer] == 1

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        given = tensors((args, kwargs)) if not self.inside else []
        added = addends(func, args, kwargs) if given else None
        top = ceiling(func, args, kwargs) if given else None
        rectified = self._straight.get(given[0]) if top is not None else None
        closing = self._closing(added) if added is not None else None
        result = func(*args, **kwargs)
        if not given or not reads_values(func, result):
            return result
        self._read(given)
        self._reached(given, tensors(result))
        if rectified is not None and top is not None:
            self.rectified.append((rectified, top))
        if closing is not None:
            self.sums.append(closing)
            self._straight[result] = _Straight(closing.layer, closing.norm, closing, summed=True)
        return result

    def _closing(self, added: tuple[Tensor, Tensor]) -> _Straight | None:
        """The operand of a sum that is a layer's output, if it is the deeper one."""
        for own, other in (added, added[::-1]):
            way = self._straight.get(own)
            if way is not None and not way.summed and self._depth(own) > self._depth(other):
                return way
        return None

    def _depth(self, tensor: Tensor) -> int:
        return int(self._depths.get(tensor, 0))

    def _read(self, given: list[Tensor]) -> None:
        for tensor in given:
            way = self._straight.get(tensor)
            if way is not None:
                way.reads += 1

    def _reached(self, given: list[Tensor], results: list[Tensor], deeper: int = 0) -> None:
        depth = max(map(self._depth, given), default=0) + deeper
        for tensor in results:
            self._depths[tensor] = depth
            self._straight.pop(tensor, None)

    @contextmanager
    def hooked(self, model: nn.Module) -> Iterator[None]:
        """Inside, calls of layers, norms and idle modules count as one step each."""
        handles = []
        for name, module in model.named_modules():
            if isinstance(module, MIXING_TYPES) or is_plain_norm(module) or is_transparent(module):
                handles.append(module.register_forward_pre_hook(self._enter, with_kwargs=True, prepend=True))
                handles.append(module.register_forward_hook(self._leave(name), with_kwargs=True))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _enter(self, _module: nn.Module, args: Any, kwargs: Any) -> None:
        if not self.inside:
            self._read(tensors((args, kwargs)))
        self.inside += 1

    def _leave(self, name: str) -> Any:
        def hook(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            self.inside -= 1
            if self.inside or not isinstance(output, Tensor):
                return
            given = tensors((args, kwargs))
            way = self._straight.get(given[0]) if given else None
            layer = isinstance(module, MIXING_TYPES)
            self._reached(given, [output], deeper=int(layer))
            if layer:
                self.calls[name] = self.calls.get(name, 0) + 1
                self._straight[output] = _Straight(name)
            elif way is not None and is_transparent(module):
                self._straight[output] = _Straight(way.layer, way.norm, way, way.summed)
            elif way is not None and way.norm is None and way.parent is None:
                self._straight[output] = _Straight(way.layer, name, way)

        return hook
