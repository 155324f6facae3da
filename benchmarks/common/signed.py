"""JSON files with a checksum over what they say, so that nothing is read back that was not written.

An object keeps its keys and gains one, ``"sha256"``; anything else is wrapped in an object with ``"content"``. The
digest is over values, not bytes: a file may be indented anew.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.common.errors import InputError
from hessian.support.files import CHECKSUM_KEY, sha256_of, write_atomic

CONTENT = "content"
"""Key of what is no object."""


UNSIGNED = "so an earlier version or another program wrote it; to believe it, python -m benchmarks.files.sign"
"""Reason for which a file may have no checksum, and what gives it one."""


class FileError(InputError):
    """A file that cannot be believed; the message names it, what is wrong, and what to do."""


def signed(content: Any) -> dict[str, Any]:
    """Return content as it is written to a file, with its checksum.

    Args:
        content: what JSON can say; no object in it has ``"sha256"`` at the top.
    """
    plain = json.loads(json.dumps(content, allow_nan=False))  # tuples become lists, keys become text
    body = plain if isinstance(plain, dict) and plain.keys() != {CONTENT} else {CONTENT: plain}
    return {**{key: value for key, value in body.items() if key != CHECKSUM_KEY}, CHECKSUM_KEY: _digest(body)}


def write_signed(path: Path, content: Any, *, indent: int | None = 2) -> Path:
    """Write content with its checksum, whole or not at all.

    Args:
        path: file to write.
        content: what JSON can say.
        indent: spaces a level, for people; None puts all on one line.

    Raises:
        OSError: it cannot be written.
        TypeError: the content is more than JSON can say.
        ValueError: it holds NaN or an infinity.
    """
    return write_atomic(path, json.dumps(signed(content), indent=indent, allow_nan=False) + "\n")


def read_signed(path: Path, remedy: str) -> Any:
    """Content of a file that :func:`write_signed` wrote, verified and without its checksum.

    Args:
        path: an existing file.
        remedy: what to do when it cannot be believed, for the message.

    Raises:
        OSError: it cannot be read.
        FileError: it is no JSON, was changed or damaged, or carries no checksum.
    """
    body = parse_json(path.read_bytes(), path, remedy)
    if not isinstance(body, dict) or CHECKSUM_KEY not in body:
        raise FileError(f"{path} carries no checksum, {UNSIGNED}; {remedy}")
    if body.pop(CHECKSUM_KEY) != _digest(body):
        raise FileError(f"{path} does not match its checksum: it was changed or damaged; {remedy}")
    return body[CONTENT] if body.keys() == {CONTENT} else body


def parse_json(data: bytes, path: Path, remedy: str) -> Any:
    """Strict JSON: no NaN or infinity, no key twice.

    Args:
        data: UTF-8 text.
        path: names the file in messages.
        remedy: what to do about it, for the message.

    Raises:
        FileError: it is anything else.
    """
    try:
        return json.loads(data.decode("utf-8"), object_pairs_hook=_once_each, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        why = str(error) if not isinstance(error, RecursionError) else "objects inside each other without end"
        raise FileError(f"{path} is damaged ({why}); {remedy}") from None


def _digest(body: Mapping[str, Any]) -> str | None:
    return sha256_of({key: value for key, value in body.items() if key != CHECKSUM_KEY})


def _once_each(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key stands in it twice")
    return found


def _no_number(word: str) -> Any:
    raise ValueError(f"{word} is no number")
