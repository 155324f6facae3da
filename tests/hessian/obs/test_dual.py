"""Few inputs, many columns: the N x N dual against the d x d path, in float64."""

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from hessian import HOBSSensitivityAnalyzer, KFACHessianApproximator, KroneckerFactors
from hessian.kfac.accumulation import InputVectors, MomentSum
from hessian.obs import DegenerateFactorError
from hessian.obs.factors import with_ridge
from hessian.obs.moments import DenseMoment, RowMoment
from hessian.obs.sweep import greedy_sweep
from hessian.pricing.layer_sweeps import sweep_layers
from hessian.support.distributed import SingleProcess
from tests.hessian import networks

TIGHT = {"atol": 1e-8, "rtol": 1e-8}
DAMPING = 1e-3


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def pair(groups=1, count=5, width=24, d_out=4, bias=False, seed=0):
    """The same curvature as rows and as matrices, and a weight."""
    rows, gradients = randn(groups, count, width, seed=seed), randn(groups, 3, d_out, seed=seed + 1)
    if bias:
        rows[..., -1] = 1 / count**0.5
    dual = KroneckerFactors(RowMoment(rows), RowMoment(gradients), bias)
    dense = KroneckerFactors(DenseMoment(dual.A), DenseMoment(dual.G), bias)
    return dual, dense, randn(groups, d_out, width, seed=seed + 2)


def both_consumers(blocks, **kwargs):
    dual, dense, weight = pair(**kwargs)
    return [factors.consumer(factors.damped(DAMPING), weight, blocks) for factors in (dual, dense)]


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("groups", [1, 2])
def test_the_refit_is_that_of_the_dense_factor(groups, bias):
    dual, dense, weight = pair(groups=groups, bias=bias)
    for kept in ([0, 3, 4, 9, 23], list(range(1, 24)), list(range(24))):
        kept = torch.tensor(kept)
        expected = dense.damped(DAMPING).refit(weight, kept)
        torch.testing.assert_close(dual.damped(DAMPING).refit(weight, kept), expected, **TIGHT)


def test_a_weight_larger_than_a_chunk_is_refitted_and_priced_all_the_same(monkeypatch):
    dual, dense, weight = pair(d_out=7)
    kept, blocks = torch.arange(0, 24, 2), torch.arange(24).view(12, 2)
    expected = dense.damped(DAMPING).refit(weight, kept)
    prices = dense.consumer(dense.damped(DAMPING), weight, blocks).single_prices()
    monkeypatch.setattr("hessian.obs.dual.CHUNK_ELEMENTS", 48)
    monkeypatch.setattr("hessian.obs.dual.CHUNK_COLUMNS", 4)
    damped = dual.damped(DAMPING)
    torch.testing.assert_close(damped.refit(weight, kept), expected, **TIGHT)
    consumer = dual.consumer(damped, weight, blocks)
    torch.testing.assert_close(consumer.single_prices(), prices, **TIGHT)


BLOCKS = {
    "single columns": torch.arange(24).view(24, 1),
    "units narrower than the rows": torch.arange(24).view(8, 3),
    "units wider than the rows": torch.arange(24).view(3, 8),
    "part of the columns, in disorder": torch.tensor([[20, 3], [7, 1], [0, 15], [11, 4]]),
}


@pytest.mark.parametrize("panel", [1, 6, 1000])
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("blocks", BLOCKS.values(), ids=BLOCKS)
def test_prices_order_and_curves_are_those_of_the_dense_factor(monkeypatch, blocks, groups, panel):
    monkeypatch.setattr("hessian.obs.sweep.PANEL_COLUMNS", panel)
    dual, dense = both_consumers(blocks, groups=groups)
    torch.testing.assert_close(dual.single_prices(), dense.single_prices(), **TIGHT)
    ours, theirs = greedy_sweep([dual]), greedy_sweep([dense])
    assert torch.equal(ours.order, theirs.order)
    torch.testing.assert_close(ours.increments, theirs.increments, **TIGHT)
    torch.testing.assert_close(dual.zeroing_curve(ours.order), dense.zeroing_curve(ours.order), **TIGHT)


