"""Fashion-MNIST (Xiao et al., 2017) from its four idx files."""

from __future__ import annotations

import gzip
import math
import os
import zlib
from pathlib import Path

import torch

from prune_gym.datasets import DatasetSplits, TensorSplit, stratified_partition

DATA_VARIABLE = "PRUNE_GYM_FASHION_MNIST"
"""Environment variable that names the folder of the idx files."""

DEBIAN_FOLDER = Path("/usr/share/datasets/fashion-mnist")
"""Where Debian's package ``dataset-fashion-mnist`` puts them."""

HELD_OUT = 2000
"""Training images never trained on; the reward split is a part of them, whatever its size."""


def load_fashion_splits(
    data_dir: str | os.PathLike[str] | None = None,
    reward_size: int = HELD_OUT,
    calibration_size: int = 1024,
    seed: int = 0,
) -> DatasetSplits:
    """Fashion-MNIST as float32 ``[N, 1, 28, 28]``, normalised by the statistics of dense-train.

    Of the 60,000 training images 2,000 are held out for the reward split and 58,000 train the dense network; which
    ones depends on the seed only, so that trained weights serve every choice of sizes. Test is the official 10,000.

    Args:
        data_dir: Folder with the idx files, plain or gzipped; by default ``$PRUNE_GYM_FASHION_MNIST``, then Debian's.
        reward_size: Images of the reward split, in [1, 2000].
        calibration_size: Images of the calibration split, in [1, 58000].
        seed: Decides which training image goes where.

    Raises:
        FileNotFoundError: If the files are not there; the message says how to get them.
        ValueError: If a size is out of range or a file is not what it should be.
    """
    if not 1 <= reward_size <= HELD_OUT:
        raise ValueError(f"reward_size is in [1, {HELD_OUT}]; got {reward_size}")
    folder = Path(data_dir or os.environ.get(DATA_VARIABLE) or DEBIAN_FOLDER).expanduser()
    images, labels = _read_pair(folder, "train")
    num_train = len(labels) - HELD_OUT
    if not 1 <= calibration_size <= num_train:
        raise ValueError(f"calibration_size is in [1, {num_train}]; got {calibration_size}")
    held_out, trained = stratified_partition(labels, (HELD_OUT, num_train), seed)
    mean, std = images[trained].mean(), images[trained].std()
    train = TensorSplit((images[trained] - mean) / std, labels[trained])
    reward = TensorSplit((images[held_out] - mean) / std, labels[held_out]).subset(slice(reward_size))
    test_images, test_labels = _read_pair(folder, "t10k")
    test = TensorSplit((test_images - mean) / std, test_labels)
    return DatasetSplits(train, train.subset(slice(calibration_size)), reward, test)


def _read_pair(folder: Path, prefix: str) -> tuple[torch.Tensor, torch.Tensor]:
    images = read_idx(_find(folder, f"{prefix}-images-idx3-ubyte"))
    labels = read_idx(_find(folder, f"{prefix}-labels-idx1-ubyte"))
    return images.float().unsqueeze(1) / 255, labels.long()


def _find(folder: Path, name: str) -> Path:
    for candidate in (folder / name, folder / f"{name}.gz"):
        if candidate.is_file():
            return candidate
    raise FileNotFoundError(
        f"no {name} or {name}.gz in {folder}; on Debian and Ubuntu `apt-get install dataset-fashion-mnist` puts "
        f"it in {DEBIAN_FOLDER}, elsewhere say data_dir=... or set {DATA_VARIABLE}"
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
