"""Channels that belong together, and cutting them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hessian.support.lazy import lazy_names

if TYPE_CHECKING:
    from hessian.channels.group import ChannelGroup, UnsupportedStructureError
    from hessian.discovery.discover import discover
    from hessian.discovery.find import find_channel_groups

__all__ = [
    "ChannelGroup",
    "UnsupportedStructureError",
    "discover",
    "find_channel_groups",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "ChannelGroup": "group",
        "UnsupportedStructureError": "group",
        "discover": ".discovery.discover",
        "find_channel_groups": ".discovery.find",
    },
)
