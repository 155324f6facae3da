"""Reconstruction: closer to the dense network or as it was, from images without labels."""

import copy
import json
import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from prune_gym.data.loader_split import DatasetSplit
from prune_gym.data.splits import TensorSplit
from prune_gym.reconstruction import Reconstruction, Setting, reconstruct
from prune_gym.reconstruction import images as images_module
from prune_gym.reconstruction import race as race_module
from prune_gym.reconstruction.outputs import Matching
from prune_gym.surgery.pruner import PhysicalPruner
from prune_gym.training.training import distillation_loss

QUICK = Reconstruction(steps=40, batch_size=8)


class Net(nn.Module):
    """A small network with batch norms and dropout."""

    def __init__(self, classes=4, width=8):
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(2, width, 3, padding=1), nn.BatchNorm2d(width)
        self.conv2, self.norm2 = nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width)
        self.drop, self.head = nn.Dropout(0.5), nn.Linear(width, classes)

    def features(self, x):
        return torch.relu(self.norm2(self.conv2(torch.relu(self.norm1(self.conv1(x))))))

    def forward(self, x):
        return self.head(self.drop(self.features(x).mean(dim=(2, 3))))


class Nested(Net):
    """Logits, features and an index in a dictionary, as detection and segmentation networks give them."""

    def forward(self, x):
        features = self.features(x)
        logits = self.head(self.drop(features.mean(dim=(2, 3))))
        return {"logits": logits, "more": (features.mean(dim=1), logits.argmax(dim=1))}


class Dense(Net):
    """A logit for every pixel."""

    def forward(self, x):
        return self.head(self.features(x).movedim(1, -1)).movedim(-1, 1)


class Value(Net):
    """One number an image."""

    def forward(self, x):
        return super().forward(x)[:, 0]


class TwoInputs(Net):
    def forward(self, x, y):
        return super().forward(x - y)


def make(kind=Net, seed=0):
    torch.manual_seed(seed)
    model = kind()
    model.train()
    with torch.no_grad():
        for _ in range(10):  # lively statistics
            inputs = torch.randn(64, 2, 6, 6) * 2 + 1
            model(inputs, torch.zeros_like(inputs)) if kind is TwoInputs else model(inputs)
    return model.eval()


def images(count=120, seed=1):
    return torch.randn(count, 2, 6, 6, generator=torch.Generator().manual_seed(seed)) * 2 + 1


def cut(dense, example=None):
    example = images(2) if example is None else example
    pruner, plan = PhysicalPruner(dense, example), {"conv1": [0, 2, 5], "conv2": [1, 4]}
    # Channels that a network gives away as its output stay.
    return pruner.prune({group.name: plan[group.name] for group in pruner.groups})


@torch.no_grad()
def distance(model, dense, x):
    return (model(x) - dense(x)).square().mean().item()


def test_it_comes_closer_to_the_dense_network_on_images_it_has_not_seen():
    dense = make()
    small, unseen = cut(dense), images(seed=2)
    before = distance(small, dense, unseen)
    found = reconstruct(small, dense, images(), QUICK)
    assert found.after < found.before
    assert distance(small, dense, unseen) < 0.5 * before


@pytest.mark.parametrize("kind", [Nested, Dense, Value])
def test_any_output_with_floating_points_will_do(kind):
    dense = make(kind)
    found = reconstruct(cut(dense), dense, images(), QUICK)
    assert found.after < 0.8 * found.before


def test_several_arguments_are_a_tuple():
    dense, pair = make(TwoInputs), (images(), torch.zeros(120, 2, 6, 6))
    small = cut(dense, tuple(part[:2] for part in pair))
    found = reconstruct(small, dense, pair, QUICK)
    assert found.after < 0.8 * found.before


def test_regression_of_several_values_matches_their_size_too():
    dense = make()
    small = cut(dense)
    with torch.no_grad():
        small.head.bias += 3.0  # no softmax would notice
    reconstruct(small, dense, images(), replace(QUICK, loss="mse", steps=80, candidates=(Setting(3e-2),)))
    with torch.no_grad():
        assert (small(images(seed=2)) - dense(images(seed=2))).mean().abs() < 1.5


