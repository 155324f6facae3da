"""ImageNet (Russakovsky et al., 2015) with torchvision's pretrained networks: tasks ``imagenet-<network>``.

The images come from the user's own copy, a folder for each class named by its WordNet id (``n01440764``) under
``train`` and ``val``. The networks' outputs stand for these ids in alphabetical order.
"""

from __future__ import annotations

import os
import pickle
import re
import urllib.error
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from prune_gym.tasks.imagefolder import RESIZE_MARGIN, imagefolder_splits, task_of_folder
from prune_gym.tasks.task import CALIBRATION_SIZE, PruningTask, TaskSize, TaskStatus

DATA_VARIABLE = "PRUNE_GYM_IMAGENET"
"""Environment variable that names the folder with ``train`` and ``val``."""

WORDNET_ID = re.compile(r"n\d{8}")
NUM_CLASSES = 1000
INPUT_SHAPE = (3, 224, 224)


@dataclass(frozen=True)
class ImageNetTask:
    """A network of torchvision's, trained on ImageNet.

    Attributes:
        network: Its name in torchvision.
        default_target: FLOPs reduction asked for when nobody says.
        size: Of the dense network.
        accuracy: Top-1 on the validation images as torchvision states it for :attr:`weights`, a fraction.
        weights: Which of torchvision's weights.
    """

    network: str
    default_target: float
    size: TaskSize
    accuracy: float
    weights: str = "IMAGENET1K_V1"

    @property
    def name(self) -> str:
        """Name in the registry."""
        return f"imagenet-{self.network}"

    @property
    def description(self) -> str:
        """One line for listings."""
        return f"torchvision's {self.network} on ImageNet at 224x224; needs ImageNet on disk"

    def structure(self) -> tuple[nn.Module, torch.Tensor]:
        """The untrained network and an input ``[1, 3, 224, 224]`` to trace it with; reads no data."""
        from torchvision.models import get_model

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = get_model(self.network, weights=None)
        return model.eval(), torch.zeros(1, *INPUT_SHAPE)

    def build(
        self,
        *,
        data_dir: str | os.PathLike[str] | None = None,
        weights: str | None = "",
        image_size: int | None = None,
        reward_size: int | None = None,
        calibration_size: int = CALIBRATION_SIZE,
        seed: int = 0,
        workers: int | None = None,
    ) -> PruningTask:
        """The task with its data and pretrained weights, on the CPU.

        The networks were trained on all of ImageNet's training images, those of the reward split included: its
        accuracies are optimistic, and a search on it may overfit in ways that a split of unseen images would show.

        Args:
            data_dir: Folder with ``train`` and ``val``; by default ``$PRUNE_GYM_IMAGENET``.
            weights: Name of torchvision's weights, for example ``"IMAGENET1K_V2"``; by default :attr:`weights`. None
                leaves the network untrained.
            image_size: Height and width that images are resized and cropped to; None means what the weights were
                trained for (224 for all of :data:`IMAGENET_TASKS`).
            reward_size: Images of the reward split; None means 1,000.
            calibration_size: Images of the calibration split.
            seed: Decides which training image goes where.
            workers: Processes that decode ahead while training and testing; None means one a core, at most 8.

        Raises:
            FileNotFoundError: If the data is missing; the message says what is expected where.
            OSError: If the weights cannot be downloaded.
            ValueError: If the folder does not hold ImageNet's classes, there are no such weights, or a size is out of
                range.
        """
        root = _imagenet_folder(data_dir)
        chosen = self._chosen_weights(weights)
        splits = imagefolder_splits(
            root,
            image_size=INPUT_SHAPE[-1] if image_size is None else image_size,
            transform=_transforms(chosen, image_size),
            reward_size=reward_size,
            calibration_size=calibration_size,
            seed=seed,
            workers=min(os.cpu_count() or 1, 8) if workers is None else workers,
        )
        model, _ = self.structure()
        if chosen is not None:
            _load_pretrained(model, chosen)
        return task_of_folder(self.name, model, splits, root, default_target=self.default_target)

    def status(self) -> TaskStatus:
        """Status of data and weights: at hand, or how to get them."""
        lacking = missing_imagenet(_data_dir(None))
        return TaskStatus(
            dense_accuracy=self.accuracy,
            weights="torchvision's",
            data="missing" if lacking else "found",
            to_do=(lacking,) if lacking else (),
        )

    def _chosen_weights(self, name: str | None) -> Any:
        from torchvision.models import get_model_weights

        if name is None:
            return None
        known = get_model_weights(self.network)
        try:
            return known[name or self.weights]
        except KeyError:
            names = ", ".join(known.__members__)
            raise ValueError(f"torchvision has no weights {name!r} of {self.network} (there are: {names})") from None


