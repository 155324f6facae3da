"""Curvature of networks that return anything, on data with labels or without."""

import copy
import dataclasses
from typing import ClassVar

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from hessian import HOBSSensitivityAnalyzer, KFACHessianApproximator
from hessian.kfac.default_loss import default_loss
from hessian.kfac.loss_curvature import FlatOutputs, curvature_vectors, root_product
from hessian.support.batches import Batch
from tests.hessian import networks


@dataclasses.dataclass
class Output:
    logits: torch.Tensor
    note: str = "kept"


class Net(nn.Module):
    """A convolutional network whose last maps leave in one of many forms."""

    FORMS: ClassVar = {
        "classes": lambda maps: maps.mean(dim=(2, 3)),
        "segmentation": lambda maps: maps,
        "regression": lambda maps: maps.mean(dim=(1, 2, 3)),
        "column": lambda maps: maps.mean(dim=(1, 2, 3))[:, None],
        "tuple": lambda maps: (maps.mean(dim=(2, 3)), maps[:, :2]),
        "dict": lambda maps: {"out": maps, "size": maps.shape[2]},
        "nested": lambda maps: {"boxes": [maps[:, :2], {"scores": maps.mean(dim=(1, 2, 3))}], "ids": torch.arange(3)},
        "dataclass": lambda maps: Output(maps.mean(dim=(2, 3))),
        "several sizes": lambda maps: [maps[0, :, 0], maps[-1]],
    }

    def __init__(self, form):
        super().__init__()
        self.form = form
        self.first, self.second = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 4, 3, padding=1)

    def forward(self, x):
        return self.FORMS[self.form](self.second(torch.relu(self.first(x))))


def net(form):
    torch.manual_seed(0)
    return Net(form).eval()


def factors(model, data, criterion=None, **options):
    return KFACHessianApproximator(model).estimate(data, criterion, **options)


@pytest.mark.parametrize("form", Net.FORMS)
def test_images_alone_are_enough_whatever_comes_out(form):
    x, _ = networks.images(24)
    for factor in factors(net(form), [x]).values():
        assert torch.isfinite(factor.G).all()
        assert factor.G.diagonal(dim1=1, dim2=2).sum() > 0


@pytest.mark.parametrize("form", ["classes", "segmentation", "dataclass"])
def test_logits_have_the_curvature_of_cross_entropy_without_labels(form):
    x, _ = networks.images(24)
    labels = torch.randint(0, 4, (24, 8, 8) if form == "segmentation" else (24,))
    alone, labelled = (
        factors(net(form), [x]),
        factors(net(form), [(x, labels)], F.cross_entropy if form != "dataclass" else None),
    )
    for name, factor in alone.items():
        torch.testing.assert_close(factor.G, labelled[name].G)


@pytest.mark.parametrize("form", ["regression", "column"])
def test_numbers_have_the_curvature_of_squared_error(form):
    x, _ = networks.images(24)
    alone, labelled = factors(net(form), [x]), factors(net(form), [(x, torch.randn(24))])
    explicit = factors(net(form), [(x, torch.zeros(24) if form == "regression" else torch.zeros(24, 1))], F.mse_loss)
    for name, factor in alone.items():
        torch.testing.assert_close(factor.G, labelled[name].G)
        torch.testing.assert_close(factor.G, explicit[name].G)


def test_several_outputs_have_the_sum_of_their_curvatures():
    outputs = (torch.randn(5, 3, requires_grad=True), {"map": torch.randn(5, 2, 2, 2, requires_grad=True)})
    (first, *rest) = curvature_vectors(outputs, None, None, "sketch", torch.Generator().manual_seed(0))
    assert len(rest) == 1
    torch.testing.assert_close(first[0].square(), torch.full((5, 3), 2 / 3))
    torch.testing.assert_close(rest[0][1].square(), torch.full((5, 2, 2, 2), 2 / 8))
    assert first[1].abs().max() == rest[0][0].abs().max() == 0


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_binary_cross_entropy_has_its_closed_form(reduction):
    outputs, labels = torch.randn(6, 5, dtype=torch.float64), torch.randint(0, 2, (6, 5)).double()
    criterion = nn.BCEWithLogitsLoss(reduction=reduction)

    class Derived(nn.BCEWithLogitsLoss):
        pass

    def curvature(loss, fisher="type-2"):
        vectors = curvature_vectors(
            outputs.clone().requires_grad_(), labels, loss, fisher, torch.Generator().manual_seed(0)
        )
        return sum(torch.einsum("ni,nj->nij", vector, vector) for (vector,) in vectors)

    torch.testing.assert_close(curvature(criterion), curvature(Derived(reduction=reduction)))
    for fisher in ("sketch", "mc"):
        many, generator = outputs[:1].repeat(40_000, 1), torch.Generator().manual_seed(1)
        ((drawn,),) = curvature_vectors(many.requires_grad_(), None, criterion, fisher, generator)
        torch.testing.assert_close(drawn.T @ drawn / len(drawn), curvature(criterion)[0], atol=0.02, rtol=0.1)


