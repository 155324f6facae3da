"""Kronecker factors from passes over images."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hessian.support.lazy import lazy_names

if TYPE_CHECKING:
    from hessian.kfac.approximator import KFACHessianApproximator

__all__ = [
    "KFACHessianApproximator",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "KFACHessianApproximator": "approximator",
    },
)
