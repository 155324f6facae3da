"""Folders of images as a network takes them: resized, cropped, normalised; with labels where there are any."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor, nn

from benchmarks.common.errors import OptionError
from benchmarks.prune.loaded import Preprocessing
from benchmarks.prune.options import PruneOptions
from hessian.support.progress import Progress
from prune_gym.data.loader_split import spread
from prune_gym.pruning.data import MAX_BYTES, Pictures
from prune_gym.tasks.imagefolder import IMAGENET_MEAN, IMAGENET_STD
from prune_gym.tasks.outputs import count_outputs

SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}
LABELS_FILE = "labels.csv"
LARGEST_OWN_SIZE = 64
"""Images up to so many pixels are taken as they are where nothing says how the network wants them."""

USUAL_SIZE = 224


@dataclass(frozen=True)
class Listing:
    """Image files of a folder.

    Attributes:
        folder: the folder.
        files: sorted.
        labels: a class a file, or None.
        classes: names of the classes, in the order of their labels; empty without labels.
    """

    folder: Path
    files: tuple[Path, ...]
    labels: tuple[int, ...] | None
    classes: tuple[str, ...]


def list_images(option: str, folder: Path, labels: str, classes: Sequence[str] | None = None) -> Listing:
    """Find the images of a folder and their labels; opens none.

    Args:
        option: what named the folder, for messages.
        folder: the folder.
        labels: ``"auto"``, ``"folders"``, ``"csv"`` or ``"none"``.
        classes: names of the classes in their order, where another folder has settled them.

    Raises:
        OptionError: no images, or labels that are not as said.
    """
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    if not files:
        raise OptionError(f"{option} {folder}: no images ({', '.join(sorted(SUFFIXES))}) in it")
    if labels == "csv" or (labels == "auto" and (folder / LABELS_FILE).is_file()):
        return _from_csv(option, folder, classes)
    depths = {len(path.relative_to(folder).parts) for path in files}
    in_folders = depths == {2}
    if labels == "none" or (labels == "auto" and not in_folders):
        return Listing(folder, tuple(files), None, ())
    if not in_folders:
        raise OptionError(f"{option} {folder}: --labels folders expects {folder}/<class>/<image>, and nothing else")
    names = [path.relative_to(folder).parts[0] for path in files]
    return _labelled(option, folder, files, names, classes)


def _from_csv(option: str, folder: Path, classes: Sequence[str] | None) -> Listing:
    table = folder / LABELS_FILE
    try:
        with open(table, newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    except (OSError, ValueError, csv.Error) as error:
        raise OptionError(f"{option}: {table} cannot be read: {error}") from None
    if not rows or not {"file", "label"} <= set(rows[0]):
        raise OptionError(f"{option}: {table} needs a header with the columns file and label, and a row an image")
    files = [folder / row["file"] for row in rows]
    missing = [path for path in files if not path.is_file()]
    if missing:
        raise OptionError(f"{option}: {table} names {len(missing)} files that are not there, for example {missing[0]}")
    names = [row["label"].strip() for row in rows]
    if classes is None and all(name.isdecimal() for name in names):
        classes = [str(number) for number in range(max(map(int, names)) + 1)]
    return _labelled(option, folder, files, names, classes)


def _labelled(
    option: str, folder: Path, files: Sequence[Path], names: Sequence[str], classes: Sequence[str] | None
) -> Listing:
    """Classes are numbered in the alphabetical order of their names, as torchvision does.

    Raises:
        OptionError: a class that the other folder has not.
    """
    found = sorted(set(names))
    classes = found if classes is None else classes
    foreign = [name for name in found if name not in classes]
    if foreign:
        raise OptionError(
            f"{option} {folder}: class {foreign[0]!r} is not one of --images ({', '.join(classes[:5])}, ...)"
        )
    order = {name: number for number, name in enumerate(classes)}
    return Listing(folder, tuple(files), tuple(order[name] for name in names), tuple(classes))


def preprocessing_of(
    options: PruneOptions, listing: Listing, model: nn.Module, own: Preprocessing | None
) -> tuple[Preprocessing, int, tuple[str, ...]]:
    """Preprocessing of images: as the options say, else the network's library, else the usual.

    Returns:
        The preprocessing, the number of channels, and what was assumed, a sentence each.

    Raises:
        OptionError: another number of means than the network has input channels.
    """
    channels = _input_channels(model)
    notes: list[str] = []
    if options.mean is not None and options.std is not None:
        mean, std = options.mean, options.std
        if not len(mean) == len(std) == channels:
            raise OptionError(f"--mean and --std: the network takes {channels} channels; give as many numbers to each")
    elif own is not None and len(own.mean) == channels:
        mean, std = own.mean, own.std
    else:
        mean, std = _usual_statistics(channels)
        notes.append(f"images are normalised by mean {_said(mean)} and deviation {_said(std)} (--mean, --std)")
    if options.image_size is not None:
        size = resize = options.image_size
    elif own is not None and options.weights is None:
        size, resize = own.size, own.resize
    else:
        size = resize = _own_size(listing) or (own.size if own is not None else USUAL_SIZE)
        notes.append(f"images are {size} x {size} pixels (--image-size)")
    return Preprocessing(size, resize, tuple(mean), tuple(std)), channels, tuple(notes)


def check_classes(model: nn.Module, listing: Listing, preprocessing: Preprocessing, channels: int) -> None:
    """Refuse folders with another number of classes than the network has.

    Raises:
        OptionError: both numbers are said; or the network does not take such images.
    """
    example = torch.zeros(2, channels, preprocessing.size, preprocessing.size)
    try:
        outputs = count_outputs(model, example, classes_only=False)
    except ValueError as error:
        raise OptionError(f"--model: {error} (--image-size sets the pixels)") from None
    if listing.labels is not None and len(listing.classes) != outputs:
        raise OptionError(
            f"--images {listing.folder} has {len(listing.classes)} classes ({', '.join(listing.classes[:3])}, ...), "
            f"the network {outputs} outputs; give the network of these classes, or --labels none to go without them"
        )


def _usual_statistics(channels: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    if channels == 3:
        return IMAGENET_MEAN, IMAGENET_STD
    return (0.5,) * channels, (0.5,) * channels


def _said(values: Sequence[float]) -> str:
    return " ".join(f"{value:g}" for value in values)


def _input_channels(model: nn.Module) -> int:
    for module in model.modules():
        if isinstance(module, nn.modules.conv._ConvNd):
            return module.in_channels
    raise OptionError("--model: the network has no convolution, so it takes no images")


def _own_size(listing: Listing) -> int | None:
    """The images' own size, where the first is square and small."""
    width, height = _open(listing.files[0]).size
    return width if width == height and width <= LARGEST_OWN_SIZE else None


