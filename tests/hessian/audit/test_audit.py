"""The audit: what it calls true is true, and its verdicts follow from what it measured."""

import copy
import dataclasses
import json
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import stats
from torch import nn
from torch.func import functional_call

from hessian import HOBSSensitivityAnalyzer, KFACHessianApproximator
from hessian.audit.feature_error import FeatureAudit
from hessian.audit.rank_correlation import mean_within, pooled, spearman
from hessian.audit.report import AuditReport
from hessian.obs import damped, quadratic
from hessian.patches.filter_norms import filter_norms
from hessian.patches.matrices import weight_matrix
from hessian.pricing.exact import ggn_quadratic, removal_deltas
from tests.hessian import networks


def analyzed(kind=networks.Residual, count=48, **kwargs):
    hobs = HOBSSensitivityAnalyzer(networks.make(kind), **kwargs)
    hobs.compute_sensitivity([networks.images(count)])
    return hobs


def audited(hobs, **kwargs):
    return hobs.audit([networks.images(48)], **{"channels_per_layer": 3, "fractions": (0.5,), **kwargs})


def outputs_after(hobs, removal, x):
    """The repaired network as a weight change of the dense one: another road to the same outputs."""
    group = next(group for group in hobs.groups if group.name == removal.layer)
    deltas = removal_deltas(hobs.analysis, {group.name: group.channels(removal.units)}, repaired=True)
    changed = {name: value + deltas[name] for name, value in hobs.model.named_parameters() if name in deltas}
    with torch.no_grad():
        return functional_call(hobs.model, changed, (x,)), deltas


# ---------------------------------------------------------------- removals


def test_the_true_kl_and_loss_change_are_those_of_the_repaired_network():
    hobs = analyzed()
    x, y = networks.images(48)
    with torch.no_grad():
        dense = hobs.model(x)
    report = audited(hobs)
    for removal in (*report.channels, *report.cuts):
        pruned, _ = outputs_after(hobs, removal, x)
        kl = F.kl_div(pruned.log_softmax(1), dense.log_softmax(1), reduction="batchmean", log_target=True)
        assert removal.kl == pytest.approx(kl.item(), rel=1e-3, abs=1e-7)
        assert removal.loss_change == pytest.approx(
            (F.cross_entropy(pruned, y) - F.cross_entropy(dense, y)).item(), abs=1e-6
        )
        assert sum(removal.kl_halves) / 2 == pytest.approx(removal.kl)


def test_for_another_criterion_the_divergence_is_its_own():
    def half_square(outputs, targets):
        return 0.5 * (outputs - targets).square().sum(dim=1).mean()

    model, (x, _) = networks.make(networks.Residual), networks.images(48)
    targets = torch.randn(48, 4, generator=torch.Generator().manual_seed(0))
    hobs = HOBSSensitivityAnalyzer(model)
    hobs.compute_sensitivity([(x, targets)], half_square)
    report = hobs.audit([(x, targets)], half_square, channels_per_layer=1, fractions=(0.5,))
    for removal in report.cuts:
        pruned, _ = outputs_after(hobs, removal, x)
        with torch.no_grad():
            expected = half_square(pruned, model(x)).item()
        assert removal.kl == pytest.approx(expected, rel=1e-3)


def test_the_exact_quadratic_is_that_of_the_same_change_whatever_the_batches():
    hobs = analyzed()
    x, y = networks.images(48)
    report = hobs.audit([(x[:30], y[:30]), (x[30:], y[30:])], channels_per_layer=2, fractions=(0.25, 0.5))
    for removal in (*report.channels, *report.cuts):
        _, deltas = outputs_after(hobs, removal, x)
        assert removal.exact == pytest.approx(ggn_quadratic(hobs.model, x, y, None, deltas).item(), rel=1e-3)


@pytest.mark.parametrize("kind", networks.ALL)
def test_every_structure_is_audited_with_its_own_prices(kind):
    hobs = analyzed(kind)
    report = audited(hobs)
    for removal in report.channels:
        assert removal.predicted == hobs.prices[removal.layer][removal.units[0]].item()
    for removal in report.cuts:
        assert removal.predicted == hobs.curves[removal.layer][len(removal.units)].item()
        assert list(removal.units) == hobs.orders[removal.layer][: len(removal.units)].tolist()
    assert [row.layer for row in report.features] == [group.name for group in hobs.groups if group.num_units > 1]
    values = [value for row in report.features for value in dataclasses.astuple(row)[1:]]
    assert all(math.isfinite(value) and value >= 0 for value in values)
    assert report.images == 48


def test_units_are_sampled_without_replacement_and_no_more_than_there_are():
    hobs = analyzed()
    report = audited(hobs, channels_per_layer=1000)
    for group in hobs.groups:
        assert [r.units for r in report.channels if r.layer == group.name] == [(u,) for u in range(group.num_units)]


