"""Optimal brain surgery algebra: dense side, dual side, greedy sweep."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hessian.support.lazy import lazy_names

if TYPE_CHECKING:
    from hessian.obs.algebra import (
        DegenerateFactorError,
        block_prices,
        cholesky,
        complement,
        damped,
        inverse,
        joint_refit,
        obd_column_prices,
        obd_row_prices,
        obs_column_prices,
        obs_row_prices,
        output_gram,
        quadratic,
        refit_columns,
        set_price,
    )

__all__ = [
    "DegenerateFactorError",
    "block_prices",
    "cholesky",
    "complement",
    "damped",
    "inverse",
    "joint_refit",
    "obd_column_prices",
    "obd_row_prices",
    "obs_column_prices",
    "obs_row_prices",
    "output_gram",
    "quadratic",
    "refit_columns",
    "set_price",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "DegenerateFactorError": "algebra",
        "block_prices": "algebra",
        "cholesky": "algebra",
        "complement": "algebra",
        "damped": "algebra",
        "inverse": "algebra",
        "joint_refit": "algebra",
        "obd_column_prices": "algebra",
        "obd_row_prices": "algebra",
        "obs_column_prices": "algebra",
        "obs_row_prices": "algebra",
        "output_gram": "algebra",
        "quadratic": "algebra",
        "refit_columns": "algebra",
        "set_price": "algebra",
    },
)
