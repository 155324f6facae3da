"""Image files in class folders: found once each whatever links say, decoded with care, compared by content."""

from __future__ import annotations

import hashlib
import logging
import os
import stat
import struct
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Dataset

logger = logging.getLogger(__name__)

COMPARED_FILES = 100_000
"""In larger folders duplicates are looked for among the reward images only; reading the start of a million files takes
minutes."""

ENDINGS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
"""Of image files, in any case."""

_HEAD = 4096
_KINDS = {stat.S_IFIFO: "a named pipe", stat.S_IFSOCK: "a socket", stat.S_IFCHR: "a device", stat.S_IFBLK: "a device"}


@dataclass(frozen=True, eq=False)
class FolderImages(Dataset[tuple[torch.Tensor, int]]):
    """Images of class folders, decoded when asked for; labels number the folders by name, as torchvision has it.

    Attributes:
        samples: Path and label of every image, by class and name.
        classes: Names of the class folders, in the order of their labels.
        transform: From a PIL image to a float tensor [C, H, W].
    """

    samples: list[tuple[str, int]]
    classes: list[str]
    transform: Callable[[Any], torch.Tensor]

    @classmethod
    def open(cls, folder: Path, transform: Callable[[Any], torch.Tensor]) -> FolderImages:
        """Find the images of ``<folder>/<class>/``.

        Links are followed, each folder and each file once: a link to a folder above it would show the same images again
        under other names, and some of them in another split.

        Raises:
            FileNotFoundError: There are no class folders, or one holds no images.
            ValueError: Something with an image's ending is no file, or a link to nothing.
        """
        with os.scandir(folder) as entries:
            classes = sorted(entry.name for entry in entries if entry.is_dir())
        samples: list[tuple[str, int]] = []
        seen: set[str] = set()
        repeated: list[str] = []
        for label, name in enumerate(classes):
            own = list(_walk(os.path.join(folder, name), seen, repeated))
            if not own:
                raise FileNotFoundError(_nothing_in(folder, f"class folder {_shown(name)!r} is empty"))
            samples += [(path, label) for path in own]
        if not classes:
            raise FileNotFoundError(_nothing_in(folder, "there are no class folders"))
        if repeated:
            logger.warning(
                "%d links below %s lead to images or folders that were met before and are left out (%s, ...)",
                *(len(repeated), _shown(folder), _shown(repeated[0])),
            )
        return cls(samples, classes, transform)

    @property
    def targets(self) -> list[int]:
        """Label of every image."""
        return [label for _, label in self.samples]

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        path, label = self.samples[index]
        return self.transform(read_image(path)), label


def _nothing_in(folder: Path, why: str) -> str:
    shown = _shown(folder)
    return f"{shown} has no images in class folders ({why}; {', '.join(ENDINGS)}); expected {shown}/<class>/<image>"


def _walk(folder: str, seen: set[str], repeated: list[str]) -> Iterator[str]:
    """Images below a folder, by name; folders and files met before, under whatever name, are passed over."""
    real = os.path.realpath(folder)
    if real in seen:
        repeated.append(folder)
        return
    seen.add(real)
    with os.scandir(folder) as entries:
        inside = sorted(entries, key=lambda entry: entry.name)
    for entry in inside:
        if not entry.is_dir() and entry.name.lower().endswith(ENDINGS):
            _regular(entry.path)
            file = os.path.realpath(entry.path) if entry.is_symlink() else os.path.join(real, entry.name)
            if file in seen:
                repeated.append(entry.path)
            else:
                seen.add(file)
                yield entry.path
    for entry in inside:
        if entry.is_dir():
            yield from _walk(entry.path, seen, repeated)


def _regular(path: str) -> None:
    """Refuse by name what is no file.

    Raises:
        ValueError: no regular file, or it cannot be read.
    """
    try:
        status = os.stat(path)
    except OSError as error:
        raise ValueError(f"{_shown(path)} cannot be read ({error.strerror}); delete or replace it") from None
    if not stat.S_ISREG(status.st_mode):
        kind = _KINDS.get(stat.S_IFMT(status.st_mode), "a folder")
        raise ValueError(f"{_shown(path)} is {kind}, not an image file; delete it or move it away")


def read_image(path: str) -> Any:
    """Decode a file to an RGB PIL image.

    Raises:
        ValueError: it is no file, truncated, not an image, or claims more pixels than ``PIL.Image.MAX_IMAGE_PIXELS``.
    """  # noqa: DOC501 (Pillow's own error for such images is caught here)
    from PIL import Image

    _regular(path)
    try:
        with Image.open(path) as image:
            most = Image.MAX_IMAGE_PIXELS
            if most is not None and image.width * image.height > most:
                raise Image.DecompressionBombError(
                    f"{image.width} x {image.height} pixels, at most {most:,} are decoded"
                )
            return image.convert("RGB")
    except Image.DecompressionBombError as error:
        raise ValueError(
            f"{_shown(path)} would be decoded to too large an image ({error}); shrink or delete it"
        ) from None
    except _UNDECODABLE as error:
        raise ValueError(f"{_shown(path)} is truncated or not an image ({error}); delete or replace it") from error


_UNDECODABLE = (
    *(OSError, SyntaxError, ValueError, TypeError, LookupError, EOFError, AttributeError, ArithmeticError),
    *(struct.error, zlib.error, NotImplementedError, MemoryError, RuntimeError),
)
"""Errors of Pillow's decoders on damaged files, depending on the format."""


def warn_of_shared_images(parts: Mapping[str, Sequence[str]]) -> list[tuple[str, str]]:
    """Log a warning where files of different splits have the same content.

    Args:
        parts: name of a split -> its files. In folders of more than :data:`COMPARED_FILES` only the smallest split is
            compared with the others.

    Returns:
        Pairs of files of equal content in different splits.
    """
    smallest = min(parts, key=lambda name: len(parts[name]))
    everything = sum(map(len, parts.values())) <= COMPARED_FILES
    of_size: dict[int, list[tuple[str, str]]] = {}
    for name, paths in parts.items():
        for path in paths:
            of_size.setdefault(os.stat(path).st_size, []).append((name, path))
    pairs: list[tuple[str, str]] = []
    for members in of_size.values():
        names = {name for name, _ in members}
        if len(names) > 1 and (everything or smallest in names):
            pairs += _equal(members)
    if pairs:
        logger.warning(
            "%d images lie in two splits (%s has the content of %s, ...): what is measured on one of them says less "
            "than it seems; delete one of each pair",
            *(len(pairs), _shown(pairs[0][0]), _shown(pairs[0][1])),
        )
    return pairs


def _equal(members: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """Pairs of equal content among files of one size; whole files are read only where their starts agree."""
    groups = [list(members)]
    for length in (_HEAD, -1):
        finer: dict[bytes, list[tuple[str, str]]] = {}
        for number, group in enumerate(groups):
            for name, path in group:
                with open(path, "rb") as file:
                    key = number.to_bytes(8, "little") + hashlib.sha256(file.read(length)).digest()
                finer.setdefault(key, []).append((name, path))
        groups = [group for group in finer.values() if len({name for name, _ in group}) > 1]
    return [(path, group[0][1]) for group in groups for name, path in group[1:] if name != group[0][0]]


def _shown(path: str | Path) -> str:
    """A path as text, also where its bytes are not UTF-8."""
    return os.fsencode(path).decode(errors="backslashreplace")
