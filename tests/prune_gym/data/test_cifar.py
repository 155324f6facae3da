import dataclasses
import functools
import io
import tarfile

import pytest
import torch

from prune_gym.data.cifar import CIFAR10, CIFAR100, PIXELS, load_cifar_splits, missing_cifar, read_records
from prune_gym.tasks import make_task
from prune_gym.tasks.named import named_task


def tiny(cifar):
    """The same format with few records, so that files are small."""
    train = dict.fromkeys(cifar.train_files, 200 // len(cifar.train_files))
    return dataclasses.replace(cifar, train_files=train, test_files=dict.fromkeys(cifar.test_files, 20))


def record_bytes(cifar, count, seed):
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (count, PIXELS), generator=generator, dtype=torch.uint8)
    labels = (torch.arange(count) % 10).to(torch.uint8)[:, None].repeat(1, cifar.label_bytes)
    if cifar.label_bytes == 2:
        labels[:, 0] = 255  # the coarse label, which nobody may mistake for the fine one
    return torch.cat([labels, pixels], dim=1).numpy().tobytes()


def write_files(cifar, folder):
    folder.mkdir(exist_ok=True)
    for seed, (name, count) in enumerate({**cifar.train_files, **cifar.test_files}.items()):
        (folder / name).write_bytes(record_bytes(cifar, count, seed))
    return folder


def write_archive(cifar, path, omit=()):
    with tarfile.open(path, "w:gz") as tar:
        for seed, (name, count) in enumerate({**cifar.train_files, **cifar.test_files}.items()):
            data = record_bytes(cifar, count, seed)
            info = tarfile.TarInfo(f"{cifar.folder}/{name}")
            info.size = len(data)
            if name not in omit:
                tar.addfile(info, io.BytesIO(data))
    return path


def load(cifar, data_dir, **options):
    return load_cifar_splits(cifar, data_dir, **{"held_out": 50, "reward_size": 50, "calibration_size": 30, **options})


@pytest.mark.parametrize("cifar", [tiny(CIFAR10), tiny(CIFAR100)], ids=lambda cifar: cifar.name)
def test_the_four_splits_are_carved_and_normalised(cifar, tmp_path):
    splits = load(cifar, write_files(cifar, tmp_path / "bin"))
    assert [len(part) for part in (splits.train, splits.calibration, splits.reward, splits.test)] == [150, 30, 50, 20]
    assert splits.train.images.shape[1:] == (3, 32, 32)
    assert splits.train.images.dtype == torch.float32
    assert torch.allclose(splits.train.images.mean(dim=(0, 2, 3)), torch.zeros(3), atol=1e-4)
    assert torch.allclose(splits.train.images.std(dim=(0, 2, 3)), torch.ones(3), atol=1e-4)
    assert torch.equal(splits.calibration.images, splits.train.images[:30])
    assert splits.train.labels.bincount().tolist() == [15] * 10
    assert len(torch.cat([splits.train.images, splits.reward.images]).flatten(1).unique(dim=0)) == 200
    smaller = load(cifar, tmp_path / "bin", reward_size=10, calibration_size=5)
    assert torch.equal(smaller.train.images, splits.train.images)
    assert torch.equal(smaller.reward.images, splits.reward.images[:10])


def test_planes_rows_and_columns_are_where_the_format_says():
    data = bytes([7]) + bytes([10]) * 1024 + bytes([20]) * 1024 + bytes(range(32)) * 32
    split = read_records(CIFAR10, data, "file")
    assert split.labels.tolist() == [7]
    assert torch.equal(split.images[0, 0] * 255, torch.full((32, 32), 10.0))
    assert torch.equal(split.images[0, 1] * 255, torch.full((32, 32), 20.0))
    assert torch.allclose(split.images[0, 2, 5] * 255, torch.arange(32.0))


def test_the_fine_label_is_the_second_byte():
    assert read_records(CIFAR100, bytes([3, 42]) + bytes(PIXELS), "file").labels.tolist() == [42]


def test_folder_folder_above_archive_and_folder_of_the_archive_are_the_same(tmp_path, monkeypatch):
    cifar = tiny(CIFAR10)
    inner = write_files(cifar, tmp_path / cifar.folder)
    (tmp_path / "packed").mkdir()
    archive = write_archive(cifar, tmp_path / "packed" / cifar.archive.name)
    expected = load(cifar, inner)
    for where in (tmp_path, str(archive), archive.parent):
        assert torch.equal(load(cifar, where).test.images, expected.test.images)
    monkeypatch.setenv(cifar.variable, str(inner))
    assert torch.equal(load(cifar, None).reward.images, expected.reward.images)
    assert missing_cifar(cifar) == ""


