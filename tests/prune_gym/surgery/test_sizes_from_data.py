"""Networks that return as many rows as their values say, as detectors do with boxes."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from prune_gym import PhysicalPruner
from prune_gym.surgery.tracing import sizes_depend_on_data

IMAGE = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))


class Boxes(nn.Module):
    def __init__(self, pick):
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.maps, self.pick = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 5, 1), pick

    def forward(self, x):
        return self.pick(self.maps(F.relu(self.stem(x))).permute(0, 2, 3, 1).flatten(0, 2))


PICKS = {
    "mask": lambda rows: rows[rows[:, 0] > 0],
    "nonzero": lambda rows: rows[torch.where(rows[:, 0] > 0)[0]],
    "masked_select": lambda rows: rows.masked_select(rows > 0),
}


@pytest.mark.parametrize("pick", PICKS.values(), ids=PICKS)
def test_a_network_whose_number_of_boxes_depends_on_its_values_is_cut(pick):
    model = Boxes(pick).eval()
    pruned = PhysicalPruner(model, IMAGE).prune({"stem": [0, 1, 2, 3]})
    assert pruned.stem.out_channels == 4
    assert pruned(IMAGE).shape != model(IMAGE).shape


@pytest.mark.parametrize("pick", [lambda rows: rows[:, [0, 2]], lambda rows: rows.topk(3, 0)[0]])
def test_positions_written_in_code_and_the_largest_few_fix_sizes(pick):
    assert not sizes_depend_on_data(Boxes(pick), IMAGE)
