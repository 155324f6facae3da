"""A candidate evaluated by slicing is the network that surgery would make."""

import pytest
import torch
from torch import nn

from hessian import HOBSSensitivityAnalyzer
from hessian.channels.slicing import NetworkSlicer
from prune_gym.cost import CostModel
from prune_gym.data.splits import TensorSplit
from prune_gym.measuring.evaluator import Evaluator
from prune_gym.measuring.repair import (
    FAST_IMAGES,
    RECALIBRATION_IMAGES,
    REPAIRS,
    balanced_images,
    images_for,
    make_repair,
)
from prune_gym.surgery.pruner import PhysicalPruner
from prune_gym.tasks.task import PruningTask
from prune_gym.training import evaluate_model
from prune_gym.training.batchnorm import recalibrate_bn
from tests.hessian import networks


def evaluator_of(kind, repair, device="cpu"):
    model = networks.make(kind).to(device)
    calibration, reward = (TensorSplit(*networks.images(40, seed)).to(device) for seed in (1, 2))
    task = PruningTask(
        name="tiny",
        model=model,
        example_input=calibration.images[:1],
        calibration=calibration,
        reward=reward,
        test=None,
    )
    hobs = HOBSSensitivityAnalyzer(model, example_input=task.example_input)
    hobs.compute_sensitivity(calibration.batches(20))
    return Evaluator(task, hobs, repair)


