"""Modules a user names: imported from the folder the command is given in, too."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from benchmarks.common.errors import OptionError

PACKAGES = ("agents", "baselines", "benchmarks", "hessian", "prune_gym")
"""Our top-level packages."""


def import_modules(names: Sequence[str]) -> None:
    """Import what ``--import`` names, which registers tasks and networks.

    Raises:
        OptionError: one cannot be imported.
    """
    for name in names:
        import_module("--import", name)


def import_module(option: str, name: str) -> ModuleType:
    """Import a user's module; the working folder is searched last, so that it hides nothing.

    Args:
        option: what named it, for messages.
        name: dotted.

    Raises:
        OptionError: it cannot be imported.
    """
    here = os.getcwd()
    if here not in sys.path:
        sys.path.append(here)
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise OptionError(f"{option} {name}: {error}{_hidden(name)}") from error


def look_up(option: str, spec: str) -> Any:
    """Return the object that ``package.module:name`` names.

    Raises:
        OptionError: not of that form, or there is no such thing.
    """
    module_name, _, attribute = spec.partition(":")
    if not module_name or not attribute:
        raise OptionError(f"{option} {spec}: write it as package.module:name")
    found: Any = import_module(option, module_name)
    for part in attribute.split("."):
        if not hasattr(found, part):
            public = sorted(name for name in vars(found) if not name.startswith("_"))
            raise OptionError(f"{option} {spec}: {module_name} has no {attribute!r} (it has {', '.join(public[:8])})")
        found = getattr(found, part)
    return found


def _hidden(name: str) -> str:
    """Addition to a message where a user's folder has the name of one of our packages."""
    top = name.partition(".")[0]
    if top in PACKAGES and Path(top).exists():
        return f"; your {top}/ has the name of a package of prune-gym and cannot be imported beside it: rename it"
    return ""


def hidden_package() -> str:
    """A message if a user's folder is imported in place of one of our packages, else nothing."""
    home = Path(__file__).resolve().parents[2]
    for name in PACKAGES:
        spec = importlib.util.find_spec(name)
        places = [] if spec is None else [Path(place).resolve() for place in spec.submodule_search_locations or ()]
        if places and all(place != home / name for place in places):
            return (
                f"the folder {places[0]} hides the package {name!r} of prune-gym (in {home}): rename it, or give the "
                "command from another folder"
            )
    return ""
