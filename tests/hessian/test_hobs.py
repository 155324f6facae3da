"""Prices, orders, curves, plans and repairs of whole networks."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from hessian import HOBSSensitivityAnalyzer, KFACHessianApproximator, obs
from hessian.channels.slicing import installed
from hessian.patches.matrices import to_matrix
from hessian.pricing.exact import ggn_quadratic, removal_deltas
from hessian.refit import closed_form
from hessian.refit.closed_form import damped_inputs
from tests.hessian import networks


def analyzed(kind=networks.Residual, count=48, **kwargs):
    model, (x, y) = networks.make(kind), networks.images(count)
    hobs = HOBSSensitivityAnalyzer(model, **kwargs)
    hobs.compute_sensitivity([(x, y)])
    return hobs


@pytest.mark.parametrize("kind", networks.ALL)
def test_every_layer_has_a_price_a_channel_an_order_and_a_rising_curve(kind):
    hobs = analyzed(kind)
    prices = hobs.channel_prices()
    for group in hobs.groups:
        assert prices[group.name].shape == (group.size,)
        assert (prices[group.name] >= 0).all()
        assert sorted(hobs.orders[group.name].tolist()) == list(range(group.num_units))
        curve = hobs.curves[group.name]
        assert curve.shape == (group.num_units,)
        assert curve[0] == 0
        assert (curve.diff() >= 0).all()
        assert (curve <= hobs.obd_curves[group.name] * (1 + 1e-6) + 1e-12).all()


def test_the_first_step_of_the_sweep_is_the_cheapest_single_price():
    hobs = analyzed()
    for group in hobs.groups:
        prices = hobs.prices[group.name]
        assert prices.argmin() == hobs.orders[group.name][0]
        assert prices.min().item() == pytest.approx(hobs.curves[group.name][1].item())


@pytest.mark.parametrize("kind", networks.ALL)
def test_predicted_curves_are_the_kronecker_quadratic_of_the_actual_repair(kind):
    hobs = analyzed(kind, absorb_shift=False)
    modules = dict(hobs.model.named_modules())
    for index, group in enumerate(hobs.groups):
        kept = [other.num_units for other in hobs.groups]
        kept[index] = max(1, group.num_units // 2)
        deltas = removal_deltas(hobs.analysis, hobs.plan(kept), repaired=True)
        total = 0.0
        for module in {name.rpartition(".")[0] for name in deltas}:
            factors = hobs.factors[module]
            change = to_matrix(modules[module], deltas[f"{module}.weight"], deltas.get(f"{module}.bias")).double()
            total += obs.quadratic(change, damped_inputs(factors, hobs.damping), factors.G.double()).item()
        assert hobs.curves[group.name][group.num_units - kept[index]].item() == pytest.approx(total, rel=1e-3)


def true_kl(hobs, plan, x):
    """Mean KL between the dense and the repaired network, without BatchNorm recalibration."""
    deltas = removal_deltas(hobs.analysis, plan, repaired=True)
    parameters = dict(hobs.model.named_parameters())
    changed = {name: parameters[name].detach() + delta for name, delta in deltas.items()}
    with torch.no_grad():
        dense = hobs.model(x).log_softmax(1)
        pruned = torch.func.functional_call(hobs.model, changed, (x,)).log_softmax(1)
    return F.kl_div(pruned, dense, reduction="batchmean", log_target=True).item()


def test_small_exact_quadratics_predict_the_true_kl():
    hobs = analyzed()
    x, y = networks.images(48)
    for group in hobs.groups:
        plan = {group.name: list(group.units[int(hobs.orders[group.name][0])])}
        exact = ggn_quadratic(hobs.model, x, y, None, removal_deltas(hobs.analysis, plan, repaired=True)).item()
        assert exact == pytest.approx(true_kl(hobs, plan, x), rel=0.5)


def test_the_exact_path_gives_prices_of_the_same_meaning():
    hobs = analyzed(use_kfac=False)
    x, y = networks.images(48)
    group = hobs.groups[1]
    plan = {group.name: list(group.units[2])}
    exact = ggn_quadratic(hobs.model, x, y, None, removal_deltas(hobs.analysis, plan, repaired=True)).item()
    assert hobs.prices[group.name][2].item() == pytest.approx(exact)
    kfac = analyzed()
    for name in hobs.prices:
        assert hobs.curves[name].shape == kfac.curves[name].shape


def test_exact_quadratics_of_images_alone_are_those_with_any_labels():
    labelled, alone = (
        analyzed(use_kfac=False),
        HOBSSensitivityAnalyzer(networks.make(networks.Residual), use_kfac=False),
    )
    x, _ = networks.images(48)
    alone.compute_sensitivity([x])
    for name, prices in labelled.prices.items():
        torch.testing.assert_close(alone.prices[name], prices, rtol=1e-4, atol=1e-9)
    with pytest.raises(ValueError, match="this criterion needs labels"):
        HOBSSensitivityAnalyzer(networks.make(networks.Residual), use_kfac=False).compute_sensitivity(
            [x], lambda outputs, labels: F.cross_entropy(outputs, torch.zeros(len(outputs), dtype=torch.long))
        )


def test_a_repair_beats_removal_in_the_dense_features():
    hobs = analyzed()
    x, _ = networks.images(48, seed=5)
    worse = 0
    for group in hobs.groups:
        kept = [other.num_units for other in hobs.groups]
        kept[[other.name for other in hobs.groups].index(group.name)] = max(1, group.num_units // 2)
        plan = hobs.plan(kept)
        parameters = {name: value.detach() for name, value in hobs.model.named_parameters()}
        errors = []
        for repaired in (True, False):
            deltas = removal_deltas(hobs.analysis, plan, repaired=repaired)
            changed = {name: parameters[name] + delta for name, delta in deltas.items()}
            with torch.no_grad():
                out = torch.func.functional_call(hobs.model, changed, (x,))
                errors.append((out - hobs.model(x)).square().mean().item())
        worse += errors[0] > errors[1]
    assert worse == 0


def test_refits_are_kept_for_reuse_but_no_more_than_a_few_networks_of_them(monkeypatch):
    monkeypatch.setattr(closed_form, "CACHE_NETWORKS", 1)
    hobs = analyzed()
    units = [group.num_units for group in hobs.groups]
    rng = torch.Generator().manual_seed(0)
    for _ in range(30):
        hobs.compensate(hobs.plan([int(torch.randint(1, most + 1, (), generator=rng)) for most in units]))
    kept = [tensor for pair in hobs.compensator._cache.values() for tensor in pair if tensor is not None]
    assert 0 < sum(tensor.nbytes for tensor in kept) <= sum(weight.nbytes for weight in hobs.model.parameters())


def test_compensating_nothing_changes_nothing():
    hobs = analyzed()
    state = hobs.compensate({})
    assert all(torch.equal(value, state[name]) for name, value in hobs.model.state_dict().items())


def test_a_plan_is_a_prefix_of_the_order_and_larger_budgets_contain_smaller_ones():
    hobs = analyzed()
    small, large = hobs.get_pruning_plan(0.2), hobs.get_pruning_plan(0.6)
    sizes = {group.name: group.size for group in hobs.groups}
    for plan, ratio in ((small, 0.2), (large, 0.6)):
        removed = sum(map(len, plan.values()))
        assert ratio * sum(sizes.values()) <= removed < ratio * sum(sizes.values()) + 2
        assert all(len(channels) < sizes[name] for name, channels in plan.items())
    for name, channels in small.items():
        assert set(channels) <= set(large[name])


def counted_flops(hobs, plan):
    """FLOPs of one image through the network cut to a plan."""
    cut, model = hobs.compensator.slicer.cut(plan), copy.deepcopy(hobs.model).requires_grad_(False)
    x, _ = networks.images(1)
    with FlopCounterMode(display=False) as counter, installed(model, cut.state(), cut.attributes):
        model(x)
    return counter.get_total_flops()


@pytest.mark.parametrize("kind", networks.ALL)
def test_a_plan_of_flops_removes_the_fraction_it_was_asked_for_and_no_unit_more(kind):
    hobs = analyzed(kind)
    dense = counted_flops(hobs, {})
    for ratio in (0.0, 0.3, 0.6):
        plan = hobs.get_pruning_plan(ratio, of="flops")
        assert counted_flops(hobs, plan) <= (1 - ratio) * dense
        kept = [group.num_units - len(plan.get(group.name, [])) // len(group.units[0]) for group in hobs.groups]
        lighter = [
            counted_flops(hobs, hobs.plan([*kept[:index], count + 1, *kept[index + 1 :]])) > (1 - ratio) * dense
            for index, (count, group) in enumerate(zip(kept, hobs.groups, strict=True))
            if count < group.num_units
        ]
        assert any(lighter) or not plan
    with pytest.raises(ValueError, match=r"out of reach.*loses 0\.\d+"):
        hobs.get_pruning_plan(0.99999, of="flops")


@pytest.mark.parametrize("kind", [networks.Residual, networks.MobileBlock])
def test_a_plan_of_flops_always_takes_the_unit_that_costs_least_for_each_flop_it_saves(kind):
    hobs = analyzed(kind)
    steps = [hobs.curves[group.name].diff().cummax(0).values for group in hobs.groups]
    kept = [group.num_units for group in hobs.groups]
    dense = now = counted_flops(hobs, {})
    while now > 0.5 * dense:
        rates = {}
        for index, group in enumerate(hobs.groups):
            if kept[index] > 1:
                smaller = [count - (layer == index) for layer, count in enumerate(kept)]
                saved = now - counted_flops(hobs, hobs.plan(smaller))
                rates[index] = steps[index][group.num_units - kept[index]].item() / saved
        kept[min(rates, key=rates.get)] -= 1
        now = counted_flops(hobs, hobs.plan(kept))
    assert hobs.get_pruning_plan(0.5, of="flops") == hobs.plan(kept)


def test_a_fraction_of_something_unknown_is_refused():
    with pytest.raises(ValueError, match="'channels' or 'flops', got of='params'"):
        analyzed().get_pruning_plan(0.5, of="params")


def test_curvature_alone_repairs_but_does_not_price():
    hobs, whole = HOBSSensitivityAnalyzer(networks.make(networks.Residual)), analyzed()
    hobs.measure_curvature([networks.images(48)])
    plan = whole.get_pruning_plan(0.5)
    assert all(torch.equal(tensor, whole.compensate(plan)[name]) for name, tensor in hobs.compensate(plan).items())
    with pytest.raises(ValueError, match="compute_sensitivity"):
        hobs.get_pruning_plan(0.5)


def test_grouped_plans_hold_whole_units():
    hobs = analyzed(networks.Grouped)
    plan = hobs.get_pruning_plan(0.5)
    hobs.compensator.slicer.validate(plan)
    units = {frozenset(unit) for unit in hobs.groups[0].units}
    removed = set(plan.get("first", []))
    assert removed == set().union(*(unit for unit in units if unit <= removed))


def test_the_analysis_survives_a_round_trip(tmp_path):
    hobs = analyzed()
    hobs.save(tmp_path / "analysis.safetensors")
    x, _ = networks.images(2)
    other = HOBSSensitivityAnalyzer(hobs.model, example_input=x).load(tmp_path / "analysis.safetensors")
    plan = hobs.get_pruning_plan(0.5)
    assert other.get_pruning_plan(0.5) == plan
    ours, theirs = hobs.compensate(plan), other.compensate(plan)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_an_analysis_of_another_network_or_a_broken_file_is_refused(tmp_path):
    path = tmp_path / "analysis.safetensors"
    analyzed(networks.Grouped).save(path)
    x, _ = networks.images(2)
    other = HOBSSensitivityAnalyzer(networks.make(networks.Residual), example_input=x)
    with pytest.raises(ValueError, match="another network"):
        other.load(path)
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(ValueError, match="truncated or not"):
        other.load(path)
    with pytest.raises(FileNotFoundError, match="no analysis"):
        other.load(tmp_path / "absent")


def test_same_seed_same_analysis():
    first, second = analyzed(), analyzed()
    assert all(torch.equal(first.curves[name], second.curves[name]) for name in first.curves)


@pytest.mark.parametrize("ratio", [-0.1, 1.0, float("nan")])
def test_a_ratio_outside_the_unit_interval_is_refused(ratio):
    with pytest.raises(ValueError, match=r"\[0, 1\)"):
        analyzed().get_pruning_plan(ratio)


def test_asking_before_analysing_says_what_to_do():
    with pytest.raises(ValueError, match="compute_sensitivity"):
        HOBSSensitivityAnalyzer(networks.make(networks.Residual)).get_pruning_plan()


@pytest.mark.parametrize("kept", [[1, 1], [0, 1, 1, 1], [99, 1, 1, 1]])
def test_a_kept_vector_that_does_not_fit_is_refused(kept):
    with pytest.raises(ValueError, match=r"kept must have|keeps"):
        analyzed().plan(kept)


def test_progress_is_reported():
    model, batch = networks.make(networks.Residual), networks.images(8)
    calls = []
    HOBSSensitivityAnalyzer(model).compute_sensitivity([batch, batch], progress=lambda *call: calls.append(call))
    assert [call[1] for call in calls if call[0] == "Kronecker factors"] == [1, 2]
    assert calls[-1][0] == "elimination sweeps"
    assert calls[-1][1] == calls[-1][2]


def test_the_approximator_and_the_analyzer_measure_the_same_factors():
    hobs = analyzed(absorb_shift=False)
    x, y = networks.images(48)
    factors = KFACHessianApproximator(hobs.model).estimate([(x, y)])
    torch.testing.assert_close(factors["conv1"].A, hobs.factors["conv1"].A)


def test_a_saved_analysis_can_be_read_by_those_the_umask_lets(tmp_path):
    plain = tmp_path / "plain"
    plain.write_text("")
    analyzed().save(tmp_path / "analysis.safetensors")
    assert (tmp_path / "analysis.safetensors").stat().st_mode == plain.stat().st_mode
    assert sorted(path.name for path in tmp_path.iterdir()) == ["analysis.safetensors", "plain"]
