"""Results computed once and kept on disk: checksummed, replaced when damaged, safe to fill from several processes."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import TypeVar

import torch

from prune_gym.support.files import load_safetensors, save_safetensors_atomic, sha256_of

logger = logging.getLogger(__name__)

Tensors = Mapping[str, torch.Tensor]
Metadata = Mapping[str, str]
T = TypeVar("T")


def remember(
    path: Path, compute: Callable[[], tuple[Tensors, Metadata]], restore: Callable[[Tensors, Metadata], T]
) -> T:
    """Restore a result from its file, or compute it and keep it.

    A file that is damaged or does not fit is computed again and replaced, with a logged warning. Two processes that
    compute the same result at once both succeed: files are written whole, and the last one stays. A folder that
    cannot be written costs the file, not the result.

    Args:
        path: where the result is kept.
        compute: makes the result as tensors and text.
        restore: turns tensors and text into the object; raises ValueError if they do not fit.

    Returns:
        What ``restore`` returns.
    """
    if path.is_file():
        try:
            return restore(*load_safetensors(path))
        except (ValueError, KeyError) as error:
            logger.warning("the cached %s is unusable and is computed again: %s", path.name, error)
    tensors, metadata = compute()
    try:
        save_safetensors_atomic(path, tensors, metadata)
    except OSError as error:
        logger.warning("%s cannot be kept (%s); it will be computed again next time", path, error)
    return restore(tensors, metadata)


def cache_path(folder: Path, task_name: str, kind: str, key: str) -> Path:
    """File of one result: readable in front, unique behind."""
    readable = re.sub(r"[^A-Za-z0-9._-]+", "_", task_name)
    return folder / f"{readable}-{kind}-{key[:20]}.safetensors"


NO_NUMBERS = frozenset(f"support/{name}.py" for name in ("lazy", "names", "files", "progress"))
"""Files of a package that no number depends on; batches, layouts, modes and processes do change numbers."""


def code_digest(*modules: ModuleType) -> str:
    """Digest of source code, so that a changed computation never meets an old result.

    Args:
        *modules: modules; a package counts with all modules in it and in its rooms, but for :data:`NO_NUMBERS`.

    Raises:
        ValueError: a module without a source file.
    """
    names: list[str] = []
    contents: list[bytes] = []
    for module in modules:
        if module.__file__ is None:
            raise ValueError(f"module {module.__name__} has no source file")
        source = Path(module.__file__)
        package = source.name == "__init__.py"
        for file in sorted(source.parent.rglob("*.py")) if package else [source]:
            name = file.relative_to(source.parent).as_posix()
            if not (package and name in NO_NUMBERS):
                names.append(name)
                contents.append(file.read_bytes())
    return sha256_of(names, contents)