def test_the_loss_of_logits_is_hintons_and_that_of_values_is_relative():
    generator = torch.Generator().manual_seed(0)
    dense = [torch.randn(6, 5, generator=generator), 100 * torch.randn(6, generator=generator)]
    other = [torch.randn(6, 5, generator=generator), 100 * torch.randn(6, generator=generator)]
    matching = Matching.of(dense, Reconstruction(temperature=3.0))
    expected = distillation_loss(other[0], dense[0], 3.0)
    expected += (other[1] - dense[1]).square().mean() / dense[1].var(correction=0)
    torch.testing.assert_close(matching(other, dense), expected)
    pixels = Matching.of([dense[0].reshape(3, 5, 2)], Reconstruction(temperature=3.0))
    torch.testing.assert_close(
        pixels([other[0].reshape(3, 2, 5).mT], [dense[0].reshape(3, 2, 5).mT]),
        distillation_loss(other[0], dense[0], 3.0),
    )


def test_the_network_as_given_wins_where_training_makes_it_worse():
    dense = make()
    small = copy.deepcopy(dense)  # nothing to gain
    with torch.no_grad():
        small.head.bias += 1e-4
    before = copy.deepcopy(small.state_dict())
    found = reconstruct(small, dense, images(), replace(QUICK, candidates=(Setting(0.5), Setting(1.0))))
    assert found.chosen is None
    assert found.after == found.before
    for name, tensor in small.state_dict().items():
        assert torch.equal(tensor, before[name])


def test_a_training_that_breaks_down_is_never_chosen():
    dense = make()
    found = reconstruct(cut(dense), dense, images(), replace(QUICK, candidates=(Setting(1e30), Setting(1e-2))))
    assert math.isfinite(found.after)
    assert found.chosen.setting == Setting(1e-2)
    assert any(trial.loss == math.inf or trial.loss > found.before for trial in found.trials)


def test_the_race_halves_and_the_best_trains_on():
    dense = make()
    settings = replace(QUICK, candidates=tuple(Setting(lr) for lr in (1e-5, 1e-2, 1e-6, 3e-3)), race=0.6)
    found = reconstruct(cut(dense), dense, images(), settings)
    assert [trial.steps for trial in found.trials] == [3, 3, 3, 3, 6, 6, 40]
    first = sorted(found.trials[:4], key=lambda trial: trial.loss)
    assert [trial.setting for trial in found.trials[4:6]] == [trial.setting for trial in first[:2]]
    assert found.trials[6].setting == min(found.trials[4:6], key=lambda trial: trial.loss).setting


