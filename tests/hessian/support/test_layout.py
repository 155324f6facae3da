"""Memory layouts: a network whose forward insists on one keeps it, everywhere."""

import pytest
import torch
from torch import nn

from hessian import HOBSSensitivityAnalyzer
from hessian.refit.sequential import SequentialRefitter
from hessian.support.layout import layout_for, preferred_layout, unchanged


class Insistent(nn.Module):
    """Flattens by ``view``, which maps laid out channels last refuse."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3, padding=1)
        self.second = nn.Conv2d(6, 5, 3)
        self.head = nn.Linear(5 * 6 * 6, 4)

    def forward(self, x):
        maps = torch.relu(self.second(torch.relu(self.conv(x))))
        return self.head(maps.view(maps.shape[0], -1))


class Easy(Insistent):
    def forward(self, x):
        return self.head(torch.relu(self.second(torch.relu(self.conv(x)))).flatten(1))


@pytest.fixture
def images():
    return torch.randn(8, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def test_a_layout_the_network_refuses_is_not_used(images):
    assert layout_for(Insistent(), images[:1]) is unchanged
    assert layout_for(Easy(), images[:1]) is preferred_layout


def test_both_kinds_of_network_get_the_same_analysis_and_repair(images):
    torch.manual_seed(0)
    insistent, easy = Insistent().eval(), Easy().eval()
    easy.load_state_dict(insistent.state_dict())
    labels = torch.arange(8) % 4
    prices, states = [], []
    for model in (insistent, easy):
        hobs = HOBSSensitivityAnalyzer(model, example_input=images[:1])
        prices.append(hobs.compute_sensitivity([(images, labels)]))
        states.append(SequentialRefitter(model, hobs.groups, [images]).state({"conv": [0, 2], "second": [1]}))
    for name, price in prices[0].items():
        torch.testing.assert_close(price, prices[1][name], rtol=1e-3, atol=1e-9)
    for name, tensor in states[0].items():
        # Of a layer's scale: float32 sums in another order, divided by small eigenvalues.
        scale = float(tensor.abs().max()) if tensor.numel() else 0.0
        torch.testing.assert_close(tensor, states[1][name], rtol=0.0, atol=5e-3 * scale)
