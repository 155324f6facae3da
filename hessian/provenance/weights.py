"""Rules of operations with weights: convolutions and products close a map (columns) and open a new one (rows)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from hessian.provenance.classes import FIXED, NEUTRAL
from hessian.provenance.combining import mixed_along
from hessian.provenance.facts import Call, Facts, fixed, wrapped
from hessian.provenance.labels import Map, varying


def axis_ids(found: Map, dim: int, size: int) -> Tensor:
    """Ids along one dimension of a weight, int64 [size]; FIXED where they are not known."""
    for plane in found.planes:
        if varying(plane) == (dim,):
            return plane.flatten()
    return torch.full((size,), FIXED)


def other_axes(found: Map, dims: tuple[int, ...]) -> list[Tensor]:
    """Planes of a weight that touch the given dimensions without running along exactly one of them."""
    return [
        plane
        for plane in found.planes
        if set(varying(plane)) & set(dims) and varying(plane) not in {(dim,) for dim in dims}
    ]


def convolution(facts: Facts, call: Call) -> None:
    """Convolutions of every kind: dense, grouped, depthwise, transposed."""
    weight, transposed, groups = call["weight"], bool(call.arguments.get("transposed")), int(call["groups"])
    inputs, kernel = facts.map(call["input"]), facts.map(weight)
    dimensions = call["input"].ndim
    if kernel.activation:
        facts.pin(inputs, "is convolved with weights made from the input")
        facts.pin(kernel, "makes weights of a convolution")
        facts.give(call.result, [fixed(dimensions)])
        return
    if not isinstance(weight, nn.Parameter):
        facts.derived.add(facts.context.where)
    for plane in other_axes(kernel, (0, 1)):
        facts.classes.pin(plane, facts.reason("lies across several axes of a convolution's weight"))
    read = channel_ids(facts, call["input"])
    first, second = axis_ids(kernel, 0, weight.shape[0]), axis_ids(kernel, 1, weight.shape[1])
    made = _grouped(facts, read, first, second, groups, transposed)
    _with_bias(facts, made, call.arguments.get("bias"))
    facts.give(call.result, [made.reshape(1, -1, *(1,) * (call.result.ndim - 2))])


def channel_ids(facts: Facts, tensor: Tensor) -> Tensor:
    """One id for each input channel (dimension 1) of a convolution, int64 [C]."""
    found = facts.map(tensor)
    if found.plane is None:
        return torch.full((tensor.shape[1],), NEUTRAL)
    if not found.activation and len(found.planes) > 1:
        for plane in found.planes:
            if varying(plane) != (1,):
                facts.classes.pin(plane, facts.reason("has one entry a position"))
        return axis_ids(found, 1, tensor.shape[1])
    others = tuple(dim for dim in range(tensor.ndim) if dim != 1)
    plane = mixed_along(facts, found.plane, others, "read by the same weights as other channels")
    return plane.flatten().expand(tensor.shape[1])


def _grouped(facts: Facts, read: Tensor, first: Tensor, second: Tensor, groups: int, transposed: bool) -> Tensor:
    """Unite what is read with columns; returns the ids of what is made.

    Args:
        facts: everything known.
        read: ids of the inputs [C_in].
        first: ids along the weight's first axis: [C_out], or [C_in] if transposed.
        second: ids along its second axis: [C_in / groups], or [C_out / groups] if transposed.
        groups: of the convolution.
        transposed: whether it is.
    """
    reason = facts.reason("read by a convolution whose weight cannot be followed")
    if (len(first) if transposed else len(second)) == 1 and len(read) == 1:
        reason = facts.reason("lies along positions of a convolution, or is its only input channel")
    if groups == 1:
        columns, rows = (first, second) if transposed else (second, first)
        facts.classes.unite(columns, read, reason)
        _contract(facts, columns, rows)
        return rows
    if len(read) == groups:  # depthwise: every input channel owns its outputs
        _count_groups(facts, read)
        rows = _columns_of(facts, first, len(first) * len(second)) if transposed and len(second) > 1 else first
        facts.classes.unite(rows.view(groups, -1), read[:, None].expand(groups, len(rows) // groups), reason)
        if transposed and len(second) > 1:
            facts.classes.pin(rows, facts.reason("a transposed depthwise convolution with several outputs a channel"))
        return rows
    per_group = len(read) // groups
    if transposed:
        facts.classes.unite(first, read, reason)
        _tie_groups(facts, first.view(groups, -1))
        rows = _columns_of(facts, first, groups * len(second))
        _tie_groups(facts, rows.view(groups, -1))
        facts.classes.tie(rows[: len(second)], second)
        _contract(facts, first, rows)
        return rows
    columns = _columns_of(facts, second, len(read))
    facts.classes.unite(columns, read, reason)
    _tie_groups(facts, columns.view(groups, per_group))
    facts.classes.tie(columns[:per_group], second)
    facts.classes.level(first.view(groups, -1))
    _contract(facts, columns, first)
    return first


def _contract(facts: Facts, columns: Tensor, rows: Tensor) -> None:
    facts.classes.contract(columns, rows, facts.reason("belongs to a weight that is used along both of its axes"))


def _count_groups(facts: Facts, read: Tensor) -> None:
    """Note a depthwise convolution written as a function, whose number of groups its module may keep."""
    if not isinstance(facts.context.module, nn.modules.conv._ConvNd) and bool((read > FIXED).all()):
        facts.sites.counted(facts.context.where, facts.context.module, read, "convolves channels one by one")


def _columns_of(facts: Facts, ids: Tensor, count: int) -> Tensor:
    """Ids of positions that a grouped convolution counts over all groups; FIXED where its weight is not known."""
    return facts.columns(ids, count) if bool((ids > FIXED).all()) else torch.full((count,), FIXED)


def _tie_groups(facts: Facts, ids: Tensor) -> None:
    """Tie channels at the same place of every group: ids [groups, channels a group]."""
    facts.classes.tie(ids[:1].expand_as(ids), ids)


def _with_bias(facts: Facts, made: Tensor, bias: Any) -> None:
    if isinstance(bias, Tensor):
        found = facts.map(bias)
        if found.activation:
            facts.pin(found, "is added as a bias")
            facts.classes.pin(made, facts.reason("has a bias made from the input"))
        else:
            facts.classes.unite(made, axis_ids(found, 0, bias.shape[0]), facts.reason("has a bias that stays"))


def product(facts: Facts, call: Call) -> None:
    """Matrix products: of an activation with a weight on either side, or of two activations."""
    one, other = _factors(call)
    left, right = facts.map(one), facts.map(other)
    result: Tensor = call.result
    k_left, k_right = one.ndim - 1, max(other.ndim - 2, 0)
    if not left.activation and not right.activation:
        _weight_product(facts, left, right, one, other, result)
        return
    if left.activation and right.activation:
        _activation_product(facts, left, right, k_left, k_right, result)
    elif left.activation:
        rows_dim = other.ndim - 1 if other.ndim > 1 else None
        made = _times(facts, left, one, k_left, right, other, k_right, rows_dim)
        facts.give(result, [_placed(made, result.ndim, result.ndim - 1 if rows_dim is not None else None, left)])
    else:
        made = _times(facts, right, other, k_right, left, one, k_left, one.ndim - 2 if one.ndim > 1 else None)
        facts.give(result, [_placed(made, result.ndim, result.ndim - (2 if other.ndim > 1 else 1), right)])
    _bias_of_product(facts, call)


def _factors(call: Call) -> tuple[Tensor, Tensor]:
    names = {"mm": ("self", "mat2"), "bmm": ("self", "mat2"), "addmm": ("mat1", "mat2"), "mv": ("self", "vec")}
    names |= {"baddbmm": ("batch1", "batch2"), "addmv": ("mat", "vec"), "dot": ("self", "tensor")}
    names |= {"addbmm": ("batch1", "batch2")}
    one, other = names[call.name]
    return call[one], call[other]


def _times(
    facts: Facts, inputs: Map, x: Tensor, k: int, weight: Map, w: Tensor, k_weight: int, rows_dim: int | None
) -> Tensor:
    """Contract an activation with a weight: ids of what is made [rows], or the activation's plane if that survives."""
    dims = (k_weight,) if rows_dim is None else (k_weight, rows_dim)
    for crossing in other_axes(weight, dims):
        facts.classes.pin(crossing, facts.reason("lies across several axes of a weight"))
    columns = axis_ids(weight, k_weight, w.shape[k_weight])
    rows = axis_ids(weight, rows_dim, w.shape[rows_dim]) if rows_dim is not None else fixed(1)
    plane = inputs.plane
    if plane is None:
        facts.classes.pin(columns, facts.reason("reads what no layer makes"))
        return rows
    if k in varying(plane):
        others = tuple(dim for dim in range(x.ndim) if dim != k)
        plane = mixed_along(facts, plane, others, "read by the same weights as other channels")
        facts.classes.unite(
            columns, plane.flatten(), facts.reason("read by a matrix product whose weight cannot be followed")
        )
        _contract(facts, columns, rows)
        return rows
    if varying(plane):  # mixes positions of every channel: channels go through
        facts.classes.pin(rows, facts.reason("makes positions, not channels"))
        facts.classes.pin(columns, facts.reason("reads positions, not channels"))
        return plane
    facts.classes.unite(columns, plane.flatten().expand(len(columns)), facts.reason("reads what no layer makes"))
    return rows