def test_a_missing_archive_is_downloaded_into_the_cache_once(tmp_path, monkeypatch):
    import hashlib

    cifar = tiny(CIFAR10)
    path = write_archive(cifar, tmp_path / cifar.archive.name)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    remote = dataclasses.replace(cifar.archive, url=path.as_uri(), sha256=digest)
    cifar = dataclasses.replace(cifar, archive=remote)
    monkeypatch.setenv("PRUNE_GYM_CACHE", str(tmp_path / "cache"))
    first = load(cifar, None, download=True)
    path.unlink()
    assert torch.equal(load(cifar, None, download=True).test.images, first.test.images)


def test_missing_files_say_how_to_get_them(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"cifar-10-binary\.tar\.gz and say data_dir=.*PRUNE_GYM_CIFAR10"):
        load(CIFAR10, tmp_path)
    with pytest.raises(FileNotFoundError, match="no CIFAR-100 binary files"):
        load(CIFAR100, tmp_path / "nowhere")


def test_the_pickled_version_is_named_and_not_read(tmp_path):
    (tmp_path / "cifar-10-batches-py").mkdir()
    (tmp_path / "cifar-10-batches-py" / "data_batch_1").write_bytes(b"cos\nsystem\n(S'false'\ntR.")
    for where in (tmp_path, tmp_path / "cifar-10-batches-py"):
        with pytest.raises(FileNotFoundError, match="pickled version, which is not read"):
            load(CIFAR10, where)


def test_a_file_that_is_lacking_is_named(tmp_path):
    cifar = tiny(CIFAR10)
    (write_files(cifar, tmp_path) / "data_batch_3.bin").unlink()
    with pytest.raises(FileNotFoundError, match=r"lacks data_batch_3\.bin"):
        load(cifar, tmp_path)


@pytest.mark.parametrize("lost", [1, 1 + PIXELS, None])
def test_a_truncated_file_is_refused_even_between_records(tmp_path, lost):
    cifar = tiny(CIFAR10)
    path = write_files(cifar, tmp_path) / "data_batch_2.bin"
    path.write_bytes(path.read_bytes()[:-lost] if lost else b"")
    with pytest.raises(ValueError, match=r"data_batch_2\.bin holds .* bytes, not 40 records of 3,073; it is truncated"):
        load(cifar, tmp_path)


def test_labels_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match="label 10, but CIFAR-10 has 10 classes"):
        read_records(CIFAR10, bytes([10]) + bytes(PIXELS), "file")


def test_a_damaged_or_foreign_archive_is_refused(tmp_path):
    cifar = tiny(CIFAR10)
    path = write_archive(cifar, tmp_path / cifar.archive.name)
    whole = path.read_bytes()
    for data in (whole[: len(whole) // 2], b"not a tar", b""):
        path.write_bytes(data)
        with pytest.raises(ValueError, match="truncated or not a gzipped tar archive"):
            load(cifar, tmp_path)
    write_archive(cifar, path, omit=["test_batch.bin"])
    with pytest.raises(ValueError, match=r"has no cifar-10-batches-bin/test_batch\.bin"):
        load(cifar, tmp_path)


@pytest.mark.parametrize("options", [{"reward_size": 51}, {"reward_size": 0}, {"calibration_size": 151}])
def test_sizes_out_of_range_are_refused(tmp_path, options):
    cifar = tiny(CIFAR10)
    with pytest.raises(ValueError, match=rf"{next(iter(options))} is in \[1, "):
        load(cifar, write_files(cifar, tmp_path), **options)


@pytest.mark.parametrize("name", ["cifar10-resnet20", "cifar100-resnet56"])
def test_the_named_task_is_built_from_the_files_and_trained_weights(name, tmp_path):
    cifar = tiny(CIFAR10 if "cifar10-" in name else CIFAR100)
    loader = functools.partial(load_cifar_splits, cifar, held_out=50, reward_size=50, calibration_size=30)
    task = dataclasses.replace(named_task(name), load_splits=loader)
    folder = write_files(cifar, tmp_path / "bin")
    model, _ = task.structure(seed=1)
    path = task.save_weights(tmp_path / "w.safetensors", model, loader(folder).train, seed=1)
    built = task.build(data_dir=folder, weights=path)
    assert (built.num_classes, len(built.reward)) == (cifar.num_classes, 50)


def test_the_registered_task_asks_for_its_data(tmp_path):
    with pytest.raises(FileNotFoundError, match="no CIFAR-10 binary files"):
        make_task("cifar10-resnet20", data_dir=tmp_path)