def test_the_network_is_left_as_it_was():
    hobs = analyzed()
    before = copy.deepcopy(hobs.model.state_dict())
    hobs.model.train()
    audited(hobs)
    assert all(module.training for module in hobs.model.modules())
    assert all(torch.equal(value, before[name]) for name, value in hobs.model.state_dict().items())
    assert all(parameter.requires_grad for parameter in hobs.model.parameters())


def test_same_seed_same_report_and_another_seed_another_sample():
    hobs = analyzed()
    first, second, other = audited(hobs), audited(hobs), audited(hobs, seed=1)
    assert first.to_dict() == second.to_dict()
    assert [removal.units for removal in first.channels] != [removal.units for removal in other.channels]


def test_progress_runs_to_its_total():
    calls = []
    audited(analyzed(), progress=lambda *call: calls.append(call))
    assert [done for _, done, _ in calls] == list(range(1, calls[-1][2] + 1))
    assert list(dict.fromkeys(name for name, _, _ in calls)) == ["single channels", "cuts", "feature errors"]


# ---------------------------------------------------------------- verdicts


def test_the_verdicts_are_the_rank_correlations_of_what_was_measured():
    report = audited(analyzed(), channels_per_layer=6, fractions=(0.25, 0.5))
    price = [(removal.predicted, removal.kl) for removal in report.cuts]
    exact = [(removal.exact, removal.kl) for removal in report.channels]
    halves = [removal.kl_halves for removal in report.cuts if removal.fraction == 0.5]
    assert report.price.across_layers.value == pytest.approx(stats.spearmanr(*zip(*price, strict=True))[0])
    assert report.exact.single_channels.value == pytest.approx(stats.spearmanr(*zip(*exact, strict=True))[0])
    assert report.reliability.by_fraction[0.5].value == pytest.approx(stats.spearmanr(*zip(*halves, strict=True))[0])
    assert report.price.across_layers.count == len(report.cuts)


def test_exact_quadratics_judge_small_changes_well():
    report = audited(analyzed(count=96), channels_per_layer=12)
    assert report.exact.single_channels.value > 0.9


def test_spearman_is_scipys_ties_included_and_undefined_for_constants():
    pairs = np.random.default_rng(0).integers(0, 5, size=(40, 2)).astype(float)
    assert spearman(pairs) == pytest.approx(stats.spearmanr(pairs[:, 0], pairs[:, 1])[0])
    assert math.isnan(spearman(np.array([[1.0, 2.0], [1.0, 3.0]])))
    assert math.isnan(spearman(np.array([[1.0, 2.0]])))


def test_within_layers_ignores_how_layers_compare_and_pooling_does_not():
    rising = np.array([[0.0, 0.0], [1.0, 1.0], [2.0, 2.0]])
    opposed = [rising, rising + np.array([10.0, -10.0])]
    assert mean_within(opposed).value == 1.0
    assert pooled(opposed).value < 0


def test_intervals_hold_the_value_and_shrink_with_the_number_of_layers():
    generator = np.random.default_rng(0)

    def layers(count):
        truth = generator.normal(size=(count, 20, 1))
        return list(np.concatenate([truth, truth + 0.7 * generator.normal(size=truth.shape)], axis=2))

    for statistic in (pooled, mean_within):
        few, many = statistic(layers(5)), statistic(layers(80))
        assert few.low <= few.value <= few.high
        assert many.high - many.low < few.high - few.low
        assert statistic(layers(5), seed=1).low != few.low


def test_one_layer_gives_a_value_without_an_interval():
    lone = pooled([np.array([[1.0, 2.0], [2.0, 3.0], [3.0, 1.0]])])
    assert lone.value == pytest.approx(-0.5)
    assert math.isnan(lone.low)
    assert math.isnan(mean_within([np.array([[1.0, 2.0]])]).value)


def test_the_report_is_json_whatever_is_undefined():
    report = audited(analyzed(), channels_per_layer=1)
    assert math.isnan(report.price.within_layers.value)
    content = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert content["price"]["within_layers"]["value"] is None
    assert content["price"]["by_fraction"]["0.5"]["count"] == len(report.cuts)
    assert content["mean_features"]["hobs"] == pytest.approx(np.mean([row.hobs for row in report.features]))


# ---------------------------------------------------------------- features