def _placed(made: Tensor, dimensions: int, dim: int | None, inputs: Map) -> Tensor:
    """Ids of a product's result as a plane."""
    if made.ndim > 1 or (inputs.plane is None and made.ndim != 1):
        if dim is None:
            return made.squeeze(-1) if made.ndim > dimensions else made
        return made.reshape((1,) * (dimensions - made.ndim) + tuple(made.shape))
    shape = [1] * dimensions
    if dim is not None:
        shape[dim] = len(made)
    return made.reshape(shape) if dim is not None else fixed(dimensions)


def _activation_product(facts: Facts, left: Map, right: Map, k_left: int, k_right: int, result: Tensor) -> None:
    text = "multiplied with other activations in a matrix product (attention)"
    planes = [found.plane for found in (left, right)]
    for found, k in ((left, k_left), (right, k_right)):
        if found.plane is not None and k in varying(found.plane):
            facts.pin(left, text)
            facts.pin(right, text)
            facts.give(result, [fixed(result.ndim)])
            return
    moving = [plane for plane in planes if plane is not None and varying(plane)]
    if len(moving) == 1 and moving[0].ndim == result.ndim:
        facts.give(result, [moving[0]])
        return
    facts.pin(left, text)
    facts.pin(right, text)
    facts.give(result, [fixed(result.ndim)])