def test_without_batch_norms_settings_that_differ_in_statistics_only_are_one():
    torch.manual_seed(0)
    dense = nn.Sequential(nn.Conv2d(2, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(32, 3))
    small = PhysicalPruner(dense, images(2)).prune({"0": [0, 1], "2": [3]})
    settings = replace(QUICK, candidates=(Setting(1e-2, True), Setting(1e-2, False)))
    assert len(reconstruct(small, dense, images(), settings).trials) == 1


def test_frozen_statistics_stay_and_batch_statistics_are_those_of_the_images():
    dense = make()
    for batch_statistics in (False, True):
        small = cut(dense)
        before = small.norm2.running_mean.clone()
        reconstruct(small, dense, images(), replace(QUICK, candidates=(Setting(1e-2, batch_statistics),)))
        assert torch.equal(small.norm2.running_mean, before) is not batch_statistics
        if batch_statistics:
            with torch.no_grad():
                seen = small.conv2(torch.relu(small.norm1(small.conv1(images()))))
            torch.testing.assert_close(small.norm2.running_mean, seen.mean(dim=(0, 2, 3)), atol=0.3, rtol=0.3)


def test_modes_gradients_flags_and_memory_format_stay():
    dense = make()
    small = cut(dense).to(memory_format=torch.channels_last)
    small.train()
    small.norm1.eval()
    small.conv1.weight.requires_grad_(False)
    before, dense_before = small.conv1.weight.clone(), copy.deepcopy(dense.state_dict())
    reconstruct(small, dense, images(), QUICK)
    assert small.training
    assert not small.norm1.training
    assert torch.equal(small.conv1.weight, before)
    assert small.conv2.weight.is_contiguous(memory_format=torch.channels_last)
    assert all(parameter.grad is None for parameter in small.parameters())
    assert all(torch.equal(tensor, dense_before[name]) for name, tensor in dense.state_dict().items())


@pytest.mark.parametrize("form", ["split", "loader", "dataset"])
def test_labels_are_not_looked_at_whatever_the_images_come_in(form):
    x, wrong = images(), torch.zeros(120, dtype=torch.long)
    given = {
        "split": TensorSplit(x, wrong),
        "loader": [(part, wrong[: len(part)]) for part in x.split(50)],
        "dataset": DatasetSplit(list(zip(x, wrong.tolist(), strict=True))),
    }[form]
    dense = make()
    plain, other = cut(dense), cut(dense)
    reconstruct(plain, dense, x, QUICK)
    reconstruct(other, dense, given, QUICK)
    for name, tensor in plain.state_dict().items():
        torch.testing.assert_close(other.state_dict()[name], tensor)


def test_dense_outputs_that_do_not_fit_are_computed_anew_with_the_same_result(monkeypatch):
    dense = make()
    kept, anew = cut(dense), cut(dense)
    reconstruct(kept, dense, images(), QUICK)
    monkeypatch.setattr(images_module, "TEACHER_BYTES", 0)
    reconstruct(anew, dense, images(), QUICK)
    for name, tensor in kept.state_dict().items():
        torch.testing.assert_close(anew.state_dict()[name], tensor, atol=1e-4, rtol=1e-3)


def test_a_seed_gives_one_result_and_another_seed_another():
    dense = make()
    first, again, other = (cut(dense) for _ in range(3))
    for small, seed in ((first, 3), (again, 3), (other, 4)):
        reconstruct(small, dense, images(), QUICK, seed=seed)
    assert torch.equal(first.head.weight, again.head.weight)
    assert not torch.equal(first.head.weight, other.head.weight)


class Stopped(Exception):
    pass


def stop_after(steps):
    def progress(description, done, total):
        if done == steps:
            raise Stopped

    return progress


@pytest.mark.parametrize("stop", [3, 12, 20, 60])
def test_a_resumed_reconstruction_ends_bit_equal_to_one_that_never_stopped(tmp_path, monkeypatch, stop):
    monkeypatch.setattr(race_module, "SAVE_EVERY", 5)
    dense, path = make(), tmp_path / "state.safetensors"
    settings = replace(QUICK, candidates=(Setting(1e-2), Setting(1e-3), Setting(3e-3, False)), race=0.6)
    whole, halted = cut(dense), cut(dense)
    expected = reconstruct(whole, dense, images(), settings)
    with pytest.raises(Stopped):
        reconstruct(halted, dense, images(), settings, checkpoint=path, progress=stop_after(stop))
    resumed, steps = cut(dense), []
    found = reconstruct(
        resumed, dense, images(), settings, checkpoint=path, progress=lambda _, done, total: steps.append((done, total))
    )
    assert found.trials == expected.trials
    assert found.chosen == expected.chosen
    assert steps[0][0] > stop - 5
    assert steps[-1] == (64, 64)
    for name, tensor in whole.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], tensor), name


def test_a_finished_reconstruction_is_not_repeated(tmp_path):
    dense, path = make(), tmp_path / "state.safetensors"
    first, again = cut(dense), cut(dense)
    reconstruct(first, dense, images(), QUICK, checkpoint=path)
    reconstruct(again, dense, images(), QUICK, checkpoint=path, progress=lambda *_: pytest.fail("trained again"))
    assert torch.equal(first.head.weight, again.head.weight)


@pytest.mark.parametrize("change", ["seed", "settings", "images", "model"])
def test_the_state_of_another_reconstruction_is_refused(tmp_path, change):
    dense, path = make(), tmp_path / "state.safetensors"
    reconstruct(cut(dense), dense, images(), QUICK, checkpoint=path)
    small = cut(dense)
    if change == "model":
        with torch.no_grad():
            small.head.bias += 1
    with pytest.raises(ValueError, match="state of another training"):
        reconstruct(
            small,
            dense,
            images(seed=5 if change == "images" else 1),
            replace(QUICK, steps=41) if change == "settings" else QUICK,
            seed=int(change == "seed"),
            checkpoint=path,
        )


