"""Files that are either whole or not there: atomic writes, checksummed tensors, the cache folder."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hessian.support.files import CHECKSUM_KEY, read_tensor_file, sha256_of, tensor_bytes, write_atomic

if TYPE_CHECKING:
    import torch

__all__ = [
    "CACHE_VARIABLE",
    "CHECKSUM_KEY",
    "NotWritableError",
    "cache_dir",
    "check_writable",
    "load_safetensors",
    "save_safetensors_atomic",
    "sha256_of",
    "write_atomic",
    "write_json_atomic",
]

CACHE_VARIABLE = "PRUNE_GYM_CACHE"
"""Environment variable that overrides the cache folder."""


class NotWritableError(OSError):
    """A folder in which nothing can be written; the message says which setting named it."""


def check_writable(path: Path, key: str = "experiment.save_dir") -> None:
    """Make sure files can be written under ``path``, creating it if need be.

    Args:
        path: folder.
        key: of the configuration that named it, for the message.

    Raises:
        NotWritableError: it is no folder, or nothing can be written there.
    """
    try:
        write_atomic(path / ".writable", b"").unlink()
    except OSError as error:
        raise NotWritableError(
            f"cannot write results to {str(path)!r}: {error.strerror or error}; set {key} to a folder you can write to"
        ) from None


def cache_dir() -> Path:
    """Folder for things computed once: ``$PRUNE_GYM_CACHE``, else ``prune_gym`` in the user's XDG cache.

    The folder is not created here; the atomic writers create it when there is something to put in.
    """
    override = os.environ.get(CACHE_VARIABLE)
    if override:
        return Path(override).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base).expanduser() if base else Path.home() / ".cache") / "prune_gym"


def write_json_atomic(path: str | os.PathLike[str], obj: Any, *, indent: int | None = 2) -> Path:
    """Write ``obj`` as JSON, whole or not at all.

    Args:
        path: file to write.
        obj: what JSON can say.
        indent: spaces a level, for people; None puts all on one line, for files with thousands of numbers.

    Returns:
        The path written.

    Raises:
        TypeError: If ``obj`` holds something JSON cannot say; nothing is written.
        ValueError: If ``obj`` holds NaN or an infinity, which JSON has no word for; nothing is written.
    """
    return write_atomic(path, json.dumps(obj, indent=indent, allow_nan=False) + "\n")


def save_safetensors_atomic(
    path: str | os.PathLike[str],
    tensors: Mapping[str, torch.Tensor],
    metadata: Mapping[str, str] | None = None,
) -> Path:
    """Save tensors with a checksum over names, shapes, dtypes, bytes and metadata; equal content gives equal bytes.

    Args:
        path: File to write, by convention ``*.safetensors``.
        tensors: Name to tensor, any shape, dtype and device; stored from the CPU.
        metadata: Text to keep with them; the entry ``"sha256"`` is reserved for the checksum.

    Returns:
        The path written.

    Raises:
        ValueError: If the metadata uses the reserved entry.
        TypeError: If a metadata value is not text.
    """
    return write_atomic(path, tensor_bytes(tensors, metadata))


def load_safetensors(path: str | os.PathLike[str]) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Load what :func:`save_safetensors_atomic` wrote, verified.

    Returns:
        The tensors (on the CPU) and the metadata without its checksum.

    Raises:
        FileNotFoundError: If there is no such file; the message lists its neighbours.
        ValueError: If the file is truncated, is not a safetensors file, carries no checksum, or has changed
            since it was written.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no tensor file {path}; {_neighbours(path)}")
    return read_tensor_file(path)


def _neighbours(path: Path) -> str:
    if not path.parent.is_dir():
        return f"the folder {path.parent} does not exist"
    names = sorted(entry.name for entry in path.parent.glob(f"*{path.suffix}") if entry.is_file())
    return f"{path.parent} has: {', '.join(names[:10]) or f'no *{path.suffix} file'}"