def _weight_product(facts: Facts, left: Map, right: Map, one: Tensor, other: Tensor, result: Tensor) -> None:
    """A product of parameters: rows of one, columns of the other; the contracted axes are recomputed."""
    if one.ndim == 2 and other.ndim == 2 and result.ndim == 2:
        rows, columns = axis_ids(left, 0, one.shape[0]), axis_ids(right, 1, other.shape[1])
        inner = axis_ids(left, 1, one.shape[1]), axis_ids(right, 0, other.shape[0])
        facts.classes.unite(*inner, facts.reason("multiplied with a weight that stays"))
        facts.give(result, [rows[:, None], columns[None, :]], activation=False)
        return
    facts.pin(left, "is part of a product of weights")
    facts.pin(right, "is part of a product of weights")


def _bias_of_product(facts: Facts, call: Call) -> None:
    if call.name not in ("addmm", "baddbmm", "addmv", "addbmm"):
        return
    bias, result = call["self"], call.result
    made, found = facts.map(result), facts.map(bias)
    if made.plane is None or not found.planes:
        return
    for plane in found.planes:
        plane = plane.reshape((1,) * (result.ndim - plane.ndim) + tuple(plane.shape))
        if varying(plane) == varying(made.plane):
            facts.classes.unite(made.plane, plane, facts.reason("has a bias that stays"))
        elif varying(plane):
            facts.classes.pin(plane, facts.reason("has one entry a position"))
            facts.classes.pin(made.plane, facts.reason("has a bias with one entry a position"))


