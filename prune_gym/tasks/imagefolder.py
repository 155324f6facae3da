"""Images in folders, one folder a class: ``<data_dir>/train/<class>/<image>`` and ``<data_dir>/val/<class>/<image>``.

Training and test images stay on disk and are decoded when a batch asks for them; calibration and reward images are read
into memory once. Labels number the classes in the alphabetical order of their folders' names, as torchvision does.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from prune_gym.data.loader_split import DatasetSplit
from prune_gym.data.splits import TensorSplit, check_size, stratified_partition
from prune_gym.tasks.image_files import FolderImages, warn_of_shared_images
from prune_gym.tasks.task import CALIBRATION_SIZE, PruningTask

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
"""Channel statistics that torchvision's networks expect their input to be normalised by."""

REWARD_SIZE = 1000
"""Images of the reward split, unless told otherwise."""

HELD_OUT_SHARE = 10
"""One training image in so many is held out of dense-train."""

HELD_OUT_MOST = 10_000
"""But no more than this."""

RESIZE_MARGIN = 8 / 7
"""Shorter side of an image before its middle is cropped, relative to the crop (256 for 224)."""

Transform = Callable[[Any], torch.Tensor]


@dataclass(frozen=True, eq=False)
class FolderSplits:
    """The four splits of a folder of images.

    Attributes:
        train: Dense-train; on disk.
        calibration: A part of dense-train, in memory.
        reward: Training images held out of dense-train, in memory.
        test: The images of ``val``, on disk; None if there is no such folder.
        classes: Names of the classes, in the order of their labels.
    """

    train: DatasetSplit
    calibration: TensorSplit
    reward: TensorSplit
    test: DatasetSplit | None
    classes: tuple[str, ...]