def test_a_time_to_stay_within_cuts_the_steps():
    dense = make()
    settings = replace(QUICK, steps=10**6, seconds=1.0, candidates=(Setting(1e-2),))
    assert reconstruct(cut(dense), dense, images(), settings).trials[-1].steps < 10**5


def test_no_steps_measure_and_change_nothing():
    dense = make()
    small = cut(dense)
    before = small.head.weight.clone()
    found = reconstruct(small, dense, images(), replace(QUICK, steps=0))
    assert found.before == found.after > 0
    assert not found.trials
    assert torch.equal(small.head.weight, before)


def nan_image():
    x = images()
    x[7, 0, 0, 0] = math.nan
    return x


class Words(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = make()

    def forward(self, x):
        return self.net(x).argmax(dim=1)


BAD = {
    "another shape": (
        lambda: torch.randn(120, 3, 6, 6),
        ValueError,
        r"images of shape \[\[3, 6, 6\]\]",
    ),
    "NaN": (nan_image, ValueError, "1 of 120 images hold NaN"),
    "too few": (lambda: images(5), ValueError, "at least 20 images; got 5"),
    "two shapes": (lambda: [images(30), torch.randn(30, 2, 7, 7)], ValueError, "differ in shape"),
    "no batches": (list, ValueError, "yields no batch"),
    "no images": (lambda: 7, TypeError, "got int"),
}


@pytest.mark.parametrize("what", BAD)
def test_bad_images_are_refused_before_work(what):
    given, error, message = BAD[what]
    dense = make()
    small = cut(dense)
    before = copy.deepcopy(small.state_dict())
    with pytest.raises(error, match=message):
        reconstruct(small, dense, given(), QUICK, progress=lambda *_: pytest.fail("worked"))
    assert all(torch.equal(tensor, before[name]) for name, tensor in small.state_dict().items())


def test_networks_that_cannot_be_matched_are_refused():
    dense = make()
    with pytest.raises(ValueError, match="no floating-point output"):
        reconstruct(Words(), Words(), images(), QUICK)
    with pytest.raises(ValueError, match="must agree"):
        reconstruct(make(lambda: Net(classes=3)), dense, images(), QUICK)
    with pytest.raises(ValueError, match="the pruned one itself"):
        reconstruct(dense, dense, images(), QUICK)
    with pytest.raises(ValueError, match="requires a gradient"):
        reconstruct(cut(dense).requires_grad_(False), dense, images(), QUICK)
    with pytest.raises(ValueError, match="names 2 outputs"):
        reconstruct(cut(dense), dense, images(), replace(QUICK, loss=("kl", "mse")))
    value = make(Value)
    with pytest.raises(ValueError, match="two or more channels"):
        reconstruct(cut(value), value, images(), replace(QUICK, loss="kl"))


@pytest.mark.parametrize(
    "options",
    [{"steps": -1}, {"batch_size": 1}, {"candidates": ()}, {"temperature": 0.0}, {"held_out": 1.0}, {"seconds": 0.0}],
)
def test_settings_out_of_range_are_refused(options):
    with pytest.raises(ValueError, match=json.dumps(next(iter(options))).strip('"')):
        Reconstruction(**options)


def test_the_pruner_reconstructs_what_it_has_cut_and_refitted():
    dense, plan = make(), {"conv1": [0, 2, 5], "conv2": [1, 4]}
    pruner, calibration = PhysicalPruner(dense, images(2)), TensorSplit(images(), torch.zeros(120, dtype=torch.long))
    refitted = pruner.prune(plan, refit="sequential", calibration=calibration)
    by_hand = copy.deepcopy(refitted)
    reconstruct(by_hand, dense, images(200, seed=9), QUICK, seed=5)
    built_in = pruner.prune(
        plan, refit="sequential", calibration=calibration, reconstruct=QUICK, unlabelled=images(200, seed=9), seed=5
    )
    assert torch.equal(built_in.head.weight, by_hand.head.weight)
    on_calibration = pruner.prune(plan, refit="sequential", calibration=calibration, reconstruct=QUICK)
    assert distance(on_calibration, dense, images(seed=2)) < distance(refitted, dense, images(seed=2))
    with pytest.raises(ValueError, match="reconstruct needs images"):
        pruner.prune(plan, reconstruct=True)
