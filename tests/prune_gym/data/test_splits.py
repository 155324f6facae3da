import gzip
import struct

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from prune_gym.data.fashion import load_fashion_splits, read_idx
from prune_gym.data.splits import TensorSplit, equal_parts, load_digits_splits, stack_pairs, stratified_partition


@pytest.fixture(scope="module")
def digits():
    return load_digits_splits()


def numbered(count):
    return TensorSplit(torch.arange(float(count))[:, None], torch.arange(count))


def test_batches_cover_the_split_in_order_every_time_they_are_iterated():
    batches = numbered(7).batches(3)
    assert len(batches) == 3
    for _ in range(2):
        assert [labels.tolist() for _, labels in batches] == [[0, 1, 2], [3, 4, 5], [6]]
    assert all(torch.equal(images[:, 0], labels.float()) for images, labels in batches)


def test_a_split_on_its_device_is_not_copied(device):
    split = numbered(3).to(device)
    assert split.to(device) is split
    assert split.images.device == split.labels.device == device


@pytest.mark.parametrize("labels", [torch.zeros(2), torch.zeros(())])
def test_images_and_labels_that_do_not_match_are_refused(labels):
    with pytest.raises(ValueError, match=r"got images \[3, 1\] and labels"):
        TensorSplit(torch.zeros(3, 1), labels)


@pytest.mark.parametrize("batch_size", [0, -2])
def test_a_batch_size_below_one_is_refused(batch_size):
    with pytest.raises(ValueError, match="batch_size is at least 1"):
        numbered(3).batches(batch_size)
    with pytest.raises(ValueError, match="batch_size is at least 1"):
        equal_parts(torch.arange(3), batch_size)


@given(count=st.integers(1, 200), batch_size=st.integers(1, 64))
def test_equal_parts_are_as_few_and_as_equal_as_can_be(count, batch_size):
    parts = equal_parts(torch.arange(count), batch_size)
    sizes = [len(part) for part in parts]
    assert torch.equal(torch.cat(parts), torch.arange(count))
    assert len(parts) == -(-count // batch_size)
    assert max(sizes) <= batch_size
    assert max(sizes) - min(sizes) <= 1


@settings(max_examples=50)
@given(data=st.data(), labels=st.lists(st.integers(0, 3), min_size=2, max_size=80), seed=st.integers(0, 99))
def test_pieces_are_disjoint_and_hold_every_class_in_proportion(data, labels, seed):
    labels = torch.tensor(labels)
    first = data.draw(st.integers(1, len(labels) - 1))
    second = data.draw(st.integers(1, len(labels) - first))
    pieces = stratified_partition(labels, (first, second), seed)
    assert [len(piece) for piece in pieces] == [first, second]
    assert len(torch.cat(pieces).unique()) == first + second
    for piece in pieces:
        for label in labels.unique():
            share = (labels == label).float().mean().item()
            # Both ends of a piece may cut between neighbours on the line, each of which is off by half a sample a
            # class at most.
            assert abs((labels[piece] == label).sum().item() - share * len(piece)) <= 2.5


def test_a_partition_depends_on_the_seed_and_on_nothing_else():
    labels = torch.arange(100) % 4
    torch.manual_seed(1)
    one = stratified_partition(labels, (50,), seed=3)[0]
    torch.manual_seed(2)
    assert torch.equal(one, stratified_partition(labels, (50,), seed=3)[0])
    assert not torch.equal(one, stratified_partition(labels, (50,), seed=4)[0])


def test_a_partition_stays_the_same_over_versions_and_platforms():
    """The shipped weights rely on it: other splits would put trained-on images into the reward split."""
    order_of_pcg64_words = [3, 2, 1, 6, 0, 7, 4, 5]
    one_class = torch.zeros(8, dtype=torch.long)
    assert stratified_partition(one_class, (8,), seed=0)[0].tolist() == order_of_pcg64_words


def test_more_samples_than_there_are_is_refused():
    with pytest.raises(ValueError, match=r"\[3, 2\] samples from 4"):
        stratified_partition(torch.zeros(4), (3, 2), seed=0)


def test_the_digits_are_split_as_promised(digits):
    sizes = [len(digits.train), len(digits.calibration), len(digits.reward), len(digits.test)]
    assert sizes == [1000, 500, 300, 497]
    assert torch.equal(digits.calibration.images, digits.train.images[:500])
    for split in (digits.train, digits.calibration, digits.reward, digits.test):
        assert split.images.shape[1:] == (1, 16, 16)
        assert split.images.dtype == torch.float32
        share = split.labels.bincount(minlength=10) / len(split)
        assert ((share - 0.1).abs() < 0.01).all()


def test_no_digit_is_in_two_splits(digits):
    from sklearn.datasets import load_digits

    raw = torch.tensor(load_digits().images)
    pixels = torch.cat([digits.train.images, digits.reward.images, digits.test.images])
    # A 16x16 image is a fixed linear map of its 8x8 original, so equal originals are equal images.
    assert len(pixels) == len(raw) == 1797
    assert len(pixels.flatten(1).unique(dim=0)) == len(raw.flatten(1).unique(dim=0))


def test_digits_are_normalised_by_dense_train(digits):
    assert digits.train.images.mean().abs() < 1e-5
    assert (digits.train.images.std() - 1).abs() < 1e-5
    assert digits.reward.images.mean().abs() > 1e-5


def test_digits_are_the_originals_enlarged(digits):
    """Halving the size again by averaging keeps every image's label: its nearest original has it too."""
    from sklearn.datasets import load_digits

    raw = load_digits()
    originals = torch.tensor(raw.images, dtype=torch.float32).flatten(1)
    small = torch.nn.functional.avg_pool2d(digits.test.images, 2).flatten(1)
    small = (small - small.mean(1, keepdim=True)) / small.std(1, keepdim=True)
    originals = (originals - originals.mean(1, keepdim=True)) / originals.std(1, keepdim=True)
    nearest = torch.cdist(small, originals).argmin(dim=1)
    assert (torch.tensor(raw.target)[nearest] == digits.test.labels).float().mean() > 0.99


def test_pairs_are_stacked():
    images, labels = stack_pairs([(torch.full((1, 2, 2), float(index)), index) for index in range(3)])
    assert images.shape == (3, 1, 2, 2)
    assert labels.tolist() == [0, 1, 2]
    with pytest.raises(ValueError, match="empty"):
        stack_pairs([])


def write_idx(path, values):
    data = b"\0\0\x08" + bytes([values.ndim]) + struct.pack(f">{values.ndim}I", *values.shape)
    data += values.to(torch.uint8).numpy().tobytes()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)


