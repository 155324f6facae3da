"""Images of the family: scikit-learn's digits at 8x8, and Fashion-MNIST resized to the extent a network wants."""

from __future__ import annotations

import os
from functools import lru_cache

import torch
from torch.nn.functional import interpolate

from prune_gym.data.fashion import load_fashion_splits
from prune_gym.data.splits import DatasetSplits, TensorSplit, carve_splits, stratified_partition

CALIBRATION = 128
"""Images of the calibration split."""

DIGITS_SIZES = (700, 600, 497)
"""Digits that train, reward and test."""

FASHION_SIZES = (8_000, 1_000, 1_000)
"""Images of Fashion-MNIST that train, reward and test."""


def family_images(dataset: str, size: int, data_dir: str | os.PathLike[str] | None = None) -> DatasetSplits:
    """Splits of a data set, float32 [N, 1, size, size], normalised by the statistics of dense-train.

    Args:
        dataset: ``"digits"`` (8x8 only) or ``"fashion"``.
        size: height and width.
        data_dir: folder of Fashion-MNIST, see :func:`prune_gym.data.fashion.load_fashion_splits`.

    Raises:
        FileNotFoundError: Fashion-MNIST is not there; the message says how to get it.
    """
    return _digits() if dataset == "digits" else _fashion(size, None if data_dir is None else os.fspath(data_dir))


def _digits() -> DatasetSplits:
    from sklearn.datasets import load_digits  # here, because importing scikit-learn takes a second

    digits = load_digits()
    images = torch.tensor(digits.images, dtype=torch.float32).unsqueeze(1)
    whole = TensorSplit(images, torch.tensor(digits.target, dtype=torch.long))
    train, reward, test = DIGITS_SIZES
    kept, tested = stratified_partition(whole.labels, (train + reward, test), seed=0)
    return carve_splits(
        whole.subset(kept),
        whole.subset(tested),
        held_out=reward,
        reward_size=reward,
        calibration_size=CALIBRATION,
        seed=0,
    )


@lru_cache(maxsize=1)
def _fashion(size: int, data_dir: str | None) -> DatasetSplits:
    """The first images of every split of the task at 28x28, averaged over areas."""
    train, reward, test = FASHION_SIZES
    whole = load_fashion_splits(data_dir, reward_size=reward, calibration_size=CALIBRATION)
    parts = [whole.train.subset(slice(train)), whole.reward, whole.test.subset(slice(test))]
    small = [TensorSplit(interpolate(part.images, size=(size, size), mode="area"), part.labels) for part in parts]
    mean, std = small[0].images.mean(), small[0].images.std()
    trained, rewarded, tested = (TensorSplit((part.images - mean) / std, part.labels) for part in small)
    return DatasetSplits(trained, trained.subset(slice(CALIBRATION)), rewarded, tested)
