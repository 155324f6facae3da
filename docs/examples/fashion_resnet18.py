"""A torchvision ResNet-18 trained on Fashion-MNIST, as a user of his own network has it: weights and folders of images.

    python docs/examples/fashion_resnet18.py DIR [--epochs 4]

writes ``DIR/weights.pth``, ``DIR/train/<class>/*.png`` (6,000 of the images it was trained on), ``DIR/val`` (2,000 held
out) and ``DIR/test`` (the official 10,000). A stopped training goes on after its last epoch with the same command.
Fashion-MNIST is Debian's package ``dataset-fashion-mnist``.
"""

import argparse
from pathlib import Path

import torch
from PIL import Image
from torch import nn
from torchvision.models import resnet18

from prune_gym.data.augmentation import Augmentation
from prune_gym.data.fashion import DEBIAN_FOLDER, read_idx
from prune_gym.data.splits import TensorSplit, stratified_partition
from prune_gym.training import Loop, evaluate_model, train_dense

MEAN, STD = 0.286, 0.353
NAMES = ("tshirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "boot")
CLASSES = tuple(f"{number}_{name}" for number, name in enumerate(NAMES))  # in alphabetical order, as labels are counted


def build() -> nn.Module:
    """The network, untrained: one input channel, and a stem for images of 28 x 28."""
    model = resnet18(num_classes=10)
    model.conv1 = nn.Conv2d(1, 64, 3, stride=2, padding=1, bias=False)
    return model


def main() -> None:
    """Train, and write what the command ``prune-gym prune`` reads."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--data", type=Path, default=DEBIAN_FOLDER, help="folder of the idx files")
    arguments = parser.parse_args()
    images, labels = (_read(arguments.data, "train", part) for part in ("images-idx3", "labels-idx1"))
    held_out, trained = stratified_partition(labels, (2000, 58000), seed=0)
    tests = [_read(arguments.data, "t10k", part) for part in ("images-idx3", "labels-idx1")]
    for name, pictures, truth in (
        ("train", images[trained[:6000]], labels[trained[:6000]]),
        ("val", images[held_out], labels[held_out]),
        ("test", *tests),
    ):
        _write_folder(arguments.folder / name, pictures, truth)
    torch.manual_seed(0)
    model = build().to(memory_format=torch.channels_last)
    split = TensorSplit(_normalised(images[trained]), labels[trained])
    loop = Loop(checkpoint=arguments.folder / "training.safetensors")
    train_dense(model, split, epochs=arguments.epochs, augment=Augmentation(flip=True), progress=_say, loop=loop)
    torch.save(model.state_dict(), arguments.folder / "weights.pth")
    accuracy = evaluate_model(model, TensorSplit(_normalised(tests[0]), tests[1])).accuracy
    print(f"{accuracy:.2%} of the test images; written to {arguments.folder}")  # noqa: T201


def _read(folder: Path, part: str, kind: str) -> torch.Tensor:
    name = folder / f"{part}-{kind}-ubyte"
    values = read_idx(name if name.is_file() else name.with_name(f"{name.name}.gz"))
    return values.long() if values.ndim == 1 else values


def _normalised(images: torch.Tensor) -> torch.Tensor:
    return ((images.float() / 255 - MEAN) / STD).unsqueeze(1)


def _write_folder(folder: Path, images: torch.Tensor, labels: torch.Tensor) -> None:
    for name in CLASSES:
        (folder / name).mkdir(parents=True, exist_ok=True)
    for index, (image, label) in enumerate(zip(images.numpy(), labels.tolist(), strict=True)):
        Image.fromarray(image).save(folder / CLASSES[label] / f"{index:05}.png")


def _say(description: str, done: int, total: int) -> None:
    if done % 100 == 0:
        print(description, done, total, flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
