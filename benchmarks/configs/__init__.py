"""YAML configurations of the package."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hessian.support.lazy import lazy_names

if TYPE_CHECKING:
    from benchmarks.configs.files import CONFIG_DIR, config_names, config_path

__all__ = ["CONFIG_DIR", "config_names", "config_path"]

__getattr__, __dir__ = lazy_names(__name__, {"CONFIG_DIR": "files", "config_names": "files", "config_path": "files"})