def test_a_layer_with_consumers_of_both_forms_is_swept_as_if_all_were_dense():
    blocks = torch.arange(24).view(12, 2)
    duals, denses = zip(*(both_consumers(blocks, seed=seed) for seed in (0, 10)), strict=True)
    expected = greedy_sweep(denses)
    for consumers in ([duals[0], denses[1]], [denses[0], duals[1]], list(duals), list(denses)):
        sweep = greedy_sweep(consumers)
        assert torch.equal(sweep.order, expected.order)
        torch.testing.assert_close(sweep.increments, expected.increments, **TIGHT)


@pytest.mark.parametrize("groups", [1, 2])
def test_both_forms_of_a_second_moment_say_the_same(groups):
    rows = RowMoment(randn(groups, 5, 9))
    dense = DenseMoment(rows.matrix())
    for moment in (rows, dense):
        root = moment.root()
        torch.testing.assert_close(root.transpose(1, 2) @ root, dense.values)
        torch.testing.assert_close(moment.scaled(3.0).matrix(), 3 * dense.values)
        torch.testing.assert_close(moment.diagonal(), dense.values.diagonal(dim1=1, dim2=2))
        torch.testing.assert_close(moment.square_norm(), dense.values.square().sum(dim=(1, 2)))


@pytest.mark.parametrize("parts", [(2, 2), (2, 30), (30, 2), (4, 4, 4, 4)])
def test_rows_are_kept_while_they_are_few_and_sum_up_either_way(parts):
    layer, limit = nn.Linear(11, 3), 12
    total = MomentSum(limit)
    inputs = [randn(count, 11, seed=index) for index, count in enumerate(parts)]
    for images in inputs:
        total.add(InputVectors(layer, images, len(images), bias=True, reduce=False))
    everything = torch.cat([torch.cat(inputs), torch.ones(sum(parts), 1, dtype=torch.float64)], dim=1)
    moment = total.moment(total.count)
    assert isinstance(moment, RowMoment) == (sum(parts) < limit)
    torch.testing.assert_close(moment.matrix()[0], everything.T @ everything / sum(parts))


def test_rows_are_not_begun_where_the_coming_passes_will_be_too_many():
    total = MomentSum(12, passes=10)
    total.add(InputVectors(nn.Linear(12, 3), randn(2, 12), 2, bias=False, reduce=False))
    assert isinstance(total.moment(2), DenseMoment)


