"""Batches are read as often as asked, and no oftener."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from hessian import HOBSSensitivityAnalyzer, KFACHessianApproximator
from hessian.kfac.loss_curvature import backpropagated_vectors
from hessian.support.batches import read_batches

LABELS = torch.tensor([0, 1, 2, 0, 1, 2])


@pytest.fixture
def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.Flatten(), nn.Linear(64, 3))


def images(seed=0):
    return torch.randn(6, 1, 8, 8, generator=torch.Generator().manual_seed(seed))


def test_no_batch_is_read_beyond_the_last_one_asked_for():
    read = []

    def loader():
        for index in range(5):
            read.append(index)
            yield torch.zeros(2, 1), torch.zeros(2)

    assert len(list(read_batches(loader(), torch.device("cpu"), 3))) == 3
    assert read == [0, 1, 2]


def test_a_loader_that_can_be_read_once_is_refused_where_its_first_batch_is_needed_twice(model):
    batches = [(images(), LABELS), (images(1), LABELS)]
    with pytest.raises(ValueError, match="can be read only once"):
        HOBSSensitivityAnalyzer(model).measure_curvature(iter(batches))
    once = HOBSSensitivityAnalyzer(model, example_input=images()[:1]).measure_curvature(iter(batches))
    again = HOBSSensitivityAnalyzer(model).measure_curvature(batches)
    for name in once:
        torch.testing.assert_close(once[name].A, again[name].A)


def test_a_failed_estimate_leaves_nothing_behind(model):
    kfac = KFACHessianApproximator(model, update_freq=1)
    with pytest.raises(ValueError, match="NaN or infinite"):
        kfac.estimate([(100 * images(), LABELS), (images() * torch.nan, LABELS)])
    with kfac.register_hooks():
        F.cross_entropy(model(images()), LABELS).backward()
        kfac.update_factors()
    fresh = KFACHessianApproximator(model, update_freq=1)
    with fresh.register_hooks():
        F.cross_entropy(model(images()), LABELS).backward()
        fresh.update_factors()
    assert torch.equal(kfac.factors["0"].A, fresh.factors["0"].A)


class Tripled(nn.CrossEntropyLoss):
    def forward(self, outputs, labels):
        return 3 * super().forward(outputs, labels)


def test_a_loss_derived_from_cross_entropy_has_its_own_curvature():
    outputs = torch.randn(6, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    def curvature(criterion):
        vectors = backpropagated_vectors(outputs, LABELS, criterion, "type-2", torch.Generator())
        return sum(torch.einsum("ni,nj->nij", vector, vector) for vector in vectors)

    torch.testing.assert_close(curvature(Tripled()), 3 * curvature(nn.CrossEntropyLoss()))


def test_a_criterion_without_finite_curvature_is_named():
    with pytest.raises(ValueError, match="second derivative has NaN"):
        list(
            backpropagated_vectors(
                torch.zeros(2, 3), LABELS[:2], lambda z, y: z.abs().sqrt().sum(), "sketch", torch.Generator()
            )
        )
