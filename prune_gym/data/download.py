"""Files of public data sets: fetched once, checked against their known digest, kept in the cache."""

from __future__ import annotations

import hashlib
import logging
import urllib.error
from dataclasses import dataclass
from pathlib import Path

from prune_gym.support.files import cache_dir

logger = logging.getLogger(__name__)

DOWNLOAD_HINT = "have it fetched with download=True (`--download` of benchmarks.train_dense)"
"""Hint that tells a user how to allow a download."""


@dataclass(frozen=True)
class RemoteFile:
    """A file on a server, and what it must hold.

    Attributes:
        url: Where it is.
        sha256: Digest of its content, 64 hexadecimal digits.
    """

    url: str
    sha256: str

    @property
    def name(self) -> str:
        """Last part of the URL."""
        return self.url.rsplit("/", 1)[-1]


def data_folder(name: str) -> Path:
    """Folder for downloaded files of a data set: ``data/<name>`` in the cache."""
    return cache_dir() / "data" / name


def fetch(file: RemoteFile, folder: Path) -> Path:
    """Download a file unless it is there whole; it appears only once its digest is right.

    Args:
        file: What to fetch.
        folder: Where to put it; made if missing.

    Returns:
        The path of the file.

    Raises:
        OSError: If it cannot be fetched or written.
        ValueError: If the server holds something else.
    """
    from torch.hub import download_url_to_file

    path = folder / file.name
    if path.is_file() and _sha256(path) == file.sha256:
        return path
    folder.mkdir(parents=True, exist_ok=True)
    logger.info("downloading %s to %s", file.url, path)
    try:
        download_url_to_file(file.url, str(path), hash_prefix=file.sha256, progress=False)
    except urllib.error.URLError as error:
        raise OSError(f"cannot download {file.url} ({error.reason}); fetch it by other means into {folder}") from error
    except RuntimeError as error:
        raise ValueError(f"{file.url} is not the file it was ({error}); nothing was kept") from error
    return path


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as content:
        while block := content.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
