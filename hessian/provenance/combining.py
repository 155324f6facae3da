"""Rules of operations that compute element by element, and of those that mix elements along dimensions."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from hessian.provenance.classes import FIXED, NEUTRAL
from hessian.provenance.facts import Call, Facts, fixed, wrapped
from hessian.provenance.labels import Planes, compressed, varying


def elementwise(facts: Facts, call: Call) -> None:
    """Operands are broadcast against each other and their channels united."""
    for result in call.results:
        operands = [tensor for tensor in call.tensors if _broadcasts(tensor, result)]
        planes, activation = combine(facts, operands, result.shape, call.name)
        facts.give(result, planes, activation)


def combine(facts: Facts, operands: Sequence[Tensor], shape: Sequence[int], name: str) -> tuple[Planes, bool]:
    """Unite the channels of operands element by element.

    Returns:
        Planes of the result, and whether it is an activation.
    """
    combiner = Combiner(facts, len(shape), name)
    maps = [(tensor, facts.map(tensor)) for tensor in operands]
    for tensor, found in maps:
        if found.activation and found.plane is not None:
            combiner.activation(_aligned(found.plane, len(shape)), _wide(tensor, shape))
    for tensor, found in maps:
        if not found.activation:
            for plane in found.planes:
                combiner.parameter(_aligned(plane, len(shape)), _wide(tensor, shape))
    return combiner.planes, combiner.plane is not None


class Combiner:
    """The map of a result while operands are added.

    Args:
        facts: everything known.
        dimensions: of the result.
        name: of the operation, for reasons.
    """

    def __init__(self, facts: Facts, dimensions: int, name: str) -> None:
        self.facts = facts
        self.plane: Tensor | None = None
        self.wide: frozenset[int] = frozenset(range(dimensions))
        self._others: Planes = []
        self._name = name

    @property
    def planes(self) -> Planes:
        """Planes of the result so far."""
        return self._others if self.plane is None else [self.plane]

    def activation(self, plane: Tensor, wide: frozenset[int]) -> None:
        """Add an activation; ``wide`` are dimensions along which it is repeated."""
        if self.plane is None:
            self.plane, self.wide = plane, wide
            return
        mine, other = self.plane, plane
        over_me, over_other = self.wide & set(varying(other)), wide & set(varying(mine))
        self.wide = self.wide & wide
        if over_me:
            self._shared(mine)
            self.plane = other
        if over_other:
            self._shared(other)
        if over_me and over_other:
            self._shared(plane)
            self.plane = fixed(plane.ndim)
        elif not over_me and not over_other:
            self.plane = self._united(mine, other)

    def parameter(self, plane: Tensor, wide: frozenset[int]) -> None:
        """Add one axis of a parameter."""
        axis = set(varying(plane))
        if self.plane is None:
            self._beside(plane)
        elif not axis or (wide & set(varying(self.plane)) and axis < set(varying(self.plane))):
            self._shared(plane)
        elif axis == set(varying(self.plane)):
            self.plane = self._united(self.plane, plane)
        elif axis <= self.wide and not varying(self.plane):
            self._shared(self.plane)
            self.plane = plane
        else:
            self.facts.classes.pin(plane, self.facts.reason("has one entry a position"))
            if axis & set(varying(self.plane)):
                self.facts.classes.pin(self.plane, self.facts.reason("meets a parameter with one entry a position"))

    def _beside(self, plane: Tensor) -> None:
        for index, other in enumerate(self._others):
            if varying(other) == varying(plane):
                self._others[index] = self._united(other, plane)
                return
        self._others.append(plane)

    def _united(self, one: Tensor, other: Tensor) -> Tensor:
        one, other = torch.broadcast_tensors(one, other)
        text = f"meets channels that stay (the network's input, or a fixed number of them) in {self._name}"
        self.facts.classes.unite(one, other, self.facts.reason(text))
        return compressed(torch.where(one == NEUTRAL, other, one))

    def _shared(self, plane: Tensor) -> None:
        self.facts.classes.pin(plane, self.facts.reason(f"serves many channels at once in {self._name}"))


def _aligned(plane: Tensor, dimensions: int) -> Tensor:
    return plane.reshape((1,) * (dimensions - plane.ndim) + tuple(plane.shape))


def _wide(tensor: Tensor, shape: Sequence[int]) -> frozenset[int]:
    """Dimensions of a result along which an operand is repeated."""
    missing = len(shape) - tensor.ndim
    repeated = [dim for dim in range(missing) if shape[dim] > 1]
    for dim, (size, stride) in enumerate(zip(tensor.shape, tensor.stride(), strict=True), start=missing):
        if shape[dim] > 1 and (size == 1 or stride == 0):
            repeated.append(dim)
    return frozenset(repeated)


def _broadcasts(tensor: Tensor, result: Tensor) -> bool:
    missing = result.ndim - tensor.ndim
    return missing >= 0 and all(
        size in (1, whole) for size, whole in zip(tensor.shape, result.shape[missing:], strict=True)
    )


def mixed_along(facts: Facts, plane: Tensor, dims: Sequence[int], text: str) -> Tensor:
    """Plane that remains of one whose ids are mixed along dimensions: size one there."""
    changing = tuple(dim for dim in varying(plane) if dim in dims)
    if not changing:
        return plane
    reason = facts.reason(text)
    facts.classes.unite_along(plane, changing, reason)
    for dim in changing:
        plane = plane.amax(dim=dim, keepdim=True)  # a real id rather than FIXED or NEUTRAL
    return plane


def reduction(facts: Facts, call: Call) -> None:
    """Dimensions are summed, averaged, compared away or kept; channels mixed along them leave together.

    A sum over all channels of an activation asks nothing of them: what is absent adds nothing, as a zero does.
    """
    source = call.source
    found = facts.map(source)
    dims = wrapped(call.arguments.get("dim"), source.ndim)
    for result in call.results:
        planes = []
        for plane in found.planes:
            rest = _reduced(facts, plane, dims, call, found.activation)
            if rest is None:
                continue
            if result.ndim == rest.ndim:
                planes.append(rest)
            else:
                keep = [dim for dim in range(rest.ndim) if dim not in dims]
                planes.append(rest.permute(*keep, *dims).reshape([rest.shape[dim] for dim in keep]))
        if planes or found.activation:
            facts.give(result, planes or [fixed(result.ndim)], found.activation)


def _reduced(facts: Facts, plane: Tensor, dims: Sequence[int], call: Call, activation: bool) -> Tensor | None:
    changing = set(varying(plane))
    if not changing & set(dims):
        return plane
    if not activation:
        return None  # statistics of a weight over one of its axes: recomputed from the positions that are left
    if call.name == "sum" and changing <= set(dims):
        return fixed(plane.ndim)
    return mixed_along(facts, plane, dims, f"mixed with other channels by {call.name}")


def along(facts: Facts, call: Call) -> None:
    """Softmax, sorting and the largest few: elements are mixed along one dimension, whose size may become another."""
    source = call.source
    found = facts.map(source)
    dims = wrapped(call.arguments.get("dim", -1), source.ndim)
    text = f"mixed with other channels by {call.name}"
    mixed = [mixed_along(facts, plane, dims, text) for plane in found.planes]
    for result in call.results:
        if result.shape == source.shape:
            facts.give(result, list(found.planes), found.activation)
        elif result.ndim == source.ndim:
            facts.give(result, mixed, found.activation)


def spatial(facts: Facts, call: Call) -> None:
    """Pooling, resampling and padding: positions change, channels (dimension 1, or those before) stay."""
    source = call.source
    found = facts.map(source)
    count = _spatial_dimensions(call)
    dims = tuple(range(source.ndim - count, source.ndim))
    planes = [mixed_along(facts, plane, dims, f"mixed with others by {call.name}") for plane in found.planes]
    for result in call.results:
        if result.ndim == source.ndim:
            facts.give(result, planes, found.activation)


def _spatial_dimensions(call: Call) -> int:
    for dimensions in (1, 2, 3):
        if f"{dimensions}d" in call.name:
            return dimensions
    return 2


def neutral_is(plane: Tensor, value: int = FIXED) -> Tensor:
    """The plane with another mark for what is made from nothing."""
    return torch.where(plane == NEUTRAL, value, plane)
