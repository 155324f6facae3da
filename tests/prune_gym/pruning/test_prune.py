"""What ``prune_gym.prune`` promises, on a network of four layers."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import prune_gym
from prune_gym.pruning.finishing import Finisher
from prune_gym.pruning.job import DEEPER_STEPS
from prune_gym.pruning.prune import prune
from prune_gym.pruning.targets import TargetsNotMetError
from prune_gym.reconstruction.settings import Reconstruction
from prune_gym.training import evaluate_model
from tests.prune_gym.tiny import TinyNet, tiny_task

SHORT = Reconstruction(steps=30)


@pytest.fixture(scope="module")
def task():
    return tiny_task()


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path_factory):
    monkeypatch.setenv("PRUNE_GYM_CACHE", str(tmp_path_factory.getbasetemp() / "prune-cache"))


def test_one_call_gives_a_smaller_network_on_the_target_and_leaves_the_dense_one_alone(task):
    before = {name: tensor.clone() for name, tensor in task.model.state_dict().items()}
    result = prune(task.model, task.train.images, task.train.labels, flops=0.6, reconstruct=SHORT)
    assert 0.6 <= result.flops_reduction < 0.65
    assert isinstance(result.model, nn.Module)
    assert result.scored_by == "accuracy"
    for name, tensor in task.model.state_dict().items():
        assert torch.equal(tensor, before[name])
    assert f"| FLOPs | 80.19 k | {result.pruned.flops / 1e3:.2f} k | -{100 * result.flops_reduction:.1f} % |" in (
        result.report()
    )


def test_the_reported_numbers_are_the_networks_own(task):
    result = prune(
        task.model, task.train.images, task.train.labels, flops=0.5, val=task.reward, test=task.test, reconstruct=False
    )
    assert result.pruned.score.value == pytest.approx(evaluate_model(result.model, task.test).accuracy)
    assert result.dense.score.value == pytest.approx(evaluate_model(task.model, task.test).accuracy)
    assert result.pruned.params == sum(parameter.numel() for parameter in result.model.parameters())
    assert result.pruned.score.images == len(task.test)


@pytest.mark.parametrize("kind", ["tensor", "dataset", "loader of bare batches", "labelled loader"])
def test_images_without_labels_are_enough_however_they_come(task, kind):
    images = task.train.images[:300]
    given = {
        "tensor": images,
        "dataset": list(images),
        "loader of bare batches": DataLoader(images, batch_size=50),
        "labelled loader": DataLoader(TensorDataset(images, torch.zeros(300)), batch_size=50),
    }[kind]
    result = prune(task.model, given, flops=0.5, reconstruct=False)
    assert result.scored_by == "agreement with the dense network"
    assert result.dense.score.value == 1.0
    assert 0.5 < result.pruned.score.value < 1.0


def test_agreement_is_what_counting_equal_classes_gives(task):
    held_out = task.test.images[:200]
    result = prune(task.model, task.train.images[:300], val=held_out, flops=0.5, reconstruct=False)
    with torch.no_grad():
        same = (result.model(held_out).argmax(1) == task.model(held_out).argmax(1)).double().mean()
    assert result.pruned.score.value == pytest.approx(float(same))


def test_all_cost_targets_hold_together(task):
    result = prune(
        task.model, task.train.images[:300], flops=0.3, params=0.7, latency="0.999x", reconstruct=False, batch_size=8
    )
    assert result.flops_reduction >= 0.3
    assert result.params_reduction >= 0.7


def test_the_deepest_cut_stays_within_the_drop_and_a_larger_drop_cuts_deeper(task):
    found = [
        prune(task.model, task.train.images, task.train.labels, val=task.reward, max_drop=drop, reconstruct=False)
        for drop in (1.0, 8.0)
    ]
    for result, drop in zip(found, (1.0, 8.0), strict=True):
        assert 100 * (result.dense.held_out.value - result.pruned.held_out.value) <= drop
    assert found[0].flops_reduction < found[1].flops_reduction


def test_a_cut_that_the_refit_alone_carries_is_not_reconstructed_to_look_deeper(task, monkeypatch):
    cuts, raced, within = [], [], 5.0
    reconstructed = Finisher.reconstructed

    def counted(self, cut, progress=None, seconds=None):
        cuts.append(tuple(cut.kept.tolist()))
        raced.append(len(self.settings.candidates))
        return reconstructed(self, cut, progress, seconds)

    monkeypatch.setattr(Finisher, "reconstructed", counted)
    result = prune(
        *(task.model, task.train.images, task.train.labels), val=task.reward, max_drop=within, reconstruct=SHORT
    )
    # Only where nothing deeper holds is it repaired, and then last.
    assert len(cuts) <= DEEPER_STEPS or cuts[-1] == tuple(map(len, result.kept.values()))
    assert len(set(cuts)) == len(cuts)
    assert raced == [len(SHORT.candidates), *[1] * (len(cuts) - 1)]
    assert result.tier == "reconstructed"
    assert 100 * (result.dense.held_out.value - result.pruned.held_out.value) <= within


def test_a_metric_takes_the_place_of_accuracy(task):
    def negative_entropy(model, split):
        asked.append(split)
        return -float(torch.distributions.Categorical(logits=model(split.images)).entropy().mean())

    asked: list = []
    result = prune(
        task.model, task.train.images, task.train.labels, metric=negative_entropy, flops=0.5, reconstruct=SHORT
    )
    assert result.scored_by == "negative entropy"
    assert result.dense.score.value < 0
    assert asked


def test_a_saved_network_comes_back_the_same(task, tmp_path):
    result = prune(task.model, task.train.images[:300], flops=0.5, reconstruct=False)
    path = result.save(tmp_path / "small", factory=TinyNet)
    again = prune_gym.load_pruned(path, factory=TinyNet)
    images = task.test.images[:20]
    assert torch.equal(again(images), result.model(images))


def test_an_onnx_file_agrees_with_the_network(task, tmp_path):
    pytest.importorskip("onnxruntime")
    result = prune(task.model, task.train.images[:300], flops=0.5, reconstruct=False)
    parity = result.to_onnx(tmp_path / "small.onnx")
    assert parity.max_error < 1e-4
    assert (tmp_path / "small.onnx").is_file()


def test_a_searcher_decides_the_plan(task):
    def smallest(problem, target, limits, **budget):
        seen.append((target.reduction, budget["evaluations"]))
        return limits.minimum.copy()

    seen: list = []
    result = prune(task.model, task.train.images[:300], flops=0.5, search=smallest, reconstruct=False)
    assert seen == [((0.5, 0.5), None)]
    assert result.flops_reduction > 0.9


def test_rspar_is_a_searcher_that_is_never_behind_the_predicted_best_on_the_held_out_images(task):
    from agents.rspar.plan_search import search_plans

    def six(*given, evaluations, **named):
        return search_plans(*given, evaluations=6, **named)

    options = {"flops": 0.6, "val": task.reward, "reconstruct": False}
    plain = prune(task.model, task.train.images, task.train.labels, **options)
    searched = prune(task.model, task.train.images, task.train.labels, search=six, **options)
    assert searched.plans_measured > plain.plans_measured
    assert searched.flops_reduction >= 0.6


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"flops": 0.9999}, TargetsNotMetError, "at most .* of the FLOPs"),
        ({"flops": None}, ValueError, "no target is given"),
        ({"flops": None, "latency": "1000s"}, TargetsNotMetError, "the dense network takes"),
        ({"images": torch.zeros(5, 1, 8, 8)}, ValueError, "5 are too few"),
        ({"images": torch.full((50, 1, 8, 8), float("nan"))}, ValueError, "NaN"),
        ({"labels": torch.arange(300)}, ValueError, "labels run from"),
        ({"labels": torch.zeros(3)}, ValueError, "300 images but 3 labels"),
        ({"model": "resnet"}, TypeError, "model is a torch.nn.Module"),
        ({"images": 3}, TypeError, "expected a tensor"),
        ({"flops": 0.95, "max_drop": 0.0}, TargetsNotMetError, "already loses"),
    ],
)
def test_what_cannot_be_done_is_refused_with_what_is_wrong(task, change, error, message):
    given = {"model": task.model, "images": task.train.images[:300], "flops": 0.5, "reconstruct": False, **change}
    with pytest.raises(error, match=message):
        prune(given.pop("model"), given.pop("images"), given.pop("labels", None), **given)


def test_classes_in_another_order_are_noticed(task):
    order = torch.tensor([1, 0, 3, 2, 5, 4, 7, 6, 9, 8])
    result = prune(task.model, task.train.images, order[task.train.labels], flops=0.3, reconstruct=False)
    assert any("in another order" in warning for warning in result.warnings)


def test_reward_images_that_were_trained_on_are_noticed():
    torch.manual_seed(0)
    images, labels = torch.randn(400, 1, 8, 8), torch.randint(0, 10, (400,))
    model = TinyNet()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(60):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images[:200]), labels[:200]).backward()
        optimizer.step()
    result = prune(
        model.eval(), images[:200], labels[:200], test=(images[200:], labels[200:]), flops=0.3, reconstruct=False
    )
    assert any("trained on" in warning for warning in result.warnings)


def test_progress_draws_nothing_where_nobody_looks(task, capsys):
    prune(task.model, task.train.images[:300], flops=0.5, reconstruct=False)
    assert capsys.readouterr().out == ""
    prune(task.model, task.train.images[:300], flops=0.5, reconstruct=False, progress=True)
    assert "cut and refit" in capsys.readouterr().out


def test_ratios_and_kept_channels_describe_the_network(task):
    result = prune(task.model, task.train.images[:300], flops=0.5, reconstruct=False)
    assert len(result.kept["conv1"]) == result.model.conv1.out_channels
    assert result.ratios["conv1"] == pytest.approx(1 - result.model.conv1.out_channels / 8)
    assert np.isfinite(list(result.seconds.values())).all()
