"""The part that a pruning plan leaves of every tensor of a network.

A plan names removed channels a layer; :class:`NetworkSlicer` translates it, once, into a :class:`Cut`: kept rows and
columns of every module, sliced weights, and the few module attributes (``groups``, ``normalized_shape``) that must
follow. Nothing is rebuilt: a cut serves functional evaluation, physical surgery checks and refits alike.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from hessian.channels.group import ChannelGroup, Member
from hessian.channels.layer_types import CONV_TYPES, TRANSPOSED_TYPES, channel_extent, is_depthwise
from hessian.support.layout import sent
from hessian.support.names import suggest

Plan = Mapping[str, Sequence[int]]


@dataclass(frozen=True, eq=False)
class ModuleSlice:
    """Kept positions of a module's output (``rows``) and input (``columns``) dimension; None keeps all.

    Both are sorted LongTensors of absolute channel positions. For a grouped convolution ``columns`` still counts all
    input channels; :meth:`weight_columns` gives the positions inside one group, the same in every group.
    """

    rows: Tensor | None = None
    columns: Tensor | None = None

    def weight_columns(self, module: nn.Module) -> Tensor | None:
        """Kept positions along the weight's input dimension, LongTensor, or None for all."""
        if self.columns is None or not isinstance(module, CONV_TYPES) or module.groups == 1:
            return self.columns
        period = module.in_channels // module.groups
        return self.columns[self.columns < period]


