"""Links, special files and hostile images in folders of images."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from prune_gym.tasks.image_files import FolderImages, read_image, warn_of_shared_images
from prune_gym.tasks.imagefolder import imagefolder_splits


def write_images(folder: Path, count: int = 12, classes: str = "ab", seed: int = 0) -> None:
    random = np.random.default_rng(seed)
    for name in classes:
        (folder / name).mkdir(parents=True)
        for index in range(count):
            pixels = (random.random((12, 12, 3)) * 255).astype("uint8")
            Image.fromarray(pixels).save(folder / name / f"{index}.png")


def images_in(split) -> torch.Tensor:
    return torch.cat([images for images, _ in split.batches(64)])


@pytest.mark.parametrize("link", ["a/loop", "b/again"])
def test_links_that_lead_back_show_no_image_twice_and_leak_none_into_the_reward(tmp_path, link, caplog):
    write_images(tmp_path / "train")
    (tmp_path / "train" / link).symlink_to(tmp_path / "train" / "a")
    splits = imagefolder_splits(tmp_path, image_size=8)
    assert len(splits.train) + len(splits.reward) < 25
    trained = images_in(splits.train)
    assert not any((trained == image).flatten(1).all(1).any() for image in splits.reward.images)
    assert "links below" in caplog.text


def test_a_folder_of_links_to_images_elsewhere_is_a_folder_of_images(tmp_path):
    write_images(tmp_path / "store")
    for name in "ab":
        (tmp_path / "train" / name).mkdir(parents=True)
        for image in (tmp_path / "store" / name).iterdir():
            (tmp_path / "train" / name / image.name).symlink_to(image)
    assert len(FolderImages.open(tmp_path / "train", lambda image: image)) == 24


def test_labels_and_order_are_torchvisions(tmp_path):
    from torchvision.datasets import ImageFolder

    write_images(tmp_path)
    (tmp_path / "a" / "deeper").mkdir()
    os.rename(tmp_path / "a" / "3.png", tmp_path / "a" / "deeper" / "3.PNG")
    ours, theirs = FolderImages.open(tmp_path, lambda image: image), ImageFolder(str(tmp_path))
    assert sorted(ours.samples) == sorted(theirs.samples)
    assert ours.classes == theirs.classes
    assert ours.samples == theirs.samples


@pytest.mark.parametrize("copies", ["reward and train", "test and train"])
def test_images_that_lie_in_two_splits_are_a_warning(tmp_path, caplog, copies):
    write_images(tmp_path / "train")
    write_images(tmp_path / "val", seed=1)
    if copies == "test and train":
        data = (tmp_path / "train" / "a" / "0.png").read_bytes()
        (tmp_path / "val" / "b" / "copy.png").write_bytes(data)
    else:
        for index in range(12):  # one of each pair is held out, whatever the partition
            data = (tmp_path / "train" / "a" / f"{index}.png").read_bytes()
            (tmp_path / "train" / "b" / f"{index}.png").write_bytes(data)
    imagefolder_splits(tmp_path, image_size=8)
    assert "in two splits" in caplog.text


def test_without_copies_nothing_is_said(tmp_path, caplog):
    write_images(tmp_path / "train")
    imagefolder_splits(tmp_path, image_size=8)
    assert not caplog.text


def test_in_large_folders_the_smallest_split_is_compared(tmp_path, monkeypatch):
    for name in ("one", "two", "three"):
        (tmp_path / name).write_bytes(b"same")
    monkeypatch.setattr("prune_gym.tasks.image_files.COMPARED_FILES", 1)
    one, two, three = (str(tmp_path / name) for name in ("one", "two", "three"))
    assert warn_of_shared_images({"train": [one, str(tmp_path / "one")], "reward": [two], "test": [three, three]})
    assert not warn_of_shared_images({"train": [one, one], "reward": [], "test": [three, three]})


def test_special_files_and_links_to_nothing_are_named_and_refused(tmp_path):
    write_images(tmp_path / "train")
    os.mkfifo(tmp_path / "train" / "a" / "pipe.png")
    with pytest.raises(ValueError, match=r"pipe\.png is a named pipe"):
        imagefolder_splits(tmp_path, image_size=8)
    (tmp_path / "train" / "a" / "pipe.png").unlink()
    (tmp_path / "train" / "a" / "gone.png").symlink_to(tmp_path / "nowhere.png")
    with pytest.raises(ValueError, match=r"gone\.png cannot be read"):
        imagefolder_splits(tmp_path, image_size=8)


def test_an_image_too_large_to_decode_is_named(tmp_path, monkeypatch):
    Image.new("1", (300, 300)).save(tmp_path / "bomb.png")
    for most in (50_000, 10_000):  # Pillow itself warns of the first and refuses the second
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", most)
        with pytest.raises(ValueError, match=r"bomb\.png would be decoded to too large an image"):
            read_image(str(tmp_path / "bomb.png"))


def test_names_that_are_not_utf8_are_no_obstacle(tmp_path):
    write_images(tmp_path / "train")
    odd = os.fsencode(tmp_path / "train") + b"/\xff\xfe"
    os.mkdir(odd)
    with pytest.raises(FileNotFoundError, match=r"\\xff"):
        imagefolder_splits(tmp_path, image_size=8)
    for index in range(6):
        with open(odd + f"/{index}.png".encode(), "wb") as file:
            file.write((tmp_path / "train" / "a" / f"{index}.png").read_bytes())
    assert len(imagefolder_splits(tmp_path, image_size=8).classes) == 3