def batch_norm(facts: Facts, call: Call) -> None:
    """Statistics of every channel (dimension 1); of a weight, over all positions that are left."""
    source, found = call["input"], facts.map(call["input"])
    if not found.activation:
        _normalised(facts, call, [plane for plane in found.planes if varying(plane) == (1,)] or found.planes, False)
        facts.give(_main(call), list(found.planes), activation=False)
        return
    plane = found.plane if found.plane is not None else fixed(source.ndim)
    if call.arguments.get("training", False) or "running_mean" not in call.arguments:
        others = tuple(dim for dim in range(source.ndim) if dim != 1)
        plane = mixed_along(facts, plane, others, "normalised together with others")
    _normalised(facts, call, [plane], True)
    facts.give(_main(call), [plane])


def _main(call: Call) -> Tensor:
    return call.result[0] if isinstance(call.result, (tuple, list)) else call.result


def _normalised(facts: Facts, call: Call, planes: list[Tensor], pin: bool) -> None:
    """Unite the ids of a normalisation's own vectors with the channels (dimension 1)."""
    for name in ("weight", "bias", "running_mean", "running_var"):
        vector = call.arguments.get(name)
        if not isinstance(vector, Tensor):
            continue
        ids = axis_ids(facts.map(vector), 0, vector.shape[0])
        for plane in planes:
            shape = [1] * plane.ndim
            shape[1] = len(ids)
            if not facts.map(vector).planes:
                continue
            one, other = torch.broadcast_tensors(plane, ids.reshape(shape))
            facts.classes.unite(one, other, facts.reason("meets a normalisation that stays"))


def group_norm(facts: Facts, call: Call) -> None:
    """Groups of channels (dimension 1) normalised together: they must stay equally large."""
    source, found, groups = call["input"], facts.map(call["input"]), int(call.arguments.get("group", 1))
    plane = found.plane if found.plane is not None else fixed(source.ndim)
    others = tuple(dim for dim in range(source.ndim) if dim != 1)
    plane = mixed_along(facts, plane, others, "normalised together with others")
    _normalised(facts, call, [plane], True)
    if groups > 1 and varying(plane) == (1,):
        if groups == source.shape[1]:
            reason = facts.reason("a GroupNorm with one group a channel")
            facts.classes.pin(plane, reason)
        else:
            _tie_groups(facts, plane.flatten().view(groups, -1))
    facts.give(_main(call), [plane])


def layer_norm(facts: Facts, call: Call) -> None:
    """Normalised over the last dimensions: channels there are carried on, statistics are those of what is left."""
    source, found = call["input"], facts.map(call["input"])
    dims = tuple(range(source.ndim - len(call["normalized_shape"]), source.ndim))
    if not found.activation:
        facts.give(_main(call), list(found.planes), activation=False)
        return
    plane = found.plane if found.plane is not None else fixed(source.ndim)
    for name in ("weight", "bias"):
        vector = call.arguments.get(name)
        if not isinstance(vector, Tensor):
            continue
        for axis in facts.map(vector).planes:
            axis = axis.reshape((1,) * (source.ndim - axis.ndim) + tuple(axis.shape))
            if varying(axis) == varying(plane):
                facts.classes.unite(plane, axis, facts.reason("meets a normalisation that stays"))
            elif varying(axis):
                facts.classes.pin(axis, facts.reason("normalises every position by itself"))
    crossing = [dim for dim in varying(plane) if dim in dims]
    if crossing and len(varying(plane)) > 1:
        facts.classes.pin(plane, facts.reason("normalised across several dimensions of channels"))
    facts.give(_main(call), [plane])


def unknown(facts: Facts, call: Call) -> None:
    """Any other operation: what it touches stays."""
    maps = [facts.map(tensor) for tensor in call.tensors]
    if not any(found.planes for found in maps):
        return
    decides = not any(result.is_floating_point() or result.is_complex() for result in call.results)
    for found in maps:
        facts.pin(
            found,
            f"decides what is picked in {call.name}" if decides else f"goes through {call.name}, which is not followed",
        )
    activation = any(found.activation for found in maps)
    for result in call.results:
        facts.give(result, [fixed(result.ndim)], activation)


def repeated(facts: Facts, call: Call) -> None:
    """Interpolation that mixes along given dimensions only (Fourier transforms, cumulative sums)."""
    source = call.source
    found = facts.map(source)
    dims = wrapped(call.arguments.get("dim"), source.ndim)
    planes = [mixed_along(facts, plane, dims, f"mixed with others by {call.name}") for plane in found.planes]
    if planes:
        facts.give(call.result, planes, found.activation)