def read_images(
    option: str, listing: Listing, preprocessing: Preprocessing, channels: int, most: int, progress: Progress
) -> Pictures:
    """Decode images into memory; of more than fit, an even spread.

    Raises:
        OptionError: an image cannot be decoded.
    """
    one = 4 * channels * preprocessing.size**2
    chosen = spread(len(listing.files), max(1, min(most, MAX_BYTES // one))).tolist()
    images = torch.empty(len(chosen), channels, preprocessing.size, preprocessing.size)
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (preprocessing.mean, preprocessing.std))
    for done, index in enumerate(chosen, start=1):
        images[done - 1] = (_pixels(option, listing.files[index], preprocessing, channels) - mean) / std
        if done % 50 == 0 or done == len(chosen):
            progress(f"{option[2:]} images", done, len(chosen))
    labels = None if listing.labels is None else torch.tensor([listing.labels[index] for index in chosen])
    return Pictures(images, labels)


def _pixels(option: str, path: Path, preprocessing: Preprocessing, channels: int) -> Tensor:
    """One image in [0, 1], float [C, H, W].

    Raises:
        OptionError: the file is truncated or not an image.
    """
    from torchvision.transforms import functional

    try:
        image = _open(path).convert("L" if channels == 1 else "RGB")
    except (OSError, SyntaxError, UnidentifiedImageError) as error:
        raise OptionError(f"{option}: {path} is truncated or not an image ({error}); delete or replace it") from None
    if image.size != (preprocessing.size, preprocessing.size):
        image = functional.center_crop(functional.resize(image, [preprocessing.resize]), [preprocessing.size])
    pixels: Tensor = functional.to_tensor(image)
    return pixels


def _open(path: Path) -> Image.Image:
    return Image.open(path)
