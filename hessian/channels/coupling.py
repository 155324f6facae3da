"""From torch-pruning's groups of coupled dimensions to :class:`hessian.channels.group.ChannelGroup`."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from hessian.channels.group import ChannelGroup, Member, UnsupportedStructureError
from hessian.channels.layer_types import MIXING_TYPES, NORM_TYPES, channel_extent, is_depthwise
from hessian.channels.units import units_of

logger = logging.getLogger(__name__)


@dataclass
class _Parts:
    """Members of a group while it is assembled."""

    producers: list[tuple[str, Tensor]]
    carriers: list[tuple[str, Tensor, str | None]]
    consumers: list[tuple[str, Tensor]]


def channel_group(raw: Any, model: nn.Module, order: dict[str, int], ignored: set[str]) -> ChannelGroup | None:
    """Translate one torch-pruning group; None where it is ignored, an output, or has nothing to remove."""
    names = {id(module): name for name, module in model.named_modules()}
    parameters = {id(parameter): name for name, parameter in model.named_parameters()}
    size = len(raw[0].idxs)
    parts = _Parts([], [], [])
    for item in raw.items:
        target = item.dep.target.module
        if id(target) in parameters and isinstance(target, nn.Parameter):
            name = parameters[id(target)]
            if name.rpartition(".")[0] in ignored:
                return None
            parts.carriers.append((name.rpartition(".")[0], _index_table(item, size, name), name))
            continue
        if id(target) not in names:
            continue
        name = names[id(target)]
        consumes = item.dep.handler.__name__ == "prune_in_channels" and not is_depthwise(target)
        if name in ignored and not (consumes and isinstance(target, MIXING_TYPES)):
            return None
        _add_member(parts, name, target, _index_table(item, size, name), consumes)
    if not parts.consumers or not parts.producers:
        return None
    return _assemble(parts, model, size, order)


def _index_table(item: Any, size: int, name: str) -> Tensor:
    """Positions of each root channel along the target dimension, LongTensor [size, width]."""
    positions = torch.as_tensor(list(item.idxs), dtype=torch.long)
    channels = torch.as_tensor(list(item.root_idxs), dtype=torch.long)
    counts = torch.bincount(channels, minlength=size)
    if len(counts) != size or counts.min() != counts.max() or counts[0] == 0:
        raise UnsupportedStructureError(
            f"{name!r} is tied to only some channels of the layer it shares (a sum over a concatenation): removing "
            f"channels there is not consistent. Put it in ignored_layers=[{name!r}]"
        )
    width = int(counts[0])
    by_channel = torch.argsort(channels, stable=True)
    return positions[by_channel].view(size, width)


def _add_member(parts: _Parts, name: str, module: nn.Module, table: Tensor, consumes: bool) -> None:
    if is_depthwise(module) or isinstance(module, NORM_TYPES):
        if all(name != other for other, _, _ in parts.carriers):
            parts.carriers.append((name, table, None))
    elif isinstance(module, MIXING_TYPES):
        (parts.consumers if consumes else parts.producers).append((name, table))
    else:
        raise UnsupportedStructureError(
            f"{name!r} ({type(module).__name__}) shares the channels of a layer but cannot be cut. "
            f"Put it in ignored_layers=[{name!r}]"
        )


def _assemble(parts: _Parts, model: nn.Module, size: int, order: dict[str, int]) -> ChannelGroup | None:
    """Sort members by execution, renumber channels by the first producer's rows, and find the units."""
    rank = lambda entry: order.get(entry[0], len(order))  # noqa: E731
    producers = sorted(parts.producers, key=rank)
    consumers = sorted(parts.consumers, key=rank)
    carriers = sorted(parts.carriers, key=rank)
    root, root_table = producers[0]
    if root_table.shape[1] != 1:
        raise UnsupportedStructureError(
            f"{root!r} owns several output positions a channel. Put it in ignored_layers=[{root!r}]"
        )
    by_row = torch.argsort(root_table[:, 0])
    tables = {
        "producers": tuple(Member(name, table[by_row]) for name, table in producers),
        "carriers": tuple(Member(name, table[by_row], parameter) for name, table, parameter in carriers),
        "consumers": tuple(Member(name, table[by_row]) for name, table in consumers),
    }
    units = units_of(size, tables, dict(model.named_modules()))
    if len(units) < 2:
        logger.info("layer %s has a single removable unit and is left whole", root)
        return None
    return ChannelGroup(root, size, units, **tables)


def check_coverage(groups: Sequence[ChannelGroup], raw_groups: Sequence[Any], model: nn.Module) -> None:
    """Refuse consumers that mix a layer's channels with channels no layer makes.

    The tracer does not see a plain tensor (the network's input, say) in a concatenation, nor the size of the maps of
    one that is flattened, so the positions it gives the operands cannot be trusted.
    """
    modules = dict(model.named_modules())
    covered: dict[int, set[int]] = {}
    for raw in raw_groups:
        for item in raw.items:
            if item.dep.handler.__name__ == "prune_in_channels":
                covered.setdefault(id(item.dep.target.module), set()).update(item.idxs)
    for group in groups:
        for member in group.consumers:
            module = modules[member.module]
            known, extent = covered.get(id(module), set()), channel_extent(module, "in")
            if known != set(range(extent)):
                raise UnsupportedStructureError(
                    f"{member.module!r} has {extent} input channels but layers make only {len(known)} of them (a "
                    "concatenation with the network's input or a constant, or one that is flattened): which are which "
                    "is not traced. "
                    f"Put the layers feeding it, such as {group.name!r}, in ignored_layers"
                )
