"""CIFAR-10 and CIFAR-100 (Krizhevsky, 2009) from their binary version: records of label bytes and 32x32 RGB planes.

The version "for Python" is pickled, and unpickling a file runs whatever code it holds; it is not read.
"""

from __future__ import annotations

import os
import tarfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from prune_gym.data.download import DOWNLOAD_HINT, RemoteFile, data_folder, fetch
from prune_gym.data.splits import DatasetSplits, TensorSplit, carve_splits, check_size

PIXELS = 3 * 32 * 32
"""Bytes of an image: the red plane, then green, then blue, row by row."""

HELD_OUT = 5000
"""Training images never trained on (as in He et al., 2016, section 4.2); the reward split is a part of them."""


@dataclass(frozen=True)
class CifarFormat:
    """File layout of one of the two data sets.

    Attributes:
        name: Of the data set.
        num_classes: Labels run from 0 to one less.
        archive: The binary version as distributed, gzipped tar.
        folder: Of the files inside the archive.
        train_files: File name -> number of records.
        test_files: Likewise.
        label_bytes: Bytes before an image; the last one is the label.
        variable: Environment variable that names the folder of the files or of the archive.
    """

    name: str
    num_classes: int
    archive: RemoteFile
    folder: str
    train_files: Mapping[str, int]
    test_files: Mapping[str, int]
    label_bytes: int
    variable: str


CIFAR10 = CifarFormat(
    name="CIFAR-10",
    num_classes=10,
    archive=RemoteFile(
        "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
        "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
    ),
    folder="cifar-10-batches-bin",
    train_files={f"data_batch_{number}.bin": 10_000 for number in range(1, 6)},
    test_files={"test_batch.bin": 10_000},
    label_bytes=1,
    variable="PRUNE_GYM_CIFAR10",
)

CIFAR100 = CifarFormat(
    name="CIFAR-100",
    num_classes=100,
    archive=RemoteFile(
        "https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz",
        "58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec",
    ),
    folder="cifar-100-binary",
    train_files={"train.bin": 50_000},
    test_files={"test.bin": 10_000},
    label_bytes=2,
    variable="PRUNE_GYM_CIFAR100",
)


def load_cifar_splits(
    cifar: CifarFormat,
    data_dir: str | os.PathLike[str] | None = None,
    reward_size: int = 2000,
    calibration_size: int = 1024,
    seed: int = 0,
    download: bool = False,
    held_out: int = HELD_OUT,
) -> DatasetSplits:
    """CIFAR as float32 ``[N, 3, 32, 32]``, every channel normalised by the statistics of dense-train.

    Of the 50,000 training images 5,000 are held out for the reward split and 45,000 train the dense network; which
    ones depends on the seed only. Test is the official 10,000.

    Args:
        cifar: Which data set.
        data_dir: Folder with the ``.bin`` files, a folder above it, or the archive; by default the folder named by the
            environment variable, then the cache's.
        reward_size: Images of the reward split, in [1, 5000].
        calibration_size: Images of the calibration split, in [1, 45000].
        seed: Decides which training image goes where.
        download: Fetch the archive (about 170 MB) into ``data_dir``, by default into the cache, unless it is there.
        held_out: Training images never trained on.

    Raises:
        FileNotFoundError: If the files are not there; the message says how to get them.
        OSError: If they cannot be downloaded.
        ValueError: If a size is out of range or a file is not what it should be.
    """
    check_size("reward_size", reward_size, held_out)
    if download and missing_cifar(cifar, data_dir):
        fetch(cifar.archive, _folder(cifar, data_dir))
    where = _locate(cifar, data_dir)
    return carve_splits(
        _read_files(cifar, where, cifar.train_files),
        _read_files(cifar, where, cifar.test_files),
        held_out=held_out,
        reward_size=reward_size,
        calibration_size=calibration_size,
        seed=seed,
    )


def missing_cifar(cifar: CifarFormat, data_dir: str | os.PathLike[str] | None = None) -> str:
    """Instructions to get the files that are not there, or nothing if they are."""
    try:
        _locate(cifar, data_dir)
    except FileNotFoundError as error:
        return str(error)
    return ""


