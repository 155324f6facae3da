"""Decisions that values take (sorting, the largest few, boxes, masks, rounding): noted in one run, followed in another.

Two networks that are equal but for rounding may sort equal scores differently, and all behind that differs. So the
second run takes the first one's decisions, and what they are taken by is compared instead.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.utils import _pytree
from torch.utils._python_dispatch import TorchDispatchMode

from hessian.provenance.facts import Call, decides


@dataclass(frozen=True, eq=False)
class _Decision:
    name: str
    taken_by: list[Tensor]
    result: Any


class Decisions:
    """Decisions of one run of a network."""

    def __init__(self) -> None:
        self._noted: list[_Decision] = []

    @contextmanager
    def noted(self) -> Iterator[None]:
        """Inside, decisions are noted."""
        with _Noting(self._noted):
            yield

    @contextmanager
    def followed(self) -> Iterator[list[tuple[str, Tensor, Tensor]]]:
        """Inside, operators that were given as much to decide by as in the run noted decide as they did there.

        Yields:
            What such decisions were taken by: name of the operator, tensor of this run, tensor of the run noted.
        """
        compared: list[tuple[str, Tensor, Tensor]] = []
        with _Following(self._noted, compared):
            yield compared


class _Noting(TorchDispatchMode):
    def __init__(self, noted: list[_Decision]) -> None:
        super().__init__()
        self._noted = noted

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if decides(func, args, kwargs or {}, result):
            call = Call.of(func, args, kwargs or {}, result)
            given = [tensor.clone() for tensor in _floating(call)]  # may be written over later
            self._noted.append(_Decision(call.name, given, _pytree.tree_map_only(Tensor, Tensor.clone, result)))
        return result


class _Following(TorchDispatchMode):
    def __init__(self, noted: list[_Decision], compared: list[tuple[str, Tensor, Tensor]]) -> None:
        super().__init__()
        self._ahead = iter(noted)
        self._compared = compared

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if not decides(func, args, kwargs or {}, result):
            return result
        call = Call.of(func, args, kwargs or {}, result)
        noted = next(self._ahead, None)
        if noted is None or noted.name != call.name:
            self._ahead = iter(())  # the network took another way through its code
            return result
        given = _floating(call)
        if [tensor.shape for tensor in given] != [tensor.shape for tensor in noted.taken_by]:
            return result
        self._compared += [(call.name, *pair) for pair in zip(map(Tensor.clone, given), noted.taken_by, strict=True)]
        return _taken(call, noted)


def _taken(call: Call, noted: _Decision) -> Any:
    """A decision as it was taken before; what was picked is picked out of the values of now."""
    if not isinstance(noted.result, (tuple, list)):
        return noted.result.clone()
    _, places = noted.result
    source, dim = call.source, int(call["dim"])
    if not source.ndim:
        return call.result
    lost = places.ndim < source.ndim
    picked = source.gather(dim, places.unsqueeze(dim) if lost else places)
    return type(call.result)((picked.squeeze(dim) if lost else picked, places.clone()))


def _floating(call: Call) -> list[Tensor]:
    return [tensor for tensor in call.tensors if tensor.is_floating_point()]
