"""Which channels belong together, and cutting them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hessian.support.lazy import lazy_names

if TYPE_CHECKING:
    from hessian.channels.find import find_channel_groups
    from hessian.channels.group import ChannelGroup, UnsupportedStructureError

__all__ = [
    "ChannelGroup",
    "UnsupportedStructureError",
    "find_channel_groups",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "ChannelGroup": "group",
        "UnsupportedStructureError": "group",
        "find_channel_groups": "find",
    },
)