def flattened(channels=6, classes=4):
    """A convolution whose channels own 49 columns each in the Linear behind them."""
    return networks.enliven(
        nn.Sequential(
            nn.Conv2d(3, 5, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(5, channels, 2),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(49 * channels, 12),
            nn.ReLU(),
            nn.Linear(12, classes),
        )
    ).double()


def dense_forms(factors):
    return {
        name: KroneckerFactors(DenseMoment(each.A), DenseMoment(each.G), each.bias) for name, each in factors.items()
    }


def test_a_flattened_network_is_analysed_and_repaired_as_by_the_dense_path():
    model, (x, y) = flattened(), networks.images(10)
    hobs = HOBSSensitivityAnalyzer(model, dtype=torch.float64)
    hobs.compute_sensitivity([(x.double(), y)])
    assert isinstance(hobs.factors["5"].inputs, RowMoment)
    assert isinstance(hobs.factors["2"].inputs, DenseMoment)
    expected = sweep_layers(model, hobs.groups, dense_forms(hobs.factors), hobs.damping, SingleProcess())
    for name, curves in expected.items():
        torch.testing.assert_close(hobs.prices[name], curves.prices, **TIGHT)
        assert torch.equal(hobs.orders[name], curves.order)
        torch.testing.assert_close(hobs.curves[name], curves.repaired, **TIGHT)
        torch.testing.assert_close(hobs.obd_curves[name], curves.zeroed, **TIGHT)
    plan = hobs.get_pruning_plan(0.5)
    ours = hobs.compensate(plan)
    hobs.factors, hobs._compensator = dense_forms(hobs.factors), None
    for name, tensor in hobs.compensate(plan).items():
        torch.testing.assert_close(ours[name], tensor, **TIGHT)


def test_rows_survive_a_round_trip(tmp_path):
    model, (x, y) = flattened(), networks.images(10)
    hobs = HOBSSensitivityAnalyzer(model, example_input=x[:1].double())
    hobs.compute_sensitivity([(x.double(), y)])
    hobs.save(tmp_path / "analysis.safetensors")
    other = HOBSSensitivityAnalyzer(model, example_input=x[:1].double()).load(tmp_path / "analysis.safetensors")
    plan = hobs.get_pruning_plan(0.5)
    assert isinstance(other.factors["5"].inputs, RowMoment)
    assert all(torch.equal(tensor, hobs.compensate(plan)[name]) for name, tensor in other.compensate(plan).items())


class LargestTensor(TorchDispatchMode):
    """Elements of the largest tensor any operation makes."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        sizes = [leaf.numel() for leaf in tree_leaves(out) if isinstance(leaf, torch.Tensor)]
        self.elements = max([self.elements, *sizes])
        return out


def test_no_matrix_of_columns_by_columns_is_ever_formed():
    model, (x, y) = flattened(channels=24), networks.images(8)
    width = model[5].in_features
    with LargestTensor() as largest:
        hobs = HOBSSensitivityAnalyzer(model)
        hobs.compute_sensitivity([(x.double(), y)])
        hobs.compensate(hobs.get_pruning_plan(0.5))
    assert largest.elements < width**2 / 10


def test_a_factor_kept_as_rows_still_reads_as_a_matrix():
    x, y = randn(6, 39), torch.arange(6) % 3
    model = nn.Sequential(nn.Linear(39, 8), nn.Tanh(), nn.Linear(8, 3)).double()
    factors = KFACHessianApproximator(model, dtype=torch.float64).estimate([(x, y)])
    inputs = torch.cat([x, torch.ones(6, 1, dtype=torch.float64)], dim=1)
    assert isinstance(factors["0"].inputs, RowMoment)
    torch.testing.assert_close(factors["0"].A[0], inputs.T @ inputs / 6)


@pytest.mark.parametrize("scale", [0.0, 1e-160])
def test_dead_inputs_beside_a_constant_cost_nothing_in_either_form(scale):
    dual, _, weight = pair(bias=True)
    rows = dual.inputs.values.clone()
    rows[..., :-1] *= scale
    blocks, prices = torch.arange(22).view(11, 2), []
    for inputs in (RowMoment(rows), DenseMoment(rows.transpose(1, 2) @ rows)):
        factors = KroneckerFactors(inputs, dual.outputs, bias=True)
        damped = factors.damped(DAMPING)
        kept = torch.tensor([0, 5, 23])
        torch.testing.assert_close(damped.refit(weight, kept), weight[..., kept], **TIGHT)
        prices += [factors.consumer(damped, weight, blocks).single_prices()]
        assert greedy_sweep([factors.consumer(damped, weight, blocks)]).increments.sum() < 1e-9
    assert all((found >= 0).all() and (found < 1e-9).all() for found in prices)


@pytest.mark.parametrize(
    ("rows", "why"),
    [
        (1e12 * torch.ones(1, 3, 8, dtype=torch.float64), "not positive definite: use a larger damping"),
        (torch.full((1, 3, 8), torch.nan, dtype=torch.float64), "NaN or infinite values"),
    ],
    ids=["rows all alike and hardly damped", "rows that are no numbers"],
)
def test_degenerate_rows_are_refused_by_name_like_degenerate_matrices(rows, why):
    weight, ridge = randn(1, 2, 8), torch.full((1, 8), 1e-3, dtype=torch.float64)
    for moment in (RowMoment(rows), DenseMoment(rows.transpose(1, 2) @ rows)):
        with pytest.raises(DegenerateFactorError, match=why):
            with_ridge(moment, ridge).refit(weight, torch.arange(0, 8, 2))
        consumer = with_ridge(moment, ridge).consumer
        with pytest.raises(DegenerateFactorError, match=why):
            consumer(weight, RowMoment(randn(1, 2, 2)), torch.arange(8).view(8, 1)).single_prices()