@pytest.mark.parametrize("name", ["values", "values.gz"])
def test_idx_files_are_read_plain_and_gzipped(tmp_path, name):
    values = torch.arange(24).reshape(2, 3, 4)
    write_idx(tmp_path / name, values)
    assert torch.equal(read_idx(tmp_path / name), values.to(torch.uint8))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "not an idx file"),
        (b"\0\0\x0d\1\0\0\0\1\0", "not an idx file"),
        (b"\0\0\x08\1\0\0\0\3ab", r"shape \[3\], but holds 2"),
        (b"\0\0\x08\2\0\0", "holds 0"),
    ],
)
def test_a_damaged_idx_file_is_refused(tmp_path, data, message):
    path = tmp_path / "values"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=message):
        read_idx(path)


@pytest.mark.parametrize("keep", [5, 20])
def test_a_damaged_gzip_file_is_refused(tmp_path, keep):
    path = tmp_path / "values.gz"
    write_idx(path, torch.zeros(10, 10))
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ValueError, match="truncated or not gzipped"):
        read_idx(path)


def write_fashion(folder, count, suffix=""):
    generator = torch.Generator().manual_seed(0)
    for prefix, size in (("train", count), ("t10k", 20)):
        images = torch.randint(0, 256, (size, 28, 28), generator=generator)
        write_idx(folder / f"{prefix}-images-idx3-ubyte.gz", images)
        write_idx(folder / f"{prefix}-labels-idx1-ubyte{suffix}", torch.arange(size) % 10)


def test_fashion_is_trained_on_the_same_images_whatever_the_sizes(tmp_path, monkeypatch):
    write_fashion(tmp_path, count=2100)
    monkeypatch.setenv("PRUNE_GYM_FASHION_MNIST", str(tmp_path))
    one = load_fashion_splits(calibration_size=50)
    other = load_fashion_splits(tmp_path, reward_size=1000, calibration_size=20)
    assert [len(one.train), len(one.calibration), len(one.reward), len(one.test)] == [100, 50, 2000, 20]
    assert [len(other.calibration), len(other.reward)] == [20, 1000]
    assert torch.equal(one.train.images, other.train.images)
    assert torch.equal(one.reward.images[:1000], other.reward.images)
    assert len(torch.cat([one.train.images, one.reward.images]).flatten(1).unique(dim=0)) == 2100
    assert one.train.labels.bincount().tolist() == [10] * 10


def test_fashion_without_its_files_says_how_to_get_them(tmp_path):
    with pytest.raises(FileNotFoundError, match="apt-get install dataset-fashion-mnist"):
        load_fashion_splits(tmp_path)


@pytest.mark.parametrize("options", [{"reward_size": 2001}, {"reward_size": 0}, {"calibration_size": 101}])
def test_fashion_sizes_out_of_range_are_refused(tmp_path, options):
    write_fashion(tmp_path, count=2100)
    with pytest.raises(ValueError, match=rf"{next(iter(options))} is in \[1, "):
        load_fashion_splits(tmp_path, **options)


def test_fashion_files_of_another_shape_are_refused(tmp_path):
    write_fashion(tmp_path, count=2100)
    write_idx(tmp_path / "t10k-labels-idx1-ubyte", torch.zeros(19))
    with pytest.raises(ValueError, match=r"the t10k files .* images \[20, 28, 28\] and labels \[19\]"):
        load_fashion_splits(tmp_path, calibration_size=50)


def test_too_few_fashion_images_to_hold_some_out_are_refused(tmp_path):
    write_fashion(tmp_path, count=2000)
    with pytest.raises(ValueError, match="2000 training images are too few to hold out 2000"):
        load_fashion_splits(tmp_path)
