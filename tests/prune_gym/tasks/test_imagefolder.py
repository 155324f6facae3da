import pickle

import pytest
import torch
from PIL import Image
from torch import nn

from prune_gym.data.loader_split import DatasetSplit
from prune_gym.data.splits import TensorSplit
from prune_gym.tasks import make_task
from prune_gym.tasks.imagefolder import imagefolder_splits, imagefolder_task, standard_transform
from prune_gym.training import evaluate_model, fine_tune

SIZES = ((20, 16), (16, 24), (40, 40))


def write_images(root, classes=("ant", "bee", "cat"), train=20, val=4):
    """Images of one colour a class and of three sizes; the shade counts them."""
    for part, count in (("train", train), ("val", val)):
        for label, name in enumerate(classes):
            folder = root / part / name
            folder.mkdir(parents=True)
            for index in range(count):
                colour = [0, 0, 0]
                colour[label % 3] = 100 + 5 * index + (part == "val")
                Image.new("RGB", SIZES[index % 3], tuple(colour)).save(folder / f"{index:02}.png")
    return root


def network(classes=3):
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, classes))


def test_the_four_splits_are_carved_out_of_the_folders(tmp_path):
    splits = imagefolder_splits(write_images(tmp_path), image_size=16, calibration_size=12)
    assert [len(part) for part in (splits.train, splits.calibration, splits.reward, splits.test)] == [54, 12, 6, 12]
    assert splits.classes == ("ant", "bee", "cat")
    assert isinstance(splits.calibration, TensorSplit)
    assert isinstance(splits.reward, TensorSplit)
    assert isinstance(splits.train, DatasetSplit)
    assert splits.calibration.images.shape[1:] == (3, 16, 16)
    assert splits.reward.labels.bincount().tolist() == [2, 2, 2]
    assert splits.calibration.labels.bincount().tolist() == [4, 4, 4]
    train = splits.train.read()
    assert torch.equal(train.images[:12], splits.calibration.images), "calibration is a part of dense-train"
    assert len(torch.cat([train.images, splits.reward.images]).flatten(1).unique(dim=0)) == 60, "reward is not"
    # The label is the alphabetical place of the folder, and the channel that is bright.
    assert torch.equal(splits.reward.images.mean(dim=(2, 3)).argmax(dim=1), splits.reward.labels)


def test_the_splits_depend_on_the_files_and_the_seed_only(tmp_path):
    write_images(tmp_path)
    one, again, other = (imagefolder_splits(tmp_path, image_size=16, seed=seed).reward.images for seed in (0, 0, 1))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    smaller = imagefolder_splits(tmp_path, image_size=16, reward_size=3)
    assert torch.equal(smaller.reward.images, one[:3])
    assert len(smaller.train) == 54


def test_reading_ahead_in_other_processes_changes_nothing(tmp_path):
    write_images(tmp_path)
    one, two = (imagefolder_splits(tmp_path, image_size=16, workers=workers) for workers in (0, 2))
    for here, ahead in zip(one.test.batches(5), two.test.batches(5), strict=True):
        assert torch.equal(here[0], ahead[0])
        assert torch.equal(here[1], ahead[1])


def test_a_users_network_is_scored_and_fine_tuned_on_images_on_disk(tmp_path):
    task = imagefolder_task("mine", write_images(tmp_path), network(), image_size=16, default_target=0.4)
    before = evaluate_model(task.model, task.test)
    fine_tune(task.model, None, task.train, epochs=2, lr=0.05, batch_size=9)
    assert evaluate_model(task.model, task.test).loss < before.loss
    assert task.default_target == 0.4
    assert len(pickle.loads(pickle.dumps(task)).test) == 12


