"""Origin of a number: versions, machine, and result files that say both."""

from __future__ import annotations

import json
import math
import os
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

from benchmarks.common.signed import signed
from hessian.support.files import write_atomic

PACKAGES = ("prune-gym", "torch-pruning", "gymnasium", "numpy")
DIGITS = 5
"""Significant digits of the numbers in result files."""


def write_result(path: Path, content: dict[str, Any]) -> Path:
    """Write a result as compact JSON with versions and a checksum, numbers rounded, whole or not at all."""
    rounded = signed(_rounded({**content, "versions": versions()}))
    return write_atomic(path, json.dumps(rounded, allow_nan=False, separators=(",", ":")) + "\n")


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_rounded(entry) for entry in value]
    if isinstance(value, float) and math.isfinite(value):
        return float(f"{value:.{DIGITS}g}")
    return value


def describe_machine() -> str:
    """Return processor, cores this process may use, and operating system, in one line; no host name."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return f"{_processor()}, {cores} core{'s' * (cores != 1)}, {platform.system()} {platform.machine()}"


def _processor() -> str:
    """The processor's name; the architecture where the system does not tell."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next((name for name in names if name), platform.processor() or platform.machine())


def versions() -> dict[str, str]:
    """Return the versions of what a result depends on."""
    # Here, because commands that print their help need not wait for it. Its own word says which build it is.
    import torch

    found = {"python": platform.python_version(), "torch": str(torch.__version__)}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found