def read_records(cifar: CifarFormat, data: bytes, source: str, count: int | None = None) -> TensorSplit:
    """Decode the records of one binary file.

    Args:
        cifar: The format.
        data: The file's bytes.
        source: What to call the file in errors.
        count: Records there must be; None takes as many as there are.

    Returns:
        Float32 images ``[N, 3, 32, 32]`` in [0, 1] and their labels.

    Raises:
        ValueError: If the length or a label does not fit the format.
    """
    length = cifar.label_bytes + PIXELS
    if not data or len(data) % length or count not in (None, len(data) // length):
        expected = f"{count:,} records of" if count is not None else "a multiple of"
        raise ValueError(
            f"{source} holds {len(data):,} bytes, not {expected} {length:,}; it is truncated or not the binary version "
            f"of {cifar.name}, fetch it again"
        )
    records = torch.from_numpy(np.frombuffer(data, dtype=np.uint8).reshape(-1, length).copy())
    labels = records[:, cifar.label_bytes - 1].long()
    if int(labels.max()) >= cifar.num_classes:
        raise ValueError(
            f"{source} holds the label {int(labels.max())}, but {cifar.name} has {cifar.num_classes} classes"
        )
    return TensorSplit(records[:, cifar.label_bytes :].reshape(-1, 3, 32, 32).float() / 255, labels)


def _folder(cifar: CifarFormat, data_dir: str | os.PathLike[str] | None) -> Path:
    given = data_dir or os.environ.get(cifar.variable)
    return Path(given).expanduser() if given else data_folder(cifar.name.lower().replace("-", ""))


def _locate(cifar: CifarFormat, data_dir: str | os.PathLike[str] | None) -> Path:
    """The folder of the binary files, or the archive.

    Raises:
        FileNotFoundError: neither is there, or the folder lacks some files.
    """
    folder = _folder(cifar, data_dir)
    if folder.is_file():
        return folder
    names = [*cifar.train_files, *cifar.test_files]
    for candidate in (folder, folder / cifar.folder):
        present = [name for name in names if (candidate / name).is_file()]
        if len(present) == len(names):
            return candidate
        if present:
            lacking = ", ".join(name for name in names if name not in present)
            raise FileNotFoundError(f"{candidate} lacks {lacking} of {cifar.name}; fetch the archive again")
    if (folder / cifar.archive.name).is_file():
        return folder / cifar.archive.name
    raise FileNotFoundError(_how_to_get(cifar, folder))


def _how_to_get(cifar: CifarFormat, folder: Path) -> str:
    pickled = cifar.folder.replace("-batches-bin", "-batches-py").replace("-binary", "-python")
    note = ""
    if (folder / pickled).is_dir() or folder.name == pickled:
        note = " (what is there is the pickled version, which is not read because unpickling runs code)"
    return (
        f"no {cifar.name} binary files ({cifar.folder}/*.bin or {cifar.archive.name}) in {folder}{note}; get "
        f"{cifar.archive.url} and say data_dir=..., set {cifar.variable} or {DOWNLOAD_HINT}"
    )


def _read_files(cifar: CifarFormat, where: Path, files: Mapping[str, int]) -> TensorSplit:
    read = _from_archive if where.is_file() else _from_folder
    pieces = [read_records(cifar, read(cifar, where, name), f"{where}/{name}", count) for name, count in files.items()]
    return TensorSplit(torch.cat([piece.images for piece in pieces]), torch.cat([piece.labels for piece in pieces]))


def _from_folder(cifar: CifarFormat, folder: Path, name: str) -> bytes:
    return (folder / name).read_bytes()


def _from_archive(cifar: CifarFormat, archive: Path, name: str) -> bytes:
    member = f"{cifar.folder}/{name}"
    try:
        with tarfile.open(archive, "r:*") as tar:
            file = tar.extractfile(member)
            if file is None:
                raise KeyError(member)
            return file.read()
    except KeyError:
        raise ValueError(f"{archive} has no {member}; it is not the binary version of {cifar.name}") from None
    except (tarfile.TarError, EOFError, zlib.error, OSError) as error:
        raise ValueError(f"{archive} is truncated or not a gzipped tar archive ({error}); fetch it again") from error
