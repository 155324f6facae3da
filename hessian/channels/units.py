"""The smallest legal removals of a layer: single channels, or one channel of every group at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import nn

from hessian.channels.group import Member
from hessian.channels.layer_types import CONV_TYPES, is_depthwise


def units_of(
    size: int, members: Mapping[str, Sequence[Member]], modules: Mapping[str, nn.Module]
) -> tuple[tuple[int, ...], ...]:
    """Unite channels that must leave together because a grouped module keeps equal groups.

    Args:
        size: number of channels of the layer.
        members: role (``"producers"``, ``"carriers"``, ``"consumers"``) -> the layer's members in that role.
        modules: the network's modules by qualified name.

    Returns:
        Channel indices of every unit, sorted.
    """
    parent = list(range(size))

    def find(channel: int) -> int:
        while parent[channel] != channel:
            parent[channel] = parent[parent[channel]]
            channel = parent[channel]
        return channel

    for role, tied in members.items():
        for member in tied:
            period = _group_period(modules[member.module], role)
            if period is None:
                continue
            first: dict[int, int] = {}
            for channel, position in enumerate(member.indices[:, 0].tolist()):
                other = first.setdefault(position % period, channel)
                parent[find(channel)] = find(other)
    units: dict[int, list[int]] = {}
    for channel in range(size):
        units.setdefault(find(channel), []).append(channel)
    return tuple(tuple(unit) for unit in sorted(units.values()))


def _group_period(module: nn.Module, role: str) -> int | None:
    """Channels a group along the dimension a role touches, or None where the module does not group it."""
    if isinstance(module, nn.GroupNorm):
        return module.num_channels // module.num_groups if module.num_groups > 1 else None
    if isinstance(module, CONV_TYPES) and module.groups > 1 and not is_depthwise(module):
        channels = module.in_channels if role == "consumers" else module.out_channels
        return channels // module.groups
    return None