def nested_criterion(outputs, labels):
    boxes, scores = outputs["boxes"][0], outputs["boxes"][1]["scores"]
    return (boxes.exp() * labels["weight"].view(-1, 1, 1, 1)).mean() + 0.5 * (scores**2).sum()


def test_a_criterion_of_nested_outputs_and_labels_has_its_own_curvature():
    model, (x, _) = net("nested"), networks.images(4)
    labels = {"weight": torch.tensor([1.0, 2.0, 3.0, 4.0])}
    outputs = model(x)
    flat = FlatOutputs(outputs, labels)
    vectors = curvature_vectors(outputs, labels, nested_criterion, "type-2", torch.Generator())
    rows = [torch.cat([part.reshape(4, -1) for part in parts], dim=1) for parts in vectors]
    found = sum(torch.einsum("ni,nj->nij", row, row) for row in rows)
    boxes = outputs["boxes"][0].detach()
    diagonal = torch.cat(
        [(boxes.exp() * labels["weight"].view(-1, 1, 1, 1)).flatten(1) / boxes[0].numel(), torch.ones(4, 1)], 1
    )
    torch.testing.assert_close(found, torch.diag_embed(diagonal), atol=1e-5, rtol=1e-4)
    assert flat.values.shape == (4, 2 * 64 + 1)
    assert factors(model, [(x, labels)], nested_criterion).keys() == {"first", "second"}


def test_the_square_root_of_a_large_hessian_is_found_by_products():
    torch.manual_seed(0)
    outputs, labels = torch.randn(3, 4, 5, dtype=torch.float64), torch.randint(0, 4, (3, 5))
    weighted = nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0, 0.5, 3.0], dtype=torch.float64))
    flat = FlatOutputs(outputs.requires_grad_(), labels)
    start = torch.randn(3, 20, dtype=torch.float64)
    found = root_product(flat.values, flat, weighted, start)
    for n in range(3):
        hessian = torch.func.hessian(lambda z, n=n: flat.loss(weighted, n, z))(flat.values[n])
        values, vectors = torch.linalg.eigh(hessian)
        expected = vectors @ (values.clamp_min(0).sqrt() * (vectors.T @ start[n]))
        torch.testing.assert_close(found[n], expected, atol=1e-7, rtol=1e-6)


def test_a_large_segmentation_map_with_a_criterion_of_ones_own_is_affordable(monkeypatch):
    monkeypatch.setattr("hessian.kfac.loss_curvature.DENSE_OUTPUTS", 16)
    x, _ = networks.images(6)
    labels = torch.randint(0, 4, (6, 8, 8))
    own = factors(net("segmentation"), [(x, labels)], lambda z, y: F.cross_entropy(z, y))
    closed = factors(net("segmentation"), [(x, labels)], F.cross_entropy)
    for name in own:  # other signs: alike, not equal
        ratio = own[name].G.diagonal(dim1=1, dim2=2).sum() / closed[name].G.diagonal(dim1=1, dim2=2).sum()
        assert 0.5 < ratio < 2


@pytest.mark.parametrize(
    ("labels", "outputs", "loss"),
    [
        (None, (4, 3), F.cross_entropy),
        (None, (4, 3, 2, 2), F.cross_entropy),
        (None, (4,), F.mse_loss),
        (None, (4, 1), F.mse_loss),
        (torch.zeros(4, dtype=torch.long), (4, 3), F.cross_entropy),
        (torch.zeros(4, 2, 2, dtype=torch.int32), (4, 3, 2, 2), F.cross_entropy),
        (torch.full((4, 3), 1 / 3), (4, 3), F.cross_entropy),
        (torch.ones(4, 3), (4, 3), F.mse_loss),
        (torch.randn(4, 1), (4,), F.mse_loss),
    ],
)
def test_the_default_loss_follows_from_outputs_and_labels(labels, outputs, loss):
    assert default_loss(torch.zeros(outputs), labels) is loss


