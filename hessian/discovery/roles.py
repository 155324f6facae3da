"""Roles of an axis of a parameter for the channels that run along it: made, carried or read."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from torch import Tensor, nn

from hessian.channels.layer_types import CONV_TYPES, MIXING_TYPES, NORM_TYPES, TRANSPOSED_TYPES, is_depthwise
from hessian.provenance.entries import Entry
from hessian.provenance.run import Provenance

_OWN = {
    nn.PReLU: ("weight",),
    nn.LayerNorm: ("weight", "bias"),
    nn.GroupNorm: ("weight", "bias"),
}
_STATISTICS = ("weight", "bias", "running_mean", "running_var")


class Role(Enum):
    """Role of a place for its channels."""

    PRODUCER = "producer"
    CARRIER = "carrier"
    CONSUMER = "consumer"


@dataclass(frozen=True, eq=False)
class Place:
    """One dimension of a module (or of a bare parameter) along which channels run.

    Attributes:
        module: qualified name of the module, or of a bare parameter's owner.
        role: what it is to them.
        ids: int64 [size].
        live: whether the module is called in evaluation mode.
        parameter: qualified name of a bare parameter or buffer.
        axis: the axis of a bare parameter or buffer.
    """

    module: str
    role: Role
    ids: Tensor
    live: bool
    parameter: str | None = None
    axis: int | None = None


def places_of(model: nn.Module, provenance: Provenance) -> list[Place]:
    """All places of a network, each dimension of a module once."""
    modules = dict(model.named_modules())
    found: dict[tuple[str, Role | None, str | None, int | None], Place] = {}
    for entry in provenance.entries.all:
        known = [place for name in entry.names if (place := _place(name, entry, modules, provenance)) is not None]
        if any(place.parameter is None for place in known):
            known = [place for place in known if place.parameter is None]
        else:
            known = known[:1]  # a bare parameter under several names is cut once
        for place in known:
            found.setdefault((place.module, place.role, place.parameter, place.axis), place)
    return list(found.values())


def _place(name: str, entry: Entry, modules: dict[str, nn.Module], provenance: Provenance) -> Place | None:
    if entry.axis is None:
        return Place(name, Role.CARRIER, entry.ids, True)
    owner, _, suffix = name.rpartition(".")
    module = modules.get(owner)
    if module is None:
        return None  # a second name of a module that is registered twice
    live = provenance.calls.get(owner, 0) > 0
    role = _role(module, suffix, entry)
    if role is not None:
        return Place(owner, role, entry.ids, live)
    if _counts_inside_groups(module, suffix, entry):
        return None
    return Place(owner, Role.CARRIER, entry.ids, live, name, entry.axis)


def _role(module: nn.Module, suffix: str, entry: Entry) -> Role | None:
    """The role of a known tensor of a known module; None for anything else."""
    if isinstance(module, MIXING_TYPES):
        if suffix == "bias":
            return Role.CARRIER if is_depthwise(module) else Role.PRODUCER
        return _weight_role(module, entry) if suffix == "weight" else None
    for kind, suffixes in _OWN.items():
        if isinstance(module, kind):
            last = entry.axis == _dimensions(module, suffix) - 1
            return Role.CARRIER if suffix in suffixes and last else None
    return Role.CARRIER if isinstance(module, NORM_TYPES) and suffix in _STATISTICS else None


def _dimensions(module: nn.Module, suffix: str) -> int:
    tensor = getattr(module, suffix)
    return int(tensor.ndim)


def _weight_role(module: nn.Module, entry: Entry) -> Role | None:
    transposed = isinstance(module, TRANSPOSED_TYPES)
    if entry.grouped:
        return Role.PRODUCER if transposed else Role.CONSUMER
    if is_depthwise(module):
        return Role.CARRIER if entry.axis == 0 else None
    if entry.axis not in (0, 1):
        return None
    if (entry.axis == 1) == transposed:
        return None if transposed and _groups(module) > 1 else Role.PRODUCER
    return None if not transposed and _groups(module) > 1 else Role.CONSUMER


def _groups(module: nn.Module) -> int:
    return int(module.groups) if isinstance(module, CONV_TYPES) else 1


def _counts_inside_groups(module: nn.Module, suffix: str, entry: Entry) -> bool:
    """Return whether an axis of a known weight is no place of its own: a kernel axis, or positions inside one group."""
    return isinstance(module, MIXING_TYPES) and suffix == "weight"
