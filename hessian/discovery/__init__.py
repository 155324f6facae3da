"""Discovery of channels that can go, and of those that stay and why: found by a run, proved by trial cuts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hessian.support.lazy import lazy_names

if TYPE_CHECKING:
    from hessian.discovery.discover import Discovery, discover
    from hessian.discovery.find import find_channel_groups

__all__ = [
    "Discovery",
    "discover",
    "find_channel_groups",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "Discovery": "discover",
        "discover": "discover",
        "find_channel_groups": "find",
    },
)