def imagefolder_splits(
    data_dir: str | os.PathLike[str],
    *,
    image_size: int = 224,
    transform: Transform | None = None,
    reward_size: int | None = None,
    calibration_size: int = CALIBRATION_SIZE,
    seed: int = 0,
    workers: int = 0,
) -> FolderSplits:
    """Carve the four splits out of a folder of images.

    One training image in ten, at most 10,000, is held out of dense-train; the reward split is a part of them. Which
    ones depends on the files and the seed only. Train your network on ``train`` and the reward images are new to it.
    Links are followed, each once; images of equal content in two splits are a logged warning.

    Args:
        data_dir: Folder with ``train`` and, for the final report, ``val``.
        image_size: Height and width that images are resized and cropped to.
        transform: From a PIL image to a float tensor ``[C, H, W]``, in place of resizing, cropping and normalising.
        reward_size: Images of the reward split; None means 1,000 or as many as are held out.
        calibration_size: Images of the calibration split, or as many as there are.
        seed: Decides which training image goes where.
        workers: Processes that decode ahead while training and testing.

    Raises:
        FileNotFoundError: If a folder is missing or holds no images.
        ValueError: If an image cannot be decoded or is no file, images differ in shape, a size is out of range, or
            ``val`` has other classes than ``train``.
    """
    transform = transform or standard_transform(image_size)
    root = Path(data_dir).expanduser()
    images = _open_folder(root, "train", transform)
    held_out = min(len(images) // HELD_OUT_SHARE, HELD_OUT_MOST)
    if held_out < 1:
        raise ValueError(
            f"{root / 'train'} holds {len(images)} images; at least {HELD_OUT_SHARE} are needed to hold one out"
        )
    reward_size = min(REWARD_SIZE, held_out) if reward_size is None else reward_size
    check_size("reward_size", reward_size, held_out)
    check_size("calibration_size", calibration_size, max(calibration_size, 1))
    rest, trained = stratified_partition(torch.tensor(images.targets), (held_out, len(images) - held_out), seed)
    whole = DatasetSplit(images, workers)
    train = whole.subset(trained)
    test = _open_test(root, transform, workers, images.classes)
    _warn_of_shared_images(images, trained, rest[:reward_size], test)
    return FolderSplits(
        train=train,
        calibration=train.subset(slice(calibration_size)).read(),
        reward=whole.subset(rest[:reward_size]).read(),
        test=test,
        classes=tuple(images.classes),
    )


def imagefolder_task(
    name: str,
    data_dir: str | os.PathLike[str],
    model: nn.Module,
    *,
    image_size: int = 224,
    transform: Transform | None = None,
    reward_size: int | None = None,
    calibration_size: int = CALIBRATION_SIZE,
    seed: int = 0,
    workers: int = 0,
    **fields: Any,
) -> PruningTask:
    """A task of a user's own trained network on a folder of images; see :func:`imagefolder_splits` for the splits.

    Args:
        name: Names the task.
        data_dir: Folder with ``train`` and ``val``.
        model: The dense, trained network; its outputs stand for the classes in the order of their folders' names.
        image_size: Height and width that images are resized and cropped to.
        transform: From a PIL image to a float tensor ``[C, H, W]``, in place of resizing, cropping and normalising.
        reward_size: Images of the reward split; None means 1,000 or as many as are held out.
        calibration_size: Images of the calibration split.
        seed: Decides which training image goes where.
        workers: Processes that decode ahead while training and testing.
        **fields: Further fields of :class:`~prune_gym.tasks.task.PruningTask`.

    Raises:
        FileNotFoundError: If a folder is missing or holds no images.
        TypeError: If ``model`` is not a network.
        ValueError: If the images cannot be used, or the network has another number of outputs than there are classes.
    """
    splits = imagefolder_splits(
        data_dir,
        image_size=image_size,
        transform=transform,
        reward_size=reward_size,
        calibration_size=calibration_size,
        seed=seed,
        workers=workers,
    )
    return task_of_folder(name, model, splits, data_dir, **fields)


def task_of_folder(
    name: str, model: nn.Module, splits: FolderSplits, data_dir: str | os.PathLike[str], **fields: Any
) -> PruningTask:
    """Put a network and the splits of a folder together.

    Raises:
        ValueError: If the network has another number of outputs than there are classes.
    """
    task = PruningTask(
        name=name,
        model=model,
        example_input=torch.zeros_like(splits.calibration.images[:1]),
        calibration=splits.calibration,
        reward=splits.reward,
        test=splits.test,
        train=splits.train,
        **fields,
    )
    if task.num_classes != len(splits.classes):
        raise ValueError(
            f"{data_dir} has {len(splits.classes)} class folders ({', '.join(splits.classes[:3])}, ...), but the "
            f"network of task {name!r} has {task.num_classes} outputs"
        )
    return task


def standard_transform(image_size: int = 224, resize_size: int | None = None) -> Transform:
    """From a PIL image to a float tensor ``[3, size, size]``: resize, crop the middle, normalise as torchvision does.

    Args:
        image_size: Height and width of the crop.
        resize_size: Shorter side before the crop; None means 8/7 of the crop (256 for 224).

    Raises:
        ValueError: If ``image_size`` is below 1.
    """
    from torchvision import transforms

    if image_size < 1:
        raise ValueError(f"image_size is at least 1; got {image_size}")
    return transforms.Compose(
        [
            transforms.Resize(resize_size or round(image_size * RESIZE_MARGIN)),
            transforms.CenterCrop(image_size),
            transforms.ToTensor(),
            transforms.Normalize(IMAGENET_MEAN, IMAGENET_STD),
        ]
    )


def _open_folder(root: Path, part: str, transform: Transform) -> FolderImages:
    folder = root / part
    if not folder.is_dir():
        raise FileNotFoundError(
            f"no folder {folder}; images are expected in {root}/train/<class>/ and {root}/val/<class>/"
        )
    return FolderImages.open(folder, transform)


def _warn_of_shared_images(images: Any, trained: torch.Tensor, reward: torch.Tensor, test: DatasetSplit | None) -> None:
    paths = [path for path, _ in images.samples]
    parts = {
        "train": [paths[index] for index in trained.tolist()],
        "reward": [paths[index] for index in reward.tolist()],
    }
    if test is not None:
        parts["test"] = [path for path, _ in test.dataset.samples]  # type: ignore[attr-defined]
    warn_of_shared_images(parts)


def _open_test(root: Path, transform: Transform, workers: int, classes: list[str]) -> DatasetSplit | None:
    if not (root / "val").is_dir():
        return None
    images = _open_folder(root, "val", transform)
    if images.classes != classes:
        differing = sorted(set(images.classes) ^ set(classes))
        raise ValueError(f"{root / 'train'} and {root / 'val'} differ in classes: {', '.join(differing[:5])}")
    return DatasetSplit(images, workers)
