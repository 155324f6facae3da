"""Small files of measured numbers."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from benchmarks.pipeline import versions
from prune_gym.files import write_atomic

DIGITS = 5
"""Significant digits of the numbers in result files."""


def write_result(path: Path, content: dict[str, Any]) -> Path:
    """Write a result as compact JSON with the versions it depends on, numbers rounded, whole or not at all."""
    rounded = _rounded({**content, "versions": versions()})
    return write_atomic(path, json.dumps(rounded, allow_nan=False, separators=(",", ":")) + "\n")


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_rounded(entry) for entry in value]
    if isinstance(value, float) and math.isfinite(value):
        return float(f"{value:.{DIGITS}g}")
    return value
