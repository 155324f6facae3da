"""Rules of torchvision's operators of regions: pooling in boxes, boxes that stay, convolutions at shifted places."""

from __future__ import annotations

from torch import Tensor

from hessian.provenance.combining import mixed_along
from hessian.provenance.facts import Call, Facts, fixed
from hessian.provenance.weights import channel_ids, convolution


def pooled(facts: Facts, call: Call) -> None:
    """Pooling inside boxes: channels (dimension 1) go through, the boxes decide places."""
    facts.pin(facts.map(call["rois"]), f"decides places in {call.name}")
    source, found = call["input"], facts.map(call["input"])
    places = tuple(dim for dim in range(source.ndim) if dim != 1)
    planes = [mixed_along(facts, plane, places, f"mixed with others by {call.name}") for plane in found.planes]
    for result in call.results:
        facts.give(result, planes, found.activation)


def chosen(facts: Facts, call: Call) -> None:
    """Boxes that stay: what they are chosen by stays."""
    for tensor in call.tensors:
        facts.pin(facts.map(tensor), f"decides what is picked in {call.name}")
    for result in call.results:
        facts.give(result, [fixed(result.ndim)])


def deformed(facts: Facts, call: Call) -> None:
    """Deformable convolution: one like any other, whose places and their weights are data, a group of channels each."""
    for name in ("offset", "mask"):
        facts.pin(facts.map(call[name]), f"decides places in {call.name}")
    source: Tensor = call["input"]
    parts = int(call["offset_groups"])
    if parts > 1:
        ids = channel_ids(facts, source).view(parts, -1)
        facts.classes.tie(ids[:1].expand_as(ids), ids)
    convolution(facts, call)
