"""Fashion-MNIST (Xiao et al., 2017) from its four idx files."""

from __future__ import annotations

import gzip
import math
import os
import zlib
from pathlib import Path

import torch

from prune_gym.data.download import DOWNLOAD_HINT, RemoteFile, data_folder, fetch
from prune_gym.data.splits import DatasetSplits, TensorSplit, carve_splits, check_size

DATA_VARIABLE = "PRUNE_GYM_FASHION_MNIST"
"""Environment variable that names the folder of the idx files."""

DEBIAN_FOLDER = Path("/usr/share/datasets/fashion-mnist")
"""Folder into which Debian's package ``dataset-fashion-mnist`` puts the files."""

HELD_OUT = 2000
"""Training images never trained on; the reward split is a part of them, whatever its size."""

_SERVER = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com"
FILES = tuple(
    RemoteFile(f"{_SERVER}/{name}.gz", sha256)
    for name, sha256 in {
        "train-images-idx3-ubyte": "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
        "train-labels-idx1-ubyte": "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
        "t10k-images-idx3-ubyte": "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
        "t10k-labels-idx1-ubyte": "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
    }.items()
)
"""The authors' files, as torchvision downloads them."""


def load_fashion_splits(
    data_dir: str | os.PathLike[str] | None = None,
    reward_size: int = HELD_OUT,
    calibration_size: int = 1024,
    seed: int = 0,
    download: bool = False,
) -> DatasetSplits:
    """Fashion-MNIST as float32 ``[N, 1, 28, 28]``, normalised by the statistics of dense-train.

    Of the 60,000 training images 2,000 are held out for the reward split and 58,000 train the dense network; which
    ones depends on the seed only, so that trained weights serve every choice of sizes. Test is the official 10,000.

    Args:
        data_dir: Folder with the idx files, plain or gzipped; by default ``$PRUNE_GYM_FASHION_MNIST``, then Debian's,
            then the cache's.
        reward_size: Images of the reward split, in [1, 2000].
        calibration_size: Images of the calibration split, in [1, 58000].
        seed: Decides which training image goes where.
        download: Fetch the files (31 MB) into ``data_dir``, by default into the cache, unless they are there.

    Raises:
        FileNotFoundError: If the files are not there; the message says how to get them.
        OSError: If they cannot be downloaded.
        ValueError: If a size is out of range or a file is not what it should be.
    """
    check_size("reward_size", reward_size, HELD_OUT)
    folder = _folder(data_dir)
    if download and missing_fashion(folder):
        folder = Path(data_dir).expanduser() if data_dir else data_folder("fashion-mnist")
        _download(folder)
    return carve_splits(
        _read_pair(folder, "train"),
        _read_pair(folder, "t10k"),
        held_out=HELD_OUT,
        reward_size=reward_size,
        calibration_size=calibration_size,
        seed=seed,
    )


def missing_fashion(data_dir: str | os.PathLike[str] | None = None) -> str:
    """Instructions to get the files that are not there, or nothing if all are."""
    folder = _folder(data_dir)
    for file in FILES:
        try:
            _find(folder, file.name.removesuffix(".gz"))
        except FileNotFoundError as error:
            return str(error)
    return ""


def _folder(data_dir: str | os.PathLike[str] | None) -> Path:
    """The folder asked for, else the first default that is there."""
    given = data_dir or os.environ.get(DATA_VARIABLE)
    if given:
        return Path(given).expanduser()
    downloaded = data_folder("fashion-mnist")
    return DEBIAN_FOLDER if DEBIAN_FOLDER.is_dir() or not downloaded.is_dir() else downloaded


def _download(folder: Path) -> None:
    for file in FILES:
        fetch(file, folder)


def _read_pair(folder: Path, prefix: str) -> TensorSplit:
    images = read_idx(_find(folder, f"{prefix}-images-idx3-ubyte"))
    labels = read_idx(_find(folder, f"{prefix}-labels-idx1-ubyte"))
    if images.ndim != 3 or images.shape[1:] != (28, 28) or labels.ndim != 1 or len(images) != len(labels):
        raise ValueError(
            f"the {prefix} files in {folder} hold images {list(images.shape)} and labels {list(labels.shape)}, not "
            "[N, 28, 28] and [N]"
        )
    return TensorSplit(images.float().unsqueeze(1) / 255, labels.long())


def _find(folder: Path, name: str) -> Path:
    for candidate in (folder / name, folder / f"{name}.gz"):
        if candidate.is_file():
            return candidate
    raise FileNotFoundError(
        f"no {name} or {name}.gz in {folder}; on Debian and Ubuntu `apt-get install dataset-fashion-mnist` puts "
        f"it in {DEBIAN_FOLDER}, elsewhere say data_dir=..., set {DATA_VARIABLE} or {DOWNLOAD_HINT}"
    )


def read_idx(path: str | os.PathLike[str]) -> torch.Tensor:
    """Read an idx file of unsigned bytes, plain or gzipped.

    The format: two zero bytes, the type (8: unsigned byte), the number of dimensions, every dimension as a big-endian
    32-bit integer, then the values.

    Returns:
        A uint8 tensor of the file's shape.

    Raises:
        ValueError: If the file is not an idx file of bytes, or has the wrong length.
    """
    path = Path(path)
    try:
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ValueError(f"{path} is truncated or not gzipped: {error}") from error
    if len(data) < 4 or data[:3] != b"\x00\x00\x08":
        raise ValueError(f"{path} is not an idx file of unsigned bytes")
    start = 4 + 4 * data[3]
    shape = [int.from_bytes(data[offset : offset + 4], "big") for offset in range(4, start, 4)]
    values = bytearray(data[start:])
    if not values or len(values) != math.prod(shape):
        raise ValueError(f"{path} announces values of shape {shape}, but holds {len(values)}; fetch it again")
    return torch.frombuffer(values, dtype=torch.uint8).reshape(shape)
