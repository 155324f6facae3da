"""A loader stands for what its batches are, and labels are whole numbers."""

import pytest
import torch
from torch.utils.data import DataLoader, SubsetRandomSampler

from prune_gym.data.loader_split import DatasetSplit, split_of_loader
from prune_gym.data.splits import TensorSplit, stack_pairs

PAIRS = [(torch.full((1, 2, 2), 10.0 * index), index % 2) for index in range(4)]


def tenth(pairs):
    return torch.stack([image for image, _ in pairs]) / 10, torch.tensor([label for _, label in pairs])


@pytest.mark.parametrize("sampler", [None, SubsetRandomSampler([0, 1, 2, 3])])
def test_what_a_loader_does_to_its_batches_is_kept(sampler):
    split = split_of_loader(DataLoader(PAIRS, batch_size=2, collate_fn=tenth, sampler=sampler))
    assert isinstance(split, TensorSplit)
    assert sorted(split.images[:, 0, 0, 0].tolist()) == [0.0, 1.0, 2.0, 3.0]


def test_a_plain_loader_stays_in_its_dataset():
    assert isinstance(split_of_loader(DataLoader(PAIRS, batch_size=2, shuffle=True)), DatasetSplit)


def test_labels_between_two_classes_are_refused():
    assert stack_pairs([(torch.zeros(1), 1.0)])[1].tolist() == [1]
    with pytest.raises(TypeError, match=r"whole numbers; got 1\.7"):
        stack_pairs([(torch.zeros(1), 1.7)])
