"""What a function or loss module computes, as values that can be hashed: the part of a cache key that is code."""

from __future__ import annotations

import functools
from types import CodeType, FunctionType
from typing import Any

import torch
from torch import nn

Hashable = Any
"""Values :func:`prune_gym.files.sha256_of` takes."""


def fingerprint_of(function: Any) -> Hashable:
    """Name, code and state of something callable, so that two that compute differently differ.

    A function counts with its bytecode, defaults and captured values, a module with its type, settings and tensors, a
    partial with its arguments; anything else with its ``repr``.
    """
    if isinstance(function, functools.partial):
        return ["partial", fingerprint_of(function.func), _value(function.args), _value(function.keywords)]
    if isinstance(function, nn.Module):
        settings = {name: _value(value) for name, value in vars(function).items() if name[0] != "_"}
        settings.pop("training")
        return [_name(type(function)), repr(function), settings, dict(function.state_dict(keep_vars=True))]
    if isinstance(function, FunctionType):
        captured = [_value(cell.cell_contents) for cell in function.__closure__ or ()]
        return [_name(function), _code(function.__code__), _value(function.__defaults__), captured]
    return [_name(function), repr(function)]


def _name(thing: Any) -> str:
    return f"{getattr(thing, '__module__', '')}.{getattr(thing, '__qualname__', type(thing).__qualname__)}"


def _code(code: CodeType) -> list[Any]:
    constants = [_code(part) if isinstance(part, CodeType) else repr(part) for part in code.co_consts]
    return [code.co_code, list(code.co_names), constants]


def _value(value: Any) -> Hashable:
    if value is None or isinstance(value, (torch.Tensor, str, bytes, bool, int, float)):
        return value
    if isinstance(value, (tuple, list)):
        return [_value(part) for part in value]
    if isinstance(value, dict):
        return {str(key): _value(part) for key, part in value.items()}
    return fingerprint_of(value) if callable(value) else repr(value)