def _transforms(chosen: Any, image_size: int | None) -> Any:
    """The preprocessing that belongs to weights, at another size with the usual margin; None for no weights.

    Raises:
        ValueError: an image size below 1.
    """
    if chosen is None or image_size is None:
        return None if chosen is None else chosen.transforms()
    if image_size < 1:
        raise ValueError(f"image_size is at least 1; got {image_size}")
    return chosen.transforms(crop_size=image_size, resize_size=round(image_size * RESIZE_MARGIN))


def _load_pretrained(model: nn.Module, chosen: Any) -> None:
    """Fill in torchvision's weights, from its cache or its server; no code of the file is run.

    Raises:
        OSError: the download fails.
        ValueError: the file is damaged.
    """
    try:
        model.load_state_dict(chosen.get_state_dict(progress=False, check_hash=True, weights_only=True))
    except urllib.error.URLError as error:
        folder = Path(torch.hub.get_dir()) / "checkpoints"
        raise OSError(
            f"cannot download {chosen.url} ({error.reason}); fetch it by other means into {folder}"
        ) from error
    except (RuntimeError, EOFError, pickle.UnpicklingError) as error:
        name = chosen.url.rsplit("/", 1)[-1]
        raise ValueError(
            f"{Path(torch.hub.get_dir()) / 'checkpoints' / name} is damaged; delete it ({error})"
        ) from error


def missing_imagenet(root: Path | None) -> str:
    """Instructions to get the missing files, or nothing if they are there."""
    expected = (
        "get ImageNet (ILSVRC 2012) from image-net.org, with a folder for each class under train and val, and say "
        f"data_dir=... or set {DATA_VARIABLE}"
    )
    if root is None:
        return expected
    lacking = [part for part in ("train", "val") if not (root / part).is_dir()]
    return f"{root} has no folder {' and no '.join(lacking)}; {expected}" if lacking else ""


def _data_dir(given: str | os.PathLike[str] | None) -> Path | None:
    folder = given or os.environ.get(DATA_VARIABLE)
    return Path(folder).expanduser() if folder else None


def _imagenet_folder(data_dir: str | os.PathLike[str] | None) -> Path:
    """The folder asked for, once it is sure that its classes are the ones the outputs stand for.

    Raises:
        FileNotFoundError: there is no data.
        ValueError: its classes are not ImageNet's.
    """
    root = _data_dir(data_dir)
    if root is None or missing_imagenet(root):
        raise FileNotFoundError(missing_imagenet(root))
    for part in ("train", "val"):
        names = [entry.name for entry in os.scandir(root / part) if entry.is_dir()]
        foreign = sorted(name for name in names if not WORDNET_ID.fullmatch(name))
        if len(names) != NUM_CLASSES or foreign:
            example = f" (but for example {foreign[0]!r})" if foreign else ""
            raise ValueError(
                f"{root / part} has {len(names)} class folders, not ImageNet's {NUM_CLASSES:,} named by their WordNet "
                f"ids such as n01440764{example}; for images of your own use prune_gym.imagefolder_task"
            )
    return root


IMAGENET_TASKS: tuple[ImageNetTask, ...] = (
    ImageNetTask("resnet18", 0.5, TaskSize(12, 2880, 3_628_146_688, 11_689_512), 0.69758),
    ImageNetTask("resnet50", 0.76, TaskSize(37, 11_456, 8_178_368_512, 25_557_032), 0.76130),
    ImageNetTask("mobilenet_v2", 0.5, TaskSize(25, 9128, 601_548_544, 3_504_872), 0.71878),
    ImageNetTask("efficientnet_b0", 0.5, TaskSize(40, 11_404, 771_629_504, 5_288_548), 0.77692),
    ImageNetTask("vgg16_bn", 0.76, TaskSize(15, 12_416, 30_940_528_640, 138_365_992), 0.73360),
    ImageNetTask("densenet121", 0.5, TaskSize(120, 10_240, 5_668_323_328, 7_978_856), 0.74434),
)
"""All of them; further networks of torchvision slot in here."""
