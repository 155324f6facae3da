"""Files that are either whole or not there, and whose content is proved when it is read."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import platform
import sys
import uuid
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

CHECKSUM_KEY = "sha256"
"""Metadata entry of a tensor file that holds the digest of everything else in it."""

_FULL = {errno.ENOSPC, errno.EDQUOT}
_NO_FOLDER_SYNC = {errno.EINVAL, errno.ENOTSUP, errno.EBADF, errno.EACCES, errno.EPERM, errno.EISDIR}
"""Errors of file systems that cannot flush a folder; they flush a rename on their own terms."""

_HOST = f"{zlib.crc32(platform.node().encode()):08x}"


def write_atomic(path: str | os.PathLike[str], data: bytes | str) -> Path:
    """Write a file so that readers see the old content or the new, never a part, also after a power failure.

    What writers of the same file left behind when they were killed is swept away.

    Args:
        path: where to write; missing folders are created.
        data: the content; text is encoded as UTF-8.

    Returns:
        The path written.

    Raises:
        OSError: the folder cannot be written, or nothing more fits on the disk (the message says so); the file is as it
            was, and nothing is left behind.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    _sweep_leftovers(path)
    # In the same folder, because a rename is atomic only within one file system; opened plainly rather than
    # with tempfile so that the file gets the permissions the user's umask asks for.
    temporary = path.with_name(f".{path.name}.{_HOST}-{os.getpid()}-{uuid.uuid4().hex}.tmp")
    content = data.encode() if isinstance(data, str) else data
    try:
        with open(temporary, "xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except OSError as error:
        if error.errno not in _FULL:
            raise
        raise OSError(
            error.errno,
            f"No space left for {len(content):,} bytes; the file is as it was before, and what was written earlier is "
            "safe: make room and run the same command again",
            str(path),
        ) from error
    finally:
        with contextlib.suppress(OSError):  # gone, or its folder is
            temporary.unlink(missing_ok=True)
    return path


def _sync_folder(folder: Path) -> None:
    """Make a rename last: until its folder is flushed, a power failure may take it back.

    Raises:
        OSError: flushing failed, on a file system that can flush folders.
    """
    if os.name != "posix":
        return
    try:
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        if error.errno not in _NO_FOLDER_SYNC:
            raise


def _sweep_leftovers(path: Path) -> None:
    """Remove temporary files of this file's writers on this machine that are no more."""
    start = f".{path.name}.{_HOST}-"
    with os.scandir(path.parent) as entries:
        names = [entry.name for entry in entries if entry.name.startswith(start) and entry.name.endswith(".tmp")]
    for name in names:
        writer = name[len(start) :].split("-")[0]
        if writer.isdecimal() and not _is_running(int(writer)):
            with contextlib.suppress(OSError):
                (path.parent / name).unlink(missing_ok=True)


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True  # of another user, or of a system that does not tell
    return True


# ---------------------------------------------------------------- tensors with a checksum


def tensor_bytes(tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str] | None = None) -> bytes:
    """A safetensors file with a checksum over names, shapes, dtypes, bytes and metadata; equal content, equal bytes.

    Args:
        tensors: name to tensor, any shape, dtype and device; stored from the CPU.
        metadata: text to keep with them; the entry ``"sha256"`` is reserved for the checksum.

    Raises:
        ValueError: the metadata uses the reserved entry.
        TypeError: a metadata value is not text.
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
    import safetensors.torch  # here: whoever writes text must not wait for PyTorch

    return sorted_header(safetensors.torch.save(stored, metadata))


def sorted_header(data: bytes) -> bytes:
    """The same file with its header in one order: the library writes metadata in that of a hash table."""
    header, tensors = _split(data)
    text = json.dumps(json.loads(header), sort_keys=True, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + tensors


def _split(data: bytes) -> tuple[bytes, bytes]:
    size = int.from_bytes(data[:8], "little")
    return data[8 : 8 + size], data[8 + size :]


def read_tensor_file(
    path: str | os.PathLike[str], *, foreign: bool = False
) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Tensors (on the CPU) and metadata of a safetensors file, verified; the checksum is no part of the metadata.

    Args:
        path: an existing file.
        foreign: accept a file without a checksum, as other programs write them.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is truncated, is no safetensors file, carries no checksum, or has changed since it was written.
    """
    path = Path(path)
    import safetensors.torch

    data = path.read_bytes()
    try:
        tensors = safetensors.torch.load(data)
        metadata = json.loads(_split(data)[0]).get("__metadata__") or {}
    except (safetensors.SafetensorError, ValueError, KeyError, TypeError, RuntimeError, RecursionError) as error:
        raise ValueError(
            f"{path} ({len(data):,} bytes) is truncated or not a safetensors file ({error}); "
            "delete it and create it again"
        ) from error
    expected = metadata.pop(CHECKSUM_KEY, None)
    if expected is None:
        if foreign:
            return tensors, metadata
        raise ValueError(f"{path} carries no checksum, so it was not written by this project; create it again")
    if sha256_of(tensors, metadata) != expected:
        raise ValueError(f"{path} does not match its checksum: it was changed or damaged; create it again")
    return tensors, metadata


# ---------------------------------------------------------------- digests


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


def _is_tensor(part: Any) -> bool:
    """Return whether a value is a tensor; where PyTorch was never imported there is none."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(part, torch.Tensor)


def _feed(digest: hashlib._Hash, part: Any) -> None:
    if _is_tensor(part):
        import torch

        flat = part.detach().cpu().contiguous().reshape(-1)
        if not len(flat):  # one that came from numpy may have a stride of 0, which has no view as bytes
            flat = torch.empty(0, dtype=part.dtype)
        _feed_bytes(digest, f"tensor {part.dtype} {tuple(part.shape)}", flat.view(torch.uint8).numpy())
    elif isinstance(part, (bytes, bytearray)):
        _feed_bytes(digest, "bytes", part)
    elif part is None or isinstance(part, (str, bool, int, float)):
        _feed_bytes(digest, type(part).__name__, str(part).encode(errors="surrogatepass"))
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
