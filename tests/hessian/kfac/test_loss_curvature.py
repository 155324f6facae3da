"""Back-propagated vectors carry the loss Hessian of every sample, as automatic differentiation finds it."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from hessian import HOBSSensitivityAnalyzer, KFACHessianApproximator
from hessian.kfac import loss_curvature
from hessian.kfac.loss_curvature import backpropagated_vectors
from hessian.pricing.exact import dense_ggn

CRITERIA = {
    "None": None,
    "mean": nn.CrossEntropyLoss(),
    "sum": nn.CrossEntropyLoss(reduction="sum"),
    "smoothed sum": nn.CrossEntropyLoss(label_smoothing=0.2, reduction="sum"),
    "ignoring 1": nn.CrossEntropyLoss(ignore_index=1),
    "ignoring 1, sum": nn.CrossEntropyLoss(ignore_index=1, reduction="sum"),
    "weighted sum": nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0, 3.0]).double(), reduction="sum"),
    "squares": nn.MSELoss(),
    "sum of squares": nn.MSELoss(reduction="sum"),
}


def sample(shape, criterion, seed=0):
    generator = torch.Generator().manual_seed(seed)
    outputs = torch.randn(1, 3, *shape, generator=generator, dtype=torch.float64)
    if isinstance(criterion, nn.MSELoss):
        return outputs, torch.randn(outputs.shape, generator=generator, dtype=torch.float64)
    return outputs, torch.randint(0, 3, (1, *shape), generator=generator)


def hessian_of(outputs, labels, criterion):
    loss = criterion or F.cross_entropy
    size = outputs.numel()
    return torch.func.hessian(lambda z: loss(z, labels))(outputs).view(size, size)


@pytest.mark.parametrize("shape", [(), (2,), (2, 3)], ids=str)
@pytest.mark.parametrize("name", CRITERIA)
def test_the_sketch_is_a_square_root_of_the_hessian(name, shape, monkeypatch):
    criterion = CRITERIA[name]
    outputs, labels = sample(shape, criterion)
    if name.startswith("ignoring") and not shape:
        labels = labels.fill_(2)  # a sample without any label has no mean loss
    columns = []
    for entry in range(outputs.numel()):
        unit = torch.eye(outputs.numel(), dtype=torch.float64)[entry]
        monkeypatch.setattr(loss_curvature, "_signs", lambda like, _, unit=unit: unit.view_as(like))
        (vector,) = backpropagated_vectors(outputs, labels, criterion, "sketch", torch.Generator())
        columns.append(vector.flatten())
    root = torch.stack(columns, dim=1)
    torch.testing.assert_close(root @ root.T, hessian_of(outputs, labels, criterion))


@pytest.mark.parametrize("name", ["None", "sum", "ignoring 1", "ignoring 1, sum", "squares", "sum of squares"])
def test_sampled_labels_average_to_the_hessian(name):
    criterion, draws = CRITERIA[name], 40_000
    outputs, labels = sample((2,), criterion)
    many = outputs.expand(draws, -1, -1), labels.expand(draws, *labels.shape[1:])
    (vectors,) = backpropagated_vectors(*many, criterion, "mc", torch.Generator().manual_seed(0))
    mean = torch.einsum("ni,nj->ij", vectors.flatten(1), vectors.flatten(1)) / draws
    exact = hessian_of(outputs, labels, criterion)
    assert (mean - exact).norm() < 0.05 * exact.norm()


@pytest.mark.parametrize("shape", [(), (1, 1)], ids=str)
@pytest.mark.parametrize("name", ["None", "sum", "ignoring 1, sum"])
def test_type_2_is_exact_at_one_position(name, shape):
    outputs, labels = sample(shape, CRITERIA[name])
    vectors = backpropagated_vectors(outputs, labels, CRITERIA[name], "type-2", torch.Generator())
    columns = torch.stack([vector.flatten() for vector in vectors], dim=1)
    torch.testing.assert_close(columns @ columns.T, hessian_of(outputs, labels, CRITERIA[name]))


@pytest.mark.parametrize("fisher", ["sketch", "mc"])
def test_a_sample_that_is_ignored_altogether_has_no_curvature(fisher):
    outputs = torch.randn(2, 3, 2, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([[-100, -100], [0, -100]])
    (vectors,) = backpropagated_vectors(outputs, labels, None, fisher, torch.Generator().manual_seed(0))
    assert not vectors[0].any()
    assert not vectors[1, :, 1].any()
    assert vectors[1, :, 0].all()


class Dense(nn.Module):
    """A label at every position."""

    def __init__(self):
        super().__init__()
        self.hidden, self.head = nn.Conv2d(2, 4, 1, bias=False), nn.Conv2d(4, 3, 1, bias=False)

    def forward(self, x):
        return self.head(torch.relu(self.hidden(x)))


@pytest.mark.parametrize("name", ["mean", "sum"])
def test_trace_calibrated_factors_have_the_trace_of_the_exact_curvature_in_dense_prediction(name):
    torch.manual_seed(0)
    model, criterion = Dense().double(), CRITERIA[name]
    x, y = torch.randn(1, 2, 2, 2).double().repeat(4000, 1, 1, 1), torch.zeros(4000, 2, 2, dtype=torch.long)
    kfac = KFACHessianApproximator(model, dtype=torch.float64, trace_calibration=True)
    factors = kfac.estimate([(x, y)], criterion, None)
    for layer in ("hidden", "head"):
        traces = factors[layer].A[0].trace() * factors[layer].G[0].trace()
        exact = dense_ggn(model, x[:1], y[:1], criterion, f"{layer}.weight").trace()
        assert traces.item() == pytest.approx(exact.item(), rel=0.1)


def test_prices_of_a_summed_loss_are_those_of_its_mean_times_the_positions():
    torch.manual_seed(0)
    model = Dense()
    batch = torch.randn(8, 2, 3, 3), torch.randint(0, 3, (8, 3, 3))
    prices = {}
    for name in ("mean", "sum"):
        hobs = HOBSSensitivityAnalyzer(model, example_input=batch[0][:1])
        prices[name] = hobs.compute_sensitivity([batch], CRITERIA[name])["hidden"]
    torch.testing.assert_close(prices["sum"], 9 * prices["mean"])