class Chain(nn.Module):
    """A layer of 6 between two linear maps, nothing else."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(5, 6), nn.Linear(6, 4)

    def forward(self, x):
        return self.second(self.first(x))


def chain():
    generator = torch.Generator().manual_seed(3)
    x, y = torch.randn(64, 5, generator=generator), torch.randint(0, 4, (64,), generator=generator)
    hobs = HOBSSensitivityAnalyzer(networks.enliven(Chain()), damping=1e-6)
    hobs.compute_sensitivity([(x, y)])
    factors = KFACHessianApproximator(hobs.model, layers=["first"]).estimate([(x, y)])
    return hobs, x, factors


def relative(given, wanted):
    return ((given - wanted).square().sum() / wanted.square().sum()).item()


def test_feature_errors_are_the_relative_change_of_the_consumers_outputs():
    hobs, x, factors = chain()
    (group,) = hobs.groups
    errors = FeatureAudit(hobs.analysis, [x[:40], x[40:]], factors).measure(group)
    with torch.no_grad():
        hidden, wanted = hobs.model.first(x), hobs.model(x)
        norms = hobs.model.first.weight.norm(dim=1)
        kept = norms.argsort()[3:]
        plain = hidden[:, kept] @ hobs.model.second.weight[:, kept].T + hobs.model.second.bias
        design = torch.cat([hidden[:, kept], torch.ones(64, 1)], dim=1).double()
        refitted = design @ torch.linalg.lstsq(design, wanted.double()).solution
    torch.testing.assert_close(filter_norms(group, {"first": hobs.model.first}).float(), norms)
    assert errors.magnitude == pytest.approx(relative(plain, wanted), rel=1e-4)
    assert errors.magnitude_refit == pytest.approx(relative(refitted, wanted), rel=1e-3)


def test_a_consumer_is_judged_behind_the_shift_its_batchnorm_absorbs():
    hobs, (x, _) = analyzed(), networks.images(48)
    model, norm = hobs.model, hobs.model.bn2
    assert hobs.norms["conv2"] == "bn2"
    cut = next(removal for removal in audited(hobs).cuts if removal.layer == "conv1")
    _, deltas = outputs_after(hobs, cut, x)
    assert "bn2.bias" in deltas
    seen = []
    handles = [module.register_forward_hook(lambda _m, _i, out: seen.append(out)) for module in (model.conv2, norm)]
    with torch.no_grad():
        model(x)
        functional_call(model, {name: model.get_parameter(name) + delta for name, delta in deltas.items()}, (x,))
        gain = (norm.weight / (norm.running_var + norm.eps).sqrt()).view(-1, 1, 1)
        features, dense, _, pruned = seen
        expected = relative(features + (pruned - dense) / gain, features)
    for handle in handles:
        handle.remove()
    group = next(group for group in hobs.groups if group.name == "conv1")
    factors = KFACHessianApproximator(model).estimate([networks.images(48)])
    assert FeatureAudit(hobs.analysis, [x], factors).measure(group).hobs == pytest.approx(expected, rel=1e-3)


def test_producer_side_obs_moves_the_other_filters_to_the_minimum_of_the_quadratic():
    hobs, x, factors = chain()
    (group,) = hobs.groups
    audit_ = FeatureAudit(hobs.analysis, [x], factors)
    state = audit_._producer_repaired(group, hobs.compensator.slicer.cut({"first": [1, 4]}))
    dense = weight_matrix(hobs.model.first).double()
    moved = torch.zeros_like(dense)
    kept = [0, 2, 3, 5]
    moved[0, kept] = torch.cat([state["first.weight"], state["first.bias"][:, None]], dim=1).double()
    A, G = factors["first"].A.double(), damped(factors["first"].G, hobs.damping)
    best = quadratic(moved - dense, A, G)
    generator = torch.Generator().manual_seed(0)
    for scale in (1e-3, 1e-2, 0.1):
        step = torch.zeros_like(dense)
        step[0, kept] = scale * torch.randn(4, dense.shape[2], generator=generator).double()
        assert quadratic(moved + step - dense, A, G) > best
    assert quadratic(moved - dense, A, G) < quadratic(moved * 0 - dense, A, G)


def test_refitting_never_hurts_the_features_it_was_fitted_on():
    for kind in (networks.Residual, networks.Grouped, networks.MobileBlock):
        for row in audited(analyzed(kind)).features:
            assert row.magnitude_refit <= row.magnitude * 1.02


# ---------------------------------------------------------------- bad input


def test_auditing_before_analysing_says_what_to_do():
    with pytest.raises(ValueError, match="compute_sensitivity"):
        audited(HOBSSensitivityAnalyzer(networks.make(networks.Residual)))


def test_an_empty_loader_is_refused():
    with pytest.raises(ValueError, match="no images"):
        analyzed().audit([])


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"channels_per_layer": 0}, "at least 1"),
        ({"fractions": ()}, r"\(0, 1\)"),
        ({"fractions": (0.5, 1.0)}, r"\(0, 1\)"),
        ({"confidence": 95}, r"\(0, 1\)"),
        ({"num_batches": 0}, "at least 1"),
    ],
)
def test_arguments_out_of_range_are_named(wrong, message):
    with pytest.raises(ValueError, match=message):
        audited(analyzed(), **wrong)


def test_a_criterion_that_returns_no_scalar_is_refused():
    with pytest.raises(ValueError, match="scalar"):
        analyzed().audit([networks.images(8)], lambda z, y: F.cross_entropy(z, y, reduction="none"))


def test_the_report_is_typed_and_frozen():
    report = audited(analyzed())
    assert isinstance(report, AuditReport)
    with pytest.raises(dataclasses.FrozenInstanceError):
        report.images = 0