def half(evaluator):
    return [max(1, group.num_units // 2) for group in evaluator.hobs.groups]


def recalibrate(model, task, count):
    images = balanced_images(task.calibration, count)
    recalibrate_bn(model, TensorSplit(images, torch.zeros(len(images), dtype=torch.int64)))


@pytest.mark.parametrize("repair", REPAIRS)
@pytest.mark.parametrize("kind", networks.ALL)
def test_logits_equal_those_of_the_physically_pruned_network(kind, repair, device):
    evaluator = evaluator_of(kind, repair, device)
    kept = half(evaluator)
    images = evaluator.task.reward.images
    with torch.no_grad():
        physical = evaluator.export(kept)(images.to(device))
    torch.testing.assert_close(evaluator.logits(kept, images), physical, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("repair", REPAIRS)
def test_a_candidates_plan_is_checked_and_translated_once(repair, monkeypatch):
    evaluator, checked, validate = evaluator_of(networks.MobileBlock, repair), [], NetworkSlicer.validate
    monkeypatch.setattr(NetworkSlicer, "validate", lambda self, plan: checked.append(plan) or validate(self, plan))
    evaluator.evaluate(half(evaluator))
    assert len(checked) == 1


@pytest.mark.parametrize("repair", REPAIRS)
def test_metrics_equal_those_of_the_exported_network(repair):
    evaluator = evaluator_of(networks.Residual, repair)
    kept = half(evaluator)
    measured, exported = evaluator.evaluate(kept), evaluate_model(evaluator.export(kept), evaluator.task.reward)
    assert measured.accuracy == pytest.approx(exported.accuracy)
    assert measured.soft_accuracy == pytest.approx(exported.soft_accuracy, abs=1e-5)
    assert measured.loss == pytest.approx(exported.loss, abs=1e-5)


def test_closed_form_repair_is_compensation_and_recalibration_of_the_cut_network():
    evaluator = evaluator_of(networks.MobileBlock, "closed_form")
    task, plan = evaluator.task, evaluator.hobs.plan(half(evaluator))
    small = PhysicalPruner(task.model, task.example_input).prune(plan)
    small.load_state_dict(evaluator.hobs.compensate(plan))
    recalibrate(small, task, RECALIBRATION_IMAGES)
    exported = evaluator.export(half(evaluator)).state_dict()
    for name, tensor in small.state_dict().items():
        torch.testing.assert_close(exported[name], tensor, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("repair", REPAIRS)
def test_it_does_not_matter_how_a_forward_hands_layers_their_input(repair):
    plain, named = (evaluator_of(kind, repair) for kind in (networks.ByPosition, networks.ByKeyword))
    assert named.evaluate(half(named)) == plain.evaluate(half(plain))
    assert named.hobs.get_pruning_plan(0.5, of="flops") == plain.hobs.get_pruning_plan(0.5, of="flops")
    costs = [CostModel(of.hobs.groups, of.task.model, of.task.example_input) for of in (named, plain)]
    assert costs[0].flops(half(named)) == costs[1].flops(half(plain))


@pytest.mark.parametrize("repair", REPAIRS)
def test_keeping_everything_is_the_dense_network_up_to_batch_norm_statistics(repair):
    evaluator = evaluator_of(networks.Concat, repair)
    kept = [group.num_units for group in evaluator.hobs.groups]
    images = evaluator.task.calibration.images
    dense = evaluator.task.model
    if repair in ("closed_form", "none"):
        recalibrate(dense, evaluator.task, RECALIBRATION_IMAGES if repair == "closed_form" else None)
    with torch.no_grad():
        torch.testing.assert_close(evaluator.logits(kept, images), dense(images), atol=1e-5, rtol=1e-5)


def test_a_revisit_is_free_and_the_archive_keeps_the_order(monkeypatch):
    evaluator = evaluator_of(networks.Residual, "sequential")
    first, second = half(evaluator), [1, 1, 1, 1]
    results = evaluator.evaluate_many([first, second])
    monkeypatch.setattr(evaluator, "_measure", lambda kept: pytest.fail("measured again"))
    assert evaluator.evaluate(first) is results[0]
    assert list(evaluator.archive) == [tuple(first), tuple(second)]
    assert evaluator.num_measured == 2


@pytest.mark.parametrize("repair", REPAIRS)
def test_evaluating_leaves_the_dense_network_alone(repair):
    evaluator = evaluator_of(networks.MobileBlock, repair)
    before = {name: value.clone() for name, value in evaluator.task.model.state_dict().items()}
    evaluator.evaluate(half(evaluator))
    assert all(torch.equal(value, before[name]) for name, value in evaluator.task.model.state_dict().items())


def test_layers_that_lose_nothing_next_to_layers_that_do(device):
    evaluator = evaluator_of(networks.Grouped, "sequential", device)
    kept = [group.num_units for group in evaluator.hobs.groups]
    kept[1] = 1
    images = evaluator.task.reward.images
    with torch.no_grad():
        torch.testing.assert_close(evaluator.logits(kept, images), evaluator.export(kept)(images), atol=1e-4, rtol=1e-4)


def test_the_fast_repair_takes_the_images_that_its_narrowest_maps_need():
    wide = nn.Sequential(nn.Conv2d(1, 96, 3, padding=1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    model = nn.Sequential(wide, nn.Linear(96, 8))
    assert images_for(model, torch.zeros(1, 1, 6, 6), 2) == 2 * 96
    assert images_for(model[0], torch.zeros(1, 1, 6, 6), 8) == 2  # 8 positions for each of 9 unknowns, 36 an image
    images = torch.randn(FAST_IMAGES + 100, 1, 6, 6, generator=torch.Generator().manual_seed(0))
    split = TensorSplit(images, torch.arange(len(images)) % 8)
    task = PruningTask("wide", model.eval(), images[:1], calibration=split, reward=split, test=None)
    hobs = HOBSSensitivityAnalyzer(model, example_input=images[:1])
    hobs.compute_sensitivity(split.batches(64))
    repair = make_repair("sequential_fast", task, hobs)
    assert sum(map(len, repair._refitter.inputs)) == 2 * 96


def test_an_unknown_repair_is_refused():
    with pytest.raises(ValueError, match="unknown repair 'magic'"):
        evaluator_of(networks.Residual, "magic")


def test_a_network_without_batch_norm_needs_no_statistics():
    class Plain(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second, self.head = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3), nn.Linear(4, 4)

        def forward(self, x):
            return self.head(torch.relu(self.second(torch.relu(self.first(x)))).mean(dim=(2, 3)))

    assert evaluator_of(Plain, "closed_form").evaluate([2, 2]).loss > 0


def test_a_race_stops_only_what_cannot_win_and_keeps_nothing_of_it(monkeypatch):
    monkeypatch.setattr("prune_gym.measuring.evaluator.RACE_BLOCK", 10)
    full, racing = (evaluator_of(networks.Residual, "sequential") for _ in range(2))
    plans = [[1, 1, 1, 1], half(full), [group.num_units for group in full.hobs.groups]]
    for plan in plans:
        whole = full.evaluate(plan)
        for metric in ("soft_accuracy", "accuracy"):
            score = getattr(whole, metric)
            racing.archive.clear()
            assert racing.race(plan, score + 0.7, metric) is None
            assert racing.num_measured == 0
            result = racing.race(plan, score, metric)
            assert result is not None
            assert result.soft_accuracy == pytest.approx(whole.soft_accuracy, abs=1e-6)
            assert racing.race(plan, 2.0, metric) is result
    assert racing.evaluate(plans[0]).loss == pytest.approx(full.evaluate(plans[0]).loss, abs=1e-6)


@pytest.mark.parametrize("order", ["in turn", "sorted"])
def test_fewer_calibration_images_hold_as_many_of_every_class(order):
    labels = torch.arange(40) % 4 if order == "in turn" else torch.arange(40) // 10
    split = TensorSplit(labels.float()[:, None], labels)

    chosen = balanced_images(split, 10)[:, 0].long()

    assert torch.bincount(chosen, minlength=4).tolist() == [3, 3, 2, 2]
    assert balanced_images(split, 20).shape == (20, 1)
    assert torch.bincount(balanced_images(split, 20)[:, 0].long()).tolist() == [5, 5, 5, 5]
    assert balanced_images(split, None) is split.images


def test_closed_form_refits_are_made_once_for_what_a_layer_keeps(monkeypatch):
    evaluator = evaluator_of(networks.Residual, "closed_form")
    compensator = evaluator.hobs.compensator
    solved = []
    solve = compensator._solve
    monkeypatch.setattr(compensator, "_solve", lambda name, *rest: solved.append(name) or solve(name, *rest))
    kept = half(evaluator)
    first = evaluator.evaluate(kept)
    once = len(solved)
    assert once
    evaluator.archive.clear()
    assert evaluator.evaluate(kept) == first
    assert len(solved) == once
    last = evaluator.hobs.groups[-1]
    evaluator.evaluate([*kept[:-1], last.num_units])
    assert len(solved) == once
    evaluator.evaluate([*kept[:-1], kept[-1] - 1])
    assert set(solved[once:]) == {member.module for member in last.consumers}


@pytest.mark.parametrize("kind", networks.ALL)
def test_the_sequential_repair_leaves_an_error_behind_every_layer(kind):
    evaluator = evaluator_of(kind, "sequential")
    with evaluator.candidate(half(evaluator)):
        errors = evaluator.layer_errors
    assert errors.shape == (len(evaluator.hobs.groups),)
    assert (errors >= 0.0).all()
    assert errors.max() > 0.0
    with evaluator.candidate([group.num_units for group in evaluator.hobs.groups]):
        assert evaluator.layer_errors.tolist() == [0.0] * len(errors)


def test_other_repairs_report_no_errors():
    evaluator = evaluator_of(networks.Residual, "none")
    with evaluator.candidate(half(evaluator)):
        assert evaluator.layer_errors is None
