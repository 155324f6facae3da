"""Files that are either whole or not there: atomic writes, checksummed tensors, the cache folder."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch

from hessian.support.files import write_atomic

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

CHECKSUM_KEY = "sha256"
"""Metadata entry of a tensor file that holds the digest of everything else in it."""

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
    """Save tensors with a checksum over their names, shapes, dtypes, bytes and the metadata.

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
    metadata = dict(metadata or {})
    if CHECKSUM_KEY in metadata:
        raise ValueError(f"metadata entry {CHECKSUM_KEY!r} is reserved for the checksum; rename yours")
    for key, value in metadata.items():
        if not isinstance(value, str):
            raise TypeError(f"metadata values are text; {key!r} is {type(value).__name__} (use json.dumps)")
    # Cloned, because the format refuses tensors that share storage (tied weights, views of one buffer).
    stored = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    metadata[CHECKSUM_KEY] = sha256_of(stored, metadata)
    return write_atomic(path, safetensors.torch.save(stored, metadata))


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
    data = path.read_bytes()
    try:
        tensors = safetensors.torch.load(data)
    except safetensors.SafetensorError as error:
        raise ValueError(
            f"{path} ({len(data):,} bytes) is truncated or not a safetensors file ({error}); "
            "delete it and create it again"
        ) from error
    header_size = int.from_bytes(data[:8], "little")
    metadata = json.loads(data[8 : 8 + header_size]).get("__metadata__") or {}
    expected = metadata.pop(CHECKSUM_KEY, None)
    if expected is None:
        raise ValueError(f"{path} carries no checksum, so it was not written by this project")
    if sha256_of(tensors, metadata) != expected:
        raise ValueError(f"{path} does not match its checksum: it was changed or damaged; create it again")
    return tensors, metadata


def _neighbours(path: Path) -> str:
    if not path.parent.is_dir():
        return f"the folder {path.parent} does not exist"
    names = sorted(entry.name for entry in path.parent.glob(f"*{path.suffix}") if entry.is_file())
    return f"{path.parent} has: {', '.join(names[:10]) or f'no *{path.suffix} file'}"


def sha256_of(*parts: Any) -> str:
    """Hex digest of values, for checksums and cache keys.

    Tensors count by shape, dtype and bytes; mappings regardless of the order of their keys; every part by its
    type and length too, so that ``("ab", "c")`` and ``("a", "bc")`` differ.

    Args:
        *parts: Tensors, bytes, text, numbers, booleans, None, and mappings (with text keys) and sequences of
            those.

    Returns:
        64 hexadecimal digits.

    Raises:
        TypeError: If a part is of another type.
    """
    digest = hashlib.sha256()
    for part in parts:
        _feed(digest, part)
    return digest.hexdigest()


def _feed(digest: hashlib._Hash, part: Any) -> None:
    if isinstance(part, torch.Tensor):
        flat = part.detach().cpu().contiguous().reshape(-1)
        if not len(flat):  # one that came from numpy may have a stride of 0, which has no view as bytes
            flat = torch.empty(0, dtype=part.dtype)
        _feed_bytes(digest, f"tensor {part.dtype} {tuple(part.shape)}", flat.view(torch.uint8).numpy())
    elif isinstance(part, (bytes, bytearray)):
        _feed_bytes(digest, "bytes", part)
    elif part is None or isinstance(part, (str, bool, int, float)):
        _feed_bytes(digest, type(part).__name__, str(part).encode())
    elif isinstance(part, Mapping):
        _feed_bytes(digest, f"mapping {len(part)}", b"")
        for key in sorted(part):
            _feed(digest, key)
            _feed(digest, part[key])
    elif isinstance(part, Sequence):
        _feed_bytes(digest, f"sequence {len(part)}", b"")
        for item in part:
            _feed(digest, item)
    else:
        raise TypeError(f"cannot hash a {type(part).__name__}; convert it to text, numbers or tensors first")


def _feed_bytes(digest: hashlib._Hash, kind: str, data: Any) -> None:
    view = memoryview(data)
    digest.update(f"{kind}:{view.nbytes}:".encode())
    digest.update(view)
