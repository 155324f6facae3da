"""Searches without a policy."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hessian.support.lazy import lazy_names

if TYPE_CHECKING:
    from agents.search.base import RandomSearch, Search

__all__ = [
    "RandomSearch",
    "Search",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "RandomSearch": "base",
        "Search": "base",
    },
)
