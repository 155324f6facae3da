"""Rules of operations that only move elements: they are run on the ids themselves, so their maps are exact."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor

from hessian.provenance.classes import FIXED, NEUTRAL
from hessian.provenance.combining import Combiner, neutral_is
from hessian.provenance.facts import Call, Facts, fixed, wrapped
from hessian.provenance.labels import Map, compressed, varying

_FLOATING = ("upsample", "reflection_pad", "replication_pad", "im2col", "pixel_unshuffle")


def moved(facts: Facts, call: Call, func: Any) -> None:
    """Run an operation of one tensor on its ids (flip, roll, gather, repeat, pixel shuffle, ...)."""
    source = call.source
    found = facts.map(source)
    if call.name == "roll":
        _rolled(facts, call)
    elif found.plane is not None and varying(found.plane) == (source.ndim - 3,):
        _tie_shuffled(facts, call, found.plane.flatten())
    floating = call.name.startswith(_FLOATING)
    planes = []
    for plane in found.planes:
        full = plane.expand(source.shape)
        ids = func(**{**call.arguments, _first(call): full.double() if floating else full})
        planes.append(compressed(ids.long()))
    if found.planes:
        facts.give(call.result, planes, found.activation)


def _tie_shuffled(facts: Facts, call: Call, ids: Tensor) -> None:
    """Shuffles count channels in blocks of fixed number, or of fixed size."""
    if call.name.endswith("channel_shuffle"):
        facts.sites.shuffled(facts.context.where, ids.view(int(call["groups"]), -1))
    elif call.name == "pixel_shuffle":
        blocks = ids.view(-1, int(call["upscale_factor"]) ** 2)
        facts.classes.tie(blocks[:, :1].expand_as(blocks), blocks)


def _rolled(facts: Facts, call: Call) -> None:
    plane = facts.map(call["self"]).plane
    if plane is None:
        return
    for dim, shift in zip(wrapped(call["dims"], plane.ndim), call["shifts"], strict=False):
        if varying(plane) == (dim,):
            facts.sites.rolled(facts.context.where, plane.flatten(), int(shift))


def _first(call: Call) -> str:
    return "self" if "self" in call.arguments else "input"


def padded(facts: Facts, call: Call, func: Any) -> None:
    """Padding along positions changes nothing; along channels it adds some that stay."""
    found = facts.map(call["self"])
    amounts = [int(amount) for amount in call["pad"]]
    dims = {call["self"].ndim - 1 - index // 2 for index, amount in enumerate(amounts) if amount}
    planes = []
    for plane in found.planes:
        if not dims & set(varying(plane)):
            planes.append(plane)
            continue
        pads = [0 if plane.shape[-1 - index // 2] == 1 else amount for index, amount in enumerate(amounts)]
        planes.append(torch.nn.functional.pad(plane, pads, value=FIXED))
    if found.planes:
        facts.give(call.result, planes, found.activation)


def joined(facts: Facts, call: Call, func: Any) -> None:
    """Concatenation and stacking."""
    tensors: Sequence[Tensor] = list(call["tensors"])
    maps = [facts.map(tensor) for tensor in tensors]
    if not any(found.planes for found in maps):
        return
    stacked = call.name == "stack"
    result: Tensor = call.result
    dim = int(call["dim"]) % result.ndim
    shapes = [tensor.unsqueeze(dim).shape if stacked else tensor.shape for tensor in tensors]
    activation = any(found.activation for found in maps)
    if not activation and all(len(found.planes) == len(maps[0].planes) for found in maps):
        columns = [[found.planes[axis] for found in maps] for axis in range(len(maps[0].planes))]
    else:
        columns = [[_one_plane(facts, found, maps, tensor.ndim) for found, tensor in zip(maps, tensors, strict=True)]]
    planes = []
    for column in columns:
        pieces = [
            (plane.unsqueeze(dim) if stacked else plane, shape)
            for plane, shape in zip(column, shapes, strict=True)
            if len(shape) == result.ndim
        ]
        planes.append(_concatenated(pieces, dim))
    facts.give(result, planes, activation)


def _one_plane(facts: Facts, found: Map, maps: Sequence[Map], dimensions: int) -> Tensor:
    """The plane by which a piece joins activations: its own, or the axis of a parameter that runs along channels."""
    if not found.planes:
        return torch.full((1,) * dimensions, NEUTRAL)
    if found.activation:
        return found.planes[0]
    wanted = {varying(other.planes[0]) for other in maps if other.activation and other.planes}
    best = [plane for plane in found.planes if varying(plane) in wanted]
    for plane in found.planes:
        if not best or plane is not best[0]:
            facts.classes.pin(plane, facts.reason("has one entry a position"))
    return best[0] if best else fixed(dimensions)


def _concatenated(pieces: Sequence[tuple[Tensor, Sequence[int]]], dim: int) -> Tensor:
    known = [plane for plane, _ in pieces if bool((plane != NEUTRAL).any())]
    along_positions = bool(known) and all(plane.shape[dim] == 1 for plane in known)
    if along_positions and all(plane.shape == known[0].shape and torch.equal(plane, known[0]) for plane in known):
        return known[0]
    channels = not along_positions or (len({tuple(plane.shape) for plane in known}) == 1 and known[0].numel() == 1)
    shapes = []
    for other in range(known[0].ndim if known else pieces[0][0].ndim):
        shapes.append(max(plane.shape[other] for plane, _ in pieces))
    parts = []
    for plane, shape in pieces:
        plane = neutral_is(plane) if channels else plane
        size = [shape[dim] if axis == dim else extent for axis, extent in enumerate(shapes)]
        parts.append(plane.expand(size))
    return compressed(torch.cat(parts, dim))


def copied(facts: Facts, call: Call) -> None:
    """A write over a tensor (or a part of it): it takes the ids of what is written."""
    found = facts.map(call["src"])
    if found.planes:
        facts.give(call["self"], found.planes, found.activation)


def picked(facts: Facts, call: Call, func: Any) -> None:
    """Advanced indexing and gathering: by positions written in code as in this run, by data as in none."""
    source = facts.map(call["self"])
    by_data = False
    for tensor in call.tensors:
        if tensor is not call["self"]:
            found = facts.map(tensor)
            facts.pin(found, f"decides positions in {call.name}")
            by_data = by_data or found.activation
    if not source.planes:
        return
    dims = _dims_picked(call)
    channels = any(set(varying(plane)) & dims for plane in source.planes)
    if by_data and channels:
        facts.pin(source, f"is picked by data in {call.name}")
    if call.result.numel() or channels or "indices" not in call.arguments:
        moved(facts, call, func)
        return
    first, shape = _first_places(call["indices"]), [max(1, size) for size in call["self"].shape]
    facts.give(call.result, [func(plane.expand(shape), first) for plane in source.planes], source.activation)


def _first_places(indices: Sequence[Tensor | None]) -> list[Tensor | None]:
    """Indices of one place each, where nothing was picked: what would have been has the same channels."""
    found: list[Tensor | None] = []
    for index in indices:
        if index is None:
            found.append(None)
        elif index.dtype is torch.bool:
            found += [torch.zeros(1, dtype=torch.long)] * index.ndim
        else:
            found.append(torch.zeros((1,) * index.ndim, dtype=torch.long))
    return found


def _dims_picked(call: Call) -> set[int]:
    if "indices" in call.arguments:
        return set(_indexed(call["indices"]))
    dim = call.arguments.get("dim")
    return set(range(call["self"].ndim)) if dim is None else {int(dim) % call["self"].ndim}


def put(facts: Facts, call: Call) -> None:
    """A write to places that are data: what is written there and what was there are one channel."""
    target, values, indices = call["self"], call["values"], call["indices"]
    before, written = facts.map(target), facts.map(values)
    for index in indices:
        facts.pin(facts.map(index), f"decides positions in {call.name}")
    dims = _indexed(indices)
    planes = [before.plane] if before.planes else []
    if written.plane is not None:
        planes.append(_over_places(written.plane, dims, indices, target.ndim))
    parameters = any(found.planes and not found.activation for found in (before, written))
    if parameters or any(plane is None or set(varying(plane)) & set(dims) for plane in planes):
        for found in (before, written):
            facts.pin(found, "is written to places that are data")
        facts.give(call.result, [fixed(target.ndim)])
        return
    combiner = Combiner(facts, target.ndim, call.name)
    for plane in planes:
        combiner.activation(cast("Tensor", plane), frozenset())
    facts.give(call.result, combiner.planes)


def _indexed(indices: Sequence[Tensor | None]) -> list[int]:
    """Dimensions that are indexed; a mask covers as many as it has."""
    dims: list[int] = []
    at = 0
    for index in indices:
        covered = index.ndim if index is not None and index.dtype is torch.bool else 1
        if index is not None:
            dims.extend(range(at, at + covered))
        at += covered
    return dims


def _over_places(
    plane: Tensor, dims: Sequence[int], indices: Sequence[Tensor | None], dimensions: int
) -> Tensor | None:
    """Plane of what is written, over the dimensions of what it is written to; None if that depends on the places."""
    first, last = dims[0], dims[-1]
    if list(dims) != list(range(first, last + 1)):
        return None
    count = max(1 if index.dtype is torch.bool else index.ndim for index in indices if index is not None)
    full = plane.reshape((1,) * (dimensions - len(dims) + count - plane.ndim) + tuple(plane.shape))
    if any(size > 1 for size in full.shape[first : first + count]):
        return None
    return full.reshape(*full.shape[:first], *(1,) * len(dims), *full.shape[first + count :])


def looked_up(facts: Facts, call: Call) -> None:
    """Embeddings: entries of a table's row become channels."""
    found = facts.map(call["weight"])
    facts.pin(facts.map(call["indices"]), "is looked up in a table")
    planes = [plane for plane in found.planes if varying(plane) == (1,)]
    for plane in found.planes:
        if varying(plane) != (1,):
            facts.classes.pin(plane, facts.reason("is a table's row, picked by data"))
    if planes:
        shape = (1,) * (call.result.ndim - 1) + (call.result.shape[-1],)
        facts.give(call.result, [planes[0].reshape(shape)], found.activation)