def test_pixels_are_those_of_torchvisions_usual_transform(tmp_path):
    from torchvision.transforms import functional

    splits = imagefolder_splits(write_images(tmp_path), image_size=14)
    with Image.open(tmp_path / "val" / "ant" / "00.png") as image:
        expected = functional.to_tensor(functional.center_crop(functional.resize(image, 16), 14))
    expected = functional.normalize(expected, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert torch.equal(splits.test.subset(slice(1)).read().images[0], expected)


def test_without_val_there_is_no_test_split(tmp_path):
    write_images(tmp_path)
    (tmp_path / "val").rename(tmp_path / "other")
    assert imagefolder_splits(tmp_path, image_size=16).test is None


def truncate(root):
    path = root / "train" / "ant" / "03.png"
    path.write_bytes(path.read_bytes()[:40])


def empty_class(root):
    for path in (root / "train" / "bee").iterdir():
        path.unlink()


def no_classes(root):
    for folder in (root / "train").iterdir():
        folder.rename(root / folder.name)


WRONG = {
    "truncated": (truncate, {}, ValueError, r"03\.png is truncated or not an image"),
    "not an image": (
        lambda root: (root / "val" / "ant" / "00.png").write_text("hello"),
        {},
        ValueError,
        r"00\.png is truncated or not an image",
    ),
    "empty class": (empty_class, {}, FileNotFoundError, r"train has no images in class folders .*'bee' is empty"),
    "no classes": (no_classes, {}, FileNotFoundError, "train has no images in class folders"),
    "no train": (lambda root: (root / "train").rename(root / "t"), {}, FileNotFoundError, "no folder .*train; images"),
    "other classes": (lambda root: (root / "val" / "cat").rename(root / "val" / "dog"), {}, ValueError, "cat, dog"),
    "sizes": (None, {"transform": "to_tensor"}, ValueError, "images differ in shape, for example .*resize or crop"),
    "no tensor": (None, {"transform": lambda image: image}, TypeError, "images are tensors; got Image"),
    "outputs": (None, {"model": network(4)}, ValueError, r"has 3 class folders \(ant, bee, cat, ...\).* 4 outputs"),
    "reward": (None, {"reward_size": 7}, ValueError, r"reward_size is in \[1, 6\]; got 7"),
    "calibration": (None, {"calibration_size": 0}, ValueError, "calibration_size is in"),
    "image size": (None, {"image_size": 0}, ValueError, "image_size is at least 1"),
}


@pytest.mark.parametrize(("damage", "options", "error", "message"), WRONG.values(), ids=WRONG)
def test_folders_that_cannot_be_used_are_refused(damage, options, error, message, tmp_path):
    from torchvision.transforms import functional

    write_images(tmp_path)
    if damage is not None:
        damage(tmp_path)
    if options.get("transform") == "to_tensor":
        options = {"transform": functional.to_tensor}
    options = {"model": network(), "image_size": 16, **options}
    with pytest.raises(error, match=message):
        list(imagefolder_task("mine", tmp_path, **options).test.batches(8))


def test_too_few_images_to_hold_one_out_are_refused(tmp_path):
    with pytest.raises(ValueError, match="holds 9 images; at least 10 are needed"):
        imagefolder_splits(write_images(tmp_path, train=3), image_size=16)


def test_resizing_keeps_the_usual_margin():
    assert "size=256" in str(standard_transform(224).transforms[0])


@pytest.fixture(scope="module")
def imagenet(tmp_path_factory):
    """A thousand class folders with two tiny images each, one file linked everywhere."""
    root = tmp_path_factory.mktemp("imagenet")
    Image.new("RGB", (9, 8), (90, 120, 150)).save(root / "image.jpg")
    for part in ("train", "val"):
        for number in range(1000):
            folder = root / part / f"n{number:08}"
            folder.mkdir(parents=True)
            for copy in range(2 if part == "train" else 1):
                (folder / f"{copy}.jpg").hardlink_to(root / "image.jpg")
    return root


OPTIONS = {"reward_size": 3, "calibration_size": 2, "workers": 0}


def test_an_imagenet_task_puts_torchvisions_network_and_the_users_images_together(imagenet, monkeypatch):
    task = make_task("imagenet-resnet18", data_dir=imagenet, weights=None, **OPTIONS)
    assert (len(task.train), len(task.calibration), len(task.reward), len(task.test)) == (1800, 2, 3, 1000)
    assert task.calibration.images.shape == (2, 3, 224, 224)
    assert (task.num_classes, task.default_target) == (1000, 0.5)
    monkeypatch.setenv("PRUNE_GYM_IMAGENET", str(imagenet))
    assert len(make_task("imagenet-mobilenet_v2", weights=None, **OPTIONS).reward) == 3


def test_pretrained_weights_come_from_torchvisions_cache_and_run_no_code(imagenet, tmp_path, monkeypatch):
    from torchvision.models import ResNet18_Weights, resnet18

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    path = folder / ResNet18_Weights.IMAGENET1K_V1.url.rsplit("/", 1)[-1]
    expected = resnet18(weights=None)
    torch.save(expected.state_dict(), path)
    built = make_task("imagenet-resnet18", data_dir=imagenet, **OPTIONS).model
    assert torch.equal(built.conv1.weight, expected.conv1.weight)
    torch.save(expected, path)  # a pickled module, which only an unsafe load would open
    with pytest.raises(ValueError, match="is damaged; delete it"):
        make_task("imagenet-resnet18", data_dir=imagenet, **OPTIONS)


def test_what_is_not_imagenet_is_refused(imagenet, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"say data_dir=\.\.\. or set PRUNE_GYM_IMAGENET"):
        make_task("imagenet-resnet18")
    with pytest.raises(FileNotFoundError, match="has no folder train and no val"):
        make_task("imagenet-resnet18", data_dir=tmp_path)
    with pytest.raises(ValueError, match=r"3 class folders.*WordNet ids.*for example 'ant'.*imagefolder_task"):
        make_task("imagenet-resnet18", data_dir=write_images(tmp_path))
    with pytest.raises(ValueError, match=r"no weights 'V7' of resnet18 \(there are: IMAGENET1K_V1"):
        make_task("imagenet-resnet18", data_dir=imagenet, weights="V7", **OPTIONS)
