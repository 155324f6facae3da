"""Audits: whether prices say what removal really does."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hessian.support.lazy import lazy_names

if TYPE_CHECKING:
    from hessian.audit.audit import audit_prices
    from hessian.audit.report import AuditReport

__all__ = [
    "AuditReport",
    "audit_prices",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "AuditReport": "report",
        "audit_prices": "audit",
    },
)