def regrouped(facts: Facts, call: Call) -> None:
    """A view along other dimensions: notes where channels come to lie along several of them, or are cut out."""
    source = call["self"] if "self" in call.arguments else None
    if not isinstance(source, Tensor):
        return
    before = facts.map(source)
    if call.name == "view" and not before.activation and len(before.planes) == 1 and varying(before.planes[0]):
        ids = before.planes[0].flatten()
        facts.sites.counted(facts.context.where, facts.context.module, ids, "views a parameter with a size of its own")
    if not before.activation or before.plane is None or len(varying(before.plane)) == 0:
        return
    if call.name in ("view", "_unsafe_view", "reshape", "_reshape_alias", "unflatten"):
        _viewed(facts, before.plane, call.result)
    elif call.name in ("split", "split_with_sizes", "chunk", "tensor_split", "unsafe_split"):
        _split(facts, before.plane, call)
    elif call.name == "slice":
        _sliced(facts, source, before.plane, call)


def _viewed(facts: Facts, before: Tensor, result: Tensor) -> None:
    after = facts.map(result).plane
    if after is None:
        return
    dims = varying(after)
    where, module = facts.context.where, facts.context.module
    if len(dims) > len(varying(before)):
        grid = after.permute(*dims, *(dim for dim in range(after.ndim) if dim not in dims)).reshape(
            [after.shape[dim] for dim in dims]
        )
        if len(grid.unique()) == grid.numel():
            facts.sites.regrouped(where, module, grid)
        return
    if len(dims) == 1 and after.shape[dims[0]] != max(before.shape):
        facts.sites.counted(where, module, after.flatten(), "views channels with a size of its own")


def _split(facts: Facts, before: Tensor, call: Call) -> None:
    dim = wrapped(call["dim"], before.ndim)[0]
    if varying(before) != (dim,) or len(call.result) < 2:
        return
    parts, start = [], 0
    for part in call.result:
        parts.append(before.narrow(dim, start, part.shape[dim]).flatten())
        start += part.shape[dim]
    facts.sites.parts(facts.context.where, facts.context.module, parts)


def _sliced(facts: Facts, source: Tensor, before: Tensor, call: Call) -> None:
    dim = wrapped(call["dim"], before.ndim)[0]
    if varying(before) != (dim,) or call.result.shape[dim] == source.shape[dim]:
        return
    if int(call["step"]) != 1:
        facts.sites.strided(facts.context.where, before.flatten(), int(call["step"]))
        return
    part = facts.map(call.result).plane
    if part is None or varying(part) != (dim,):
        return
    key = (source.untyped_storage()._cdata, facts.context.where, tuple(before.flatten()[:2].tolist()))
    facts.sites.sliced(key, facts.context.where, facts.context.module, part.flatten(), before.flatten())
