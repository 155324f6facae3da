"""Computations of a network or loss as values that can be hashed: the part of a cache key that is a user's code."""

from __future__ import annotations

import copy
import functools
import sys
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType, ModuleType, NoneType
from typing import Any

import torch
from torch import fx, nn

Hashable = Any
"""Values :func:`prune_gym.support.files.sha256_of` takes."""

_SETTINGS_OF_ANY_MODULE = frozenset(vars(nn.Module()))
_VERSIONED = sys.stdlib_module_names | {"torch"}
"""Packages whose code changes with a version only, which is no concern here."""


def network_fingerprint(model: nn.Module) -> Hashable:
    """Fingerprint of a network's forward pass in evaluation mode; parameters are not part of it.

    Where ``torch.fx`` can trace the network these are its operations, however they are written. Where they depend on
    the data it is what is written: the code and settings of all modules and of the functions they call by name.
    """
    if "forward" not in vars(model):  # tracing would look at the class's forward, and this one runs instead
        operations = _Operations()
        try:
            graph = operations.trace(_copy_of_structure(model).eval())
        except Exception:  # a forward made for tensors may do anything with what stands for them
            return ["written", *_written(model)]
        return ["traced", repr(model), [_operation(node) for node in graph.nodes], operations.constants]
    return ["written", *_written(model)]


def fingerprint_of(function: Any) -> Hashable:
    """Name, code and state of something callable, so that two that compute differently differ.

    A function counts with its bytecode, defaults and captured values and the functions it calls by name, a module with
    its code, settings and tensors, a partial with its arguments, an object with its class and attributes or ``repr``.
    """
    return _Reader().called(function)


class _Operations(fx.Tracer):
    """Traces a network without leaving anything on it.

    Attributes:
        constants: tensors met that are no parameters, in order.
    """

    def __init__(self) -> None:
        super().__init__()
        self.constants: list[torch.Tensor] = []

    def create_arg(self, a: Any) -> Any:
        """An argument of an operation; a constant becomes a number in :attr:`constants`."""
        if not isinstance(a, torch.Tensor) or isinstance(a, nn.Parameter):
            return super().create_arg(a)
        self.constants.append(a.detach())
        return f"constant {len(self.constants)}"


def _copy_of_structure(model: nn.Module) -> nn.Module:
    """A copy that shares the parameters: a forward may keep what it computes on its module or count in a buffer."""
    return copy.deepcopy(model, {id(parameter): parameter for parameter in model.parameters()})


def _operation(node: fx.Node) -> Hashable:
    return [node.format_node(), fingerprint_of(node.target) if _is_own(node.target) else None]


def _written(model: nn.Module) -> list[Hashable]:
    """Code and settings of a network's modules, and the buffers that its state dict leaves out."""
    saved = model.state_dict().keys()
    return [*_Reader().module(model), {name: value for name, value in model.named_buffers() if name not in saved}]


