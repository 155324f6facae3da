"""Inputs of the rules for one operation: maps of its operands, a place to put results, and where it happens."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree

from hessian.provenance.classes import FIXED, Classes, Reason
from hessian.provenance.labels import Labels, Map, Planes
from hessian.provenance.sites import Sites

NOTHING = Map([], False)


@dataclass
class Context:
    """The module that is running.

    Attributes:
        stack: qualified names and modules, the innermost last.
    """

    stack: list[tuple[str, nn.Module]] = field(default_factory=list)

    @property
    def where(self) -> str:
        """Qualified name of the innermost module; empty for the network itself."""
        return self.stack[-1][0] if self.stack else ""

    @property
    def module(self) -> nn.Module | None:
        """The innermost module."""
        return self.stack[-1][1] if self.stack else None


@dataclass
class Facts:
    """Everything known so far.

    Attributes:
        classes: which ids are the same channel, tied or pinned.
        labels: index maps of tensors.
        sites: places whose sizes may be fixed in code.
        context: the module that is running.
        columns: ids of the columns of grouped convolutions, see `grouped_columns`.
        features: makes ids for the channels of a normalisation that holds no tensors.
        derived: names of modules whose weight is computed from their parameters (weight standardisation).
        decided: whether any values decided something.
    """

    classes: Classes
    labels: Labels
    sites: Sites
    context: Context
    columns: Callable[[Tensor, int], Tensor]
    features: Callable[[str, int], Tensor]
    derived: set[str] = field(default_factory=set)
    decided: bool = False

    def map(self, tensor: Any) -> Map:
        """Map of an operand; an empty one for what is made from nothing (and for None and numbers)."""
        if not isinstance(tensor, Tensor):
            return NOTHING
        return self.labels.of(tensor) or NOTHING

    def give(self, tensor: Any, planes: Planes, activation: bool = True) -> None:
        """Give a result its map."""
        if isinstance(tensor, Tensor):
            self.labels.set(tensor, planes, activation)

    def reason(self, text: str) -> Reason:
        """A reason that happens here."""
        return Reason(text, self.context.where)

    def pin(self, found: Map, text: str) -> None:
        """Pin everything in a map."""
        for plane in found.planes:
            self.classes.pin(plane, self.reason(text))


@dataclass(frozen=True)
class Call:
    """One operation.

    Attributes:
        name: its name without overload and the underscore of writing in place; other libraries' with their namespace.
        arguments: argument name -> value, with defaults.
        result: what it returned.
    """

    name: str
    arguments: dict[str, Any]
    result: Any

    @classmethod
    def of(cls, func: Any, args: Any, kwargs: dict[str, Any], result: Any) -> Call:
        """Bind positional arguments to the operation's schema."""
        schema = func._schema
        bound = {argument.name: argument.default_value for argument in schema.arguments}
        bound.update(zip((argument.name for argument in schema.arguments), args, strict=False))
        bound.update(kwargs)
        name = schema.name.removeprefix("aten::")  # another library's roll may be something else
        return cls(name.rstrip("_") if not name.startswith("__") else name, bound, result)

    def __getitem__(self, name: str) -> Any:
        return self.arguments[name]

    @property
    def source(self) -> Tensor:
        """The tensor an operation is called on: its argument ``self`` or ``input``."""
        source: Tensor = self.arguments["self"] if "self" in self.arguments else self.arguments["input"]
        return source

    @property
    def tensors(self) -> list[Tensor]:
        """All tensors among the arguments."""
        return [leaf for leaf in _pytree.tree_leaves(self.arguments) if isinstance(leaf, Tensor)]

    @property
    def results(self) -> Iterator[Tensor]:
        """All tensors among the results."""
        return (leaf for leaf in _pytree.tree_leaves(self.result) if isinstance(leaf, Tensor))


_STEPS = {"floor", "ceil", "round", "trunc", "sign", "sgn", "heaviside", "floor_divide"}
"""Operators whose floating-point results jump."""
_PICKS = {"sort", "topk", "max", "min", "median", "nanmedian", "kthvalue", "mode"}
"""Operators that give values along one dimension, and where they were found."""
_ONLY_SHAPES = ("new_", "view", "_unsafe_view")
"""Beginnings of operators that ask nothing of values, whatever type they return."""


def decides(func: Any, args: Any, kwargs: dict[str, Any], result: Any) -> bool:
    """Return whether an operator makes places, masks or whole numbers of floating-point values, or rounds them."""
    if isinstance(result, Tensor):
        if not _may_decide(func, result.is_floating_point() or result.is_complex()):
            return False
        if result.is_floating_point() and "rounding_mode" in kwargs and kwargs["rounding_mode"] is None:
            return False
    elif not (isinstance(result, (tuple, list)) and len(result) == 2 and func._overloadpacket.__name__ in _PICKS):
        return False
    given = _pytree.arg_tree_leaves(*args, **kwargs)
    return any(isinstance(leaf, Tensor) and leaf.is_floating_point() and leaf.numel() for leaf in given)


@cache
def _may_decide(func: Any, floating: bool) -> bool:
    if func._schema.is_mutable:
        return False
    name = func._schema.name.removeprefix("aten::")
    if floating:
        return name in _STEPS or any(argument.name == "rounding_mode" for argument in func._schema.arguments)
    return not name.startswith(_ONLY_SHAPES) and not name.endswith("_like")


def fixed(dimensions: int) -> Tensor:
    """A plane that says: nothing here can go."""
    return torch.full((1,) * dimensions, FIXED)


def wrapped(dims: Any, dimensions: int) -> tuple[int, ...]:
    """Dimensions as non-negative numbers; None or an empty list mean all."""
    if dims is None or (isinstance(dims, (list, tuple)) and not dims):
        return tuple(range(dimensions))
    dims = dims if isinstance(dims, (list, tuple)) else [dims]
    return tuple(sorted(int(dim) % dimensions for dim in dims)) if dimensions else ()