@dataclass(frozen=True, eq=False)
class Cut:
    """A plan applied to a network; made by :meth:`NetworkSlicer.cut`, which checks the plan.

    Attributes:
        model: the dense network.
        slices: module name -> kept rows and columns; modules the plan leaves alone are absent.
        parameters: name of a bare parameter or buffer the plan touches -> (axis, kept positions) of every axis cut.
        attributes: module name -> attributes (and buffers that no state dict holds) that a forward pass reads and that
            change with the plan.
        aliases: state-dict key -> the key under which the same tensor is cut, where it has several.
    """

    model: nn.Module
    slices: Mapping[str, ModuleSlice]
    parameters: Mapping[str, Sequence[tuple[int, Tensor]]]
    attributes: Mapping[str, Mapping[str, Any]]
    aliases: Mapping[str, str]

    def state(self, dense: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
        """The model's state dict at the pruned shapes, without any refit.

        Args:
            dense: values to cut instead of the model's own, under every key of its state dict.

        Returns:
            Every key of ``model.state_dict()``; touched tensors are sliced copies, made anew by every call, the others
            the model's own.
        """
        state = dict(self.model.state_dict() if dense is None else dense)
        modules = dict(self.model.named_modules())
        for name, part in self.slices.items():
            for suffix in _KNOWN:
                key = f"{name}.{suffix}"
                if key in state:
                    state[key] = slice_tensor(modules[name], suffix, state[key], part)
        for name, axes in self.parameters.items():
            for axis, kept in axes:
                state[name] = state[name].index_select(axis, sent(kept, state[name].device))
        state.update({alias: state[name] for alias, name in self.aliases.items() if alias in state})
        return state


class NetworkSlicer:
    """Applies pruning plans to a network.

    Args:
        model: the dense network; only its structure and tensors are read.
        groups: its prunable layers, from :func:`hessian.channels.find_channel_groups`.
    """

    def __init__(self, model: nn.Module, groups: Sequence[ChannelGroup]) -> None:
        self.model = model
        self.groups = {group.name: group for group in groups}
        self._modules = dict(model.named_modules())
        self._outs: dict[str, list[tuple[str, Tensor]]] = {}
        self._ins: dict[str, list[tuple[str, Tensor]]] = {}
        self._parameters: dict[str, dict[int, list[tuple[str, Tensor]]]] = {}
        self._shared = _shared(model)
        self._unsaved = {name for name, _ in model.named_buffers()} - model.state_dict().keys()
        for group in groups:
            for member in (*group.producers, *group.carriers):
                if member.parameter is None:
                    self._outs.setdefault(member.module, []).append((group.name, member.indices))
                else:
                    axis = _channel_axis(model, member)
                    table = self._parameters.setdefault(member.parameter, {})
                    table.setdefault(axis, []).append((group.name, member.indices))
            for member in (*group.consumers, *group.silent):
                self._ins.setdefault(member.module, []).append((group.name, member.indices))

    def feeding_layers(self, consumer: str) -> list[str]:
        """Names of the layers whose channels a module consumes (several behind a concatenation)."""
        return [layer for layer, _ in self._ins.get(consumer, [])]

    def producing_layers(self, module: str) -> list[str]:
        """Names of the layers a module's output channels belong to."""
        return [layer for layer, _ in self._outs.get(module, [])]

    def validate(self, plan: Plan) -> dict[str, list[int]]:
        """Check a plan and return it with sorted plain-int indices.

        Raises:
            ValueError: unknown layer, duplicate or out-of-range index, broken unit, or a layer emptied.
        """
        return {name: self._validate_layer(name, removed) for name, removed in plan.items() if len(removed)}

    def _validate_layer(self, name: str, removed: Sequence[int]) -> list[int]:
        if name not in self.groups:
            raise ValueError(f"layer {name!r} is not prunable" + suggest(name, self.groups))
        group = self.groups[name]
        indices = sorted(int(index) for index in removed)
        if len(set(indices)) != len(indices):
            raise ValueError(f"plan of layer {name!r} repeats channels: {indices}")
        if indices[0] < 0 or indices[-1] >= group.size:
            raise ValueError(
                f"plan of layer {name!r} has channels outside [0, {group.size}): {indices[0]}..{indices[-1]}"
            )
        if len(indices) >= group.size:
            raise ValueError(f"plan removes all {group.size} channels of layer {name!r}; keep at least one unit")
        gone = set(indices)
        for unit in group.units:
            if 0 < len(gone.intersection(unit)) < len(unit):
                raise ValueError(
                    f"plan of layer {name!r} splits unit {unit}: a grouped convolution loses one channel of every group"
                )
        return indices

    def cut(self, plan: Plan) -> Cut:
        """Apply a plan: what it leaves of every module. Cheap; no tensor is copied before :meth:`Cut.state`.

        Args:
            plan: layer name -> removed channel indices.

        Raises:
            ValueError: see :meth:`validate`.
        """
        removed = self.validate(plan)
        slices = self._slices(removed)
        attributes = self._attributes(slices)
        self._add_own_attributes(attributes, removed)
        parameters = self._cut_parameters(removed)
        self._add_unsaved(attributes, parameters)
        touched = {*parameters, *(f"{name}.{suffix}" for name in slices for suffix in _KNOWN)}
        return Cut(self.model, slices, parameters, attributes, _aliases(self._shared, touched))

    def _slices(self, removed: dict[str, list[int]]) -> dict[str, ModuleSlice]:
        rows = {
            name: self._kept(tied, removed, channel_extent(self._modules[name], "out"))
            for name, tied in self._outs.items()
        }
        columns = {
            name: self._kept(tied, removed, channel_extent(self._modules[name], "in"))
            for name, tied in self._ins.items()
        }
        touched = {
            name: ModuleSlice(rows.get(name), columns.get(name))
            for name in self._modules
            if name in rows or name in columns
        }
        return {name: part for name, part in touched.items() if part.rows is not None or part.columns is not None}

    def _add_unsaved(
        self, attributes: dict[str, dict[str, Any]], parameters: dict[str, list[tuple[int, Tensor]]]
    ) -> None:
        """Buffers that no state dict holds are cut as attributes."""
        for name in parameters.keys() & self._unsaved:
            tensor = _named_tensor(self.model, name)
            for axis, kept in parameters.pop(name):
                tensor = tensor.index_select(axis, sent(kept, tensor.device))
            owner, _, suffix = name.rpartition(".")
            attributes.setdefault(owner, {})[suffix] = tensor

    def _cut_parameters(self, removed: dict[str, list[int]]) -> dict[str, list[tuple[int, Tensor]]]:
        found: dict[str, list[tuple[int, Tensor]]] = {}
        for name, axes in self._parameters.items():
            tensor = _named_tensor(self.model, name)
            for axis, tied in axes.items():
                kept = self._kept(tied, removed, tensor.shape[axis])
                if kept is not None:
                    found.setdefault(name, []).append((axis, kept))
        return found

    def _add_own_attributes(self, attributes: dict[str, dict[str, Any]], removed: dict[str, list[int]]) -> None:
        """Numbers that modules of the network's own keep, less the channels that are gone."""
        for name, gone in removed.items():
            for size in self.groups[name].attributes:
                values = attributes.setdefault(size.module, {})
                before = values.get(size.attribute, getattr(self._modules[size.module], size.attribute))
                values[size.attribute] = _less(before, int(size.counts[gone].sum()), size.index)

    def _attributes(self, slices: dict[str, ModuleSlice]) -> dict[str, dict[str, Any]]:
        changed: dict[str, dict[str, Any]] = {}
        for name, part in slices.items():
            module = self._modules[name]
            sizes = _declared_sizes(module, part)
            if sizes and not type(module).__module__.startswith("torch.nn."):
                changed[name] = sizes  # code of its own may read them
                continue
            if part.rows is None:
                continue
            if is_depthwise(module):
                changed[name] = {"groups": len(part.rows) * module.groups // module.out_channels}
            elif isinstance(module, nn.LayerNorm):
                changed[name] = {"normalized_shape": (*module.normalized_shape[:-1], len(part.rows))}
            elif isinstance(module, nn.modules.instancenorm._InstanceNorm):
                changed[name] = {"num_features": len(part.rows)}
        return changed

    @staticmethod
    def _kept(tied: list[tuple[str, Tensor]], removed: dict[str, list[int]], extent: int) -> Tensor | None:
        gone = [indices[removed[layer]].reshape(-1) for layer, indices in tied if removed.get(layer)]
        if not gone:
            return None
        mask = torch.ones(extent, dtype=torch.bool)
        mask[torch.cat(gone)] = False
        return mask.nonzero()[:, 0]


_KNOWN = ("weight", "bias", "running_mean", "running_var")
"""Tensors that modules of known kinds have; others are bare parameters, with members of their own."""


def _declared_sizes(module: Any, part: ModuleSlice) -> dict[str, Any]:
    """Attributes by which a module of a known kind declares its sizes, after a cut."""
    sizes: dict[str, Any] = {}
    rows = None if part.rows is None else len(part.rows)
    if isinstance(module, (*CONV_TYPES, nn.Linear)):
        kind = "features" if isinstance(module, nn.Linear) else "channels"
        if part.columns is not None:
            sizes[f"in_{kind}"] = len(part.columns)
        if rows is not None:
            sizes[f"out_{kind}"] = rows
            if is_depthwise(module):
                sizes["groups"] = sizes["in_channels"] = rows // (channel_extent(module, "out") // _groups(module))
    elif rows is not None and isinstance(module, nn.LayerNorm):
        sizes["normalized_shape"] = (*module.normalized_shape[:-1], rows)
    elif rows is not None and isinstance(module, nn.GroupNorm):
        sizes["num_channels"] = rows
    elif rows is not None and hasattr(module, "num_features"):
        sizes["num_features"] = rows
    return sizes


def _groups(module: Any) -> int:
    return int(module.groups)


def _less(value: Any, gone: int, index: int | None) -> Any:
    """A number, or one of a list or tuple of numbers, less what is gone."""
    if index is None:
        return value - gone
    numbers = [number - gone * (place == index) for place, number in enumerate(value)]
    return numbers if isinstance(value, list) else tuple(numbers)


def _named_tensor(model: nn.Module, name: str) -> Tensor:
    owner, _, suffix = name.rpartition(".")
    return cast("Tensor", getattr(model.get_submodule(owner), suffix))


def _shared(model: nn.Module) -> list[list[str]]:
    """Names of tensors that are registered several times."""
    names: dict[int, list[str]] = {}
    every = (*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False))
    for name, tensor in every:
        names.setdefault(id(tensor), []).append(name)
    return [several for several in names.values() if len(several) > 1]


def _aliases(shared: Sequence[Sequence[str]], touched: set[str]) -> dict[str, str]:
    aliases = {}
    for names in shared:
        source = next((name for name in names if name in touched), names[0])
        aliases.update({name: source for name in names if name != source})
    return aliases


def _channel_axis(model: nn.Module, member: Member) -> int:
    """The axis of a bare parameter along which channels run: its last one of more than one entry, unless said."""
    if member.axis is not None:
        return member.axis
    assert member.parameter is not None
    shape = _named_tensor(model, member.parameter).shape
    return max(axis for axis, extent in enumerate(shape) if extent > 1)


def slice_tensor(module: nn.Module, suffix: str, tensor: Tensor, part: ModuleSlice) -> Tensor:
    """Cut one parameter or buffer of a module.

    Args:
        module: the owner.
        suffix: the tensor's name in the module (``"weight"``, ``"running_mean"``, ...).
        tensor: the full tensor.
        part: kept rows and columns.

    Returns:
        The cut copy, or the tensor itself where it has no channel dimension (``num_batches_tracked``).
    """
    if tensor.ndim == 0:
        return tensor
    transposed = isinstance(module, TRANSPOSED_TYPES)
    if suffix == "weight" and isinstance(module, TRANSPOSED_TYPES) and module.groups > 1 and not is_depthwise(module):
        return _slice_grouped_transposed(module, tensor, part)
    columns = part.weight_columns(module) if suffix == "weight" and tensor.ndim > 1 else None
    row_axis, column_axis = (1, 0) if transposed and tensor.ndim > 1 and not is_depthwise(module) else (0, 1)
    if isinstance(module, nn.LayerNorm):
        row_axis = tensor.ndim - 1
    if part.rows is not None and not (isinstance(module, nn.PReLU) and tensor.numel() == 1):
        tensor = tensor.index_select(row_axis, sent(part.rows, tensor.device))
    if columns is not None:
        tensor = tensor.index_select(column_axis, sent(columns, tensor.device))
    return tensor


def _slice_grouped_transposed(module: Any, tensor: Tensor, part: ModuleSlice) -> Tensor:
    """Weight [in, out / groups, ...] of a grouped transposed convolution: rows repeat in every group."""
    if part.rows is not None:
        period = module.out_channels // module.groups
        tensor = tensor.index_select(1, sent(part.rows[part.rows < period], tensor.device))
    if part.columns is not None:
        tensor = tensor.index_select(0, sent(part.columns, tensor.device))
    return tensor


@contextmanager
def installed(
    model: nn.Module, state: Mapping[str, Tensor], attributes: Mapping[str, Mapping[str, Any]]
) -> Iterator[None]:
    """Inside, the network holds other tensors (of any shape) and attributes; afterwards its own are back.

    Args:
        model: the network; its modules must not check shapes beyond ``attributes``.
        state: state-dict key -> tensor; held as given, so buffers updated by a forward pass are updated in place.
        attributes: module name -> attribute values, those of a :class:`Cut`.
    """
    modules = dict(model.named_modules(remove_duplicate=False))
    saved: list[tuple[dict[str, Any], str, Any]] = []

    def put(table: dict[str, Any], name: str, value: Any) -> None:
        saved.append((table, name, table[name]))
        table[name] = value

    try:
        for key, tensor in state.items():
            owner, _, name = key.rpartition(".")
            module = modules[owner]
            if name in module._parameters:
                put(cast("dict[str, Any]", module._parameters), name, nn.Parameter(tensor, requires_grad=False))
            else:
                put(cast("dict[str, Any]", module._buffers), name, tensor)
        for owner, values in attributes.items():
            for name, value in values.items():
                buffers = cast("dict[str, Any]", modules[owner]._buffers)
                put(buffers if name in buffers else modules[owner].__dict__, name, value)
        yield
    finally:
        for table, name, value in reversed(saved):
            table[name] = value