@pytest.mark.parametrize("labels", [torch.zeros(4, dtype=torch.long), torch.zeros(4, 7), {"boxes": torch.zeros(4)}])
def test_labels_that_fit_no_default_loss_are_named_before_work(labels):
    model, (x, _) = net("segmentation"), networks.images(4)
    with pytest.raises(ValueError, match="criterion=<your loss>"):
        factors(model, [(x, labels)])


def test_a_criterion_that_needs_labels_is_refused_on_images_alone_before_any_pass():
    model, (x, _) = net("classes"), networks.images(4)
    model.register_forward_pre_hook(lambda *_: pytest.fail("the network was run"))
    for options in ({"criterion": lambda z, y: (z[:, 0] * y).mean()}, {"fisher": "empirical"}):
        with pytest.raises(ValueError, match="needs labels, but the data is images alone"):
            KFACHessianApproximator(model).estimate([Batch((x,), {})], **options)
    for options in ({"criterion": nn.CrossEntropyLoss()}, {"criterion": F.mse_loss}, {"fisher": "mc"}):
        factors(net("classes"), [x], **options)


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.shared, self.head = nn.Linear(5, 4), nn.Linear(4, 3)

    def forward(self, a, b):
        return self.head(self.shared(a) + self.shared(b))


def test_a_layer_that_runs_twice_counts_its_samples_once():
    torch.manual_seed(0)
    model, a, b = Twice(), torch.randn(40, 5), torch.randn(40, 5)
    twice = factors(model, [((a, b), None)])["shared"]
    once = factors(nn.Sequential(model.shared, model.head), [a + b - a])["1"]
    assert once.G.shape == (1, 3, 3)
    # Both calls get the same gradient: G is the sum over positions, as it is of a convolution's.
    single = KFACHessianApproximator(model, layers=["head"]).estimate([((a, b), None)])["head"].G
    expected = 2 * model.head.weight.T @ single[0] @ model.head.weight
    torch.testing.assert_close(twice.G[0], expected.detach(), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(twice.A[0, :5, :5], (a.T @ a + b.T @ b) / 80, atol=1e-5, rtol=1e-4)


def test_inputs_alone_give_the_same_repair_as_the_whole_curvature():
    model, (x, y) = networks.make(networks.MobileBlock), networks.images(60)
    whole, inputs = (HOBSSensitivityAnalyzer(model, example_input=x[:1]) for _ in range(2))
    whole.compute_sensitivity([(x, y)])
    inputs.measure_inputs([x])
    plan = whole.get_pruning_plan(0.4)
    expected = whole.compensate(plan)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in inputs.compensate(plan).items())


class SamePadding(nn.Conv2d):
    def forward(self, x):
        return F.conv2d(F.pad(x, (0, 1, 0, 1)), self.weight, self.bias, self.stride)


@pytest.mark.parametrize("approximation", ["expand", "reduce"])
def test_a_convolution_that_pads_itself_has_the_factors_of_what_it_computes(approximation):
    x, y = networks.images(20)
    layers = [nn.Conv2d(3, 4, 3, stride=2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 4)]
    plain = nn.Sequential(nn.ZeroPad2d((0, 1, 0, 1)), *layers)
    own = nn.Sequential(SamePadding(3, 4, 3, stride=2), *copy.deepcopy(layers[1:]))
    own[0].load_state_dict(layers[0].state_dict())
    found = KFACHessianApproximator(own, approximation=approximation).estimate([(x, y)])["0"]
    expected = KFACHessianApproximator(plain, approximation=approximation).estimate([(x, y)])["1"]
    torch.testing.assert_close(found.A, expected.A)
    torch.testing.assert_close(found.G, expected.G)
    diagonals = []
    for model, name in ((own, "0"), (plain, "1")):
        with KFACHessianApproximator(model, update_freq=1).register_hooks() as kfac:
            F.cross_entropy(model(x), y).backward()
            kfac.update_factors()
        diagonals.append(kfac.compute_fisher_diagonal(name))
    torch.testing.assert_close(*diagonals)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_networks_have_the_curvature_of_their_full_precision_selves(dtype):
    x, y = networks.images(40)
    model = networks.make(networks.Residual)
    full = factors(model, [(x, y)])
    half = factors(networks.make(networks.Residual).to(dtype), [(x.to(dtype), y)])
    for name, factor in half.items():
        assert factor.A.dtype is torch.float32
        for found, expected in ((factor.A, full[name].A), (factor.G, full[name].G)):
            assert (found - expected).norm() < 0.1 * expected.norm(), name
