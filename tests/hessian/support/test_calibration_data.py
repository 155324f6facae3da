"""Calibration data in whatever form a user has it."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from hessian.support.batches import Batch, as_batch, length, read_batches, read_pairs, regrouped

X, Y = torch.arange(240.0).view(20, 3, 2, 2), torch.arange(20)
CPU = torch.device("cpu")


class Items(Dataset):
    def __init__(self, kind):
        self.kind = kind

    def __len__(self):
        return 20

    def __getitem__(self, index):
        forms = {
            "images": X[index],
            "pairs": (X[index], int(Y[index])),
            "triples": (X[index], int(Y[index]), f"file{index}"),
            "dicts": {"image": X[index], "label": int(Y[index]), "path": "nowhere"},
        }
        return forms[self.kind]


class Stream(IterableDataset):
    def __iter__(self):
        return iter([X[index] for index in range(20)])


DATA = {
    "tensor": X,
    "tensor dataset": TensorDataset(X),
    "iterable dataset": Stream(),
    "loader of images": DataLoader(X, 7),
    "loader of an iterable dataset": DataLoader(Stream(), 7),
    "list of tensors": [X[:9], X[9:]],
    "generator": lambda: (part for part in X.split(6)),
    "pairs of inputs and None": [(X, None)],
    **{f"dataset of {kind}": Items(kind) for kind in ("images", "pairs", "triples", "dicts")},
    **{f"loader of {kind}": DataLoader(Items(kind), 7) for kind in ("images", "pairs", "triples", "dicts")},
}


@pytest.mark.parametrize("name", DATA)
def test_every_form_gives_the_same_images_and_leaves_the_random_stream_alone(name):
    data = DATA[name]() if callable(DATA[name]) else DATA[name]
    torch.manual_seed(0)
    before = torch.get_rng_state()
    batches = list(read_batches(data, CPU))
    if "loader" not in name:  # a loader of the user's draws its seed, as always
        assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(torch.cat([batch.images for batch in batches]), X)
    labelled = any(kind in name for kind in ("of pairs", "triples", "dicts"))
    for batch in batches:
        assert (batch.labels is not None) == labelled
    if labelled:
        assert torch.equal(torch.cat([batch.labels for batch in batches]), Y)


class Two(nn.Module):
    def forward(self, left, right, scale=1.0):
        return left + scale * right


class One(nn.Module):
    def forward(self, images):
        return images


@pytest.mark.parametrize(
    ("given", "model", "args", "keywords", "labelled"),
    [
        (((X, X), Y), None, 2, (), True),
        ([[X, X], Y], Two(), 2, (), True),
        ([[X, X], Y], One(), 1, (), True),
        (({"left": X, "right": X}, Y), None, 0, ("left", "right"), True),
        ({"left": X, "right": X, "labels": Y, "id": 3}, Two(), 0, ("left", "right"), True),
        ({"right": X, "left": X}, Two(), 0, ("right", "left"), False),
        ({"images": X, "target": Y}, One(), 1, (), True),
        ({"pixel_values": X}, Two(), 1, (), False),
        ([X, [{"boxes": X}]], None, 1, (), True),
        ((X.numpy(), Y), None, 1, (), True),
    ],
)
def test_what_the_network_is_called_with(given, model, args, keywords, labelled):
    batch = as_batch(given, model)
    assert (len(batch.args), tuple(batch.kwargs), batch.labels is not None) == (args, keywords, labelled)
    assert len(batch) == 20


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        ([], ValueError, "yields no images"),
        ([X[:0]], ValueError, "yields no images"),
        ([(X, Y[:3])], ValueError, "20 inputs but 3 labels"),
        ([{"picture": X}], ValueError, r"needs one of \('images'.*got keys \['picture'\]"),
        (["X"], ValueError, "got str"),
        ([("X", Y)], ValueError, "must hold tensors, got str"),
        ({"images": X}, TypeError, "loader or list of batches; got dict"),
        (3, TypeError, "got int"),
    ],
)
def test_what_is_no_calibration_data_is_named(data, error, message):
    with pytest.raises(error, match=message):
        list(read_batches(data, CPU))


def test_pairs_are_asked_for_by_name_where_labels_are_needed():
    assert [len(labels) for _, labels in read_pairs([(X, Y)], CPU)] == [20]
    with pytest.raises(ValueError, match="got images alone"):
        list(read_pairs(X, CPU))


def test_a_first_sample_keeps_the_form():
    one = Batch((X, {"more": [X, Y]}), {"flag": True}).first_sample()
    assert [len(one.args[0]), *map(len, one.args[1]["more"])] == [1, 1, 1]
    assert one.kwargs == {"flag": True}
    ragged = Batch(([X[0], X[1][:, :1]],))
    assert (len(ragged), len(ragged.first_sample().args[0])) == (2, 1)
    assert Batch((X,)).example.shape == (1, 3, 2, 2)
    assert Batch((), {"left": X, "right": X}).example.keys() == {"left", "right"}
    assert [len(part) for part in Batch((X, X)).example] == [1, 1]


def test_small_batches_of_one_shape_are_put_together():
    other = torch.zeros(2, 3, 4, 4)
    merged = regrouped([*map(as_batch, X.split(3)), as_batch(other), as_batch(X)], 8)
    assert [len(batch) for batch in merged] == [9, 9, 2, 2, 20]


def test_lengths_are_told_where_they_are_known():
    assert length(torch.zeros(250, 1)) == 3
    assert length(DataLoader(Items("images"), 7)) == 3
    assert length(DataLoader(Stream(), 7)) == length(iter([X])) == 0


def test_inference_tensors_become_ordinary_ones():
    with torch.inference_mode():
        images = X.clone()
    (batch,) = read_batches([images], CPU)
    assert not batch.images.is_inference()
    assert np.array_equal(batch.images, X)