class _Reader:
    """Reads code and what it holds, every function and object once: what refers to itself would never end."""

    def __init__(self) -> None:
        self._read: dict[int, Any] = {}

    def _place(self, thing: Any) -> int | None:
        """Its number among what was read before; None, and a number from now on, if it was not."""
        if id(thing) in self._read:
            return list(self._read).index(id(thing))
        self._read[id(thing)] = thing  # kept, so that nothing else gets its id
        return None

    def called(self, function: Any) -> Hashable:
        """Something callable."""
        if isinstance(function, functools.partial):
            arguments = [self.value(function.args), self.value(function.keywords)]
            return ["partial", self.called(function.func), *arguments]
        if isinstance(function, nn.Module):
            return [*self.module(function), dict(function.state_dict(keep_vars=True))]
        if isinstance(function, MethodType):
            return [self.called(function.__func__), self.instance(function.__self__)]
        if isinstance(function, FunctionType):
            return self.function(function)
        if isinstance(function, BuiltinFunctionType) and isinstance(function.__self__, (ModuleType, NoneType)):
            return _name(function)  # its repr holds an address, another one in every process
        return self.instance(function)

    def module(self, module: nn.Module) -> list[Hashable]:
        """A module and all in it, without parameters and buffers."""
        if (place := self._place(module)) is not None:
            return [place]
        parts = {name: [_name(type(part)), self.settings(part)] for name, part in module.named_modules()}
        kinds = dict.fromkeys(kind for part in module.modules() for kind in type(part).__mro__ if _is_own(kind))
        return [repr(module), parts, [self.kind(kind) for kind in kinds]]

    def settings(self, module: nn.Module) -> Hashable:
        """Hashable content of a module beside tensors, modules and hooks."""
        own = {name: value for name, value in vars(module).items() if name not in _SETTINGS_OF_ANY_MODULE}
        return self.value(own)

    def kind(self, kind: type) -> Hashable:
        """The methods and constants that a class adds to those above it."""
        found: dict[str, Hashable] = {}
        for name, member in vars(kind).items():
            if isinstance(member, (staticmethod, classmethod)):
                member = member.__func__
            member = getattr(member, "fget", member)  # a property
            if isinstance(member, FunctionType):
                found[name] = self.function(member)
            elif not name.startswith("__") and isinstance(member, (bool, int, float, str, tuple, list, dict)):
                found[name] = self.value(member)
        return [_name(kind), found]

    def function(self, function: FunctionType) -> Hashable:
        """A function, and those it calls by name."""
        if (place := self._place(function)) is not None:
            return place
        captured = [self.value(cell.cell_contents) for cell in function.__closure__ or ()]
        defaults = [self.value(function.__defaults__), self.value(function.__kwdefaults__)]
        known = (function.__globals__.get(name) for name in _names(function.__code__))
        others = [self.function(other) for other in known if isinstance(other, FunctionType) and _is_own(other)]
        return [_name(function), _code(function.__code__), defaults, captured, others]

    def instance(self, thing: Any) -> Hashable:
        """An object: its ``repr``, or class and attributes where that is Python's own, which says nothing of them."""
        if type(thing).__repr__ is not object.__repr__ or not hasattr(thing, "__dict__"):
            return [_name(thing), repr(thing)]
        if (place := self._place(thing)) is not None:
            return place
        return [[self.kind(kind) for kind in type(thing).__mro__ if _is_own(kind)], self.value(vars(thing))]

    def value(self, value: Any) -> Hashable:
        """Anything a module, closure or default holds."""
        if value is None or isinstance(value, (torch.Tensor, str, bytes, bool, int, float)):
            return value
        if isinstance(value, (tuple, list)):
            return [self.value(part) for part in value]
        if isinstance(value, (set, frozenset)):
            return sorted(map(repr, value))
        if isinstance(value, dict):
            return {str(key): self.value(part) for key, part in value.items()}
        return self.called(value) if callable(value) else self.instance(value)


def _name(thing: Any) -> str:
    return f"{getattr(thing, '__module__', '')}.{getattr(thing, '__qualname__', type(thing).__qualname__)}"


def _is_own(thing: Any) -> bool:
    """Return whether a function or class is neither PyTorch's nor Python's."""
    package = (getattr(thing, "__module__", None) or "builtins").partition(".")[0]
    return isinstance(thing, (FunctionType, type)) and package not in _VERSIONED


def _names(code: CodeType) -> list[str]:
    """Names a function looks up, those of functions within it included."""
    return [*code.co_names, *(name for part in code.co_consts if isinstance(part, CodeType) for name in _names(part))]


def _code(code: CodeType) -> list[Any]:
    return [code.co_code, list(code.co_names), [_constant(part) for part in code.co_consts]]


def _constant(part: Any) -> Hashable:
    if isinstance(part, CodeType):
        return _code(part)
    # The order of a set of texts is another one in every process.
    return sorted(map(repr, part)) if isinstance(part, frozenset) else repr(part)
