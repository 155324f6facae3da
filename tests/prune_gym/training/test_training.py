import copy
import math

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy, kl_div

from prune_gym.data.augmentation import Augmentation
from prune_gym.data.splits import TensorSplit
from prune_gym.training import evaluate_model, fine_tune, train_dense
from prune_gym.training.batchnorm import recalibrate_bn
from prune_gym.training.fitting import one_cycle
from prune_gym.training.training import distillation_loss


def network(seed=0, dropout=0.0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(
            *(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(dropout)),
            *(nn.Conv2d(4, 5, 3), nn.BatchNorm2d(5, momentum=0.3), nn.ReLU()),
            *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, 3)),
        )


def split(count=50, seed=0, size=6):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 3, (count,), generator=generator)
    images = torch.randn(count, 1, size, size, generator=generator) + labels[:, None, None, None]
    return TensorSplit(images, labels)


def mixed_modes(model):
    model.train()
    model[3].eval()
    return [module.training for module in model.modules()]


def weights(model):
    return torch.cat([value.flatten().float() for value in model.state_dict().values()])


# ---------------------------------------------------------------- evaluate_model


@pytest.mark.parametrize("batch_size", [1, 7, 50, 500])
def test_an_evaluation_is_the_mean_over_images_whatever_the_batches(device, batch_size):
    model, data = network().to(device), split()
    result = evaluate_model(model, data, batch_size)
    logits = model.eval()(data.images.to(device)).detach().cpu()
    assert result.accuracy == pytest.approx((logits.argmax(1) == data.labels).double().mean().item())
    truth = logits.softmax(1)[torch.arange(50), data.labels]
    assert result.soft_accuracy == pytest.approx(truth.mean().item(), rel=1e-5)
    assert result.loss == pytest.approx(cross_entropy(logits, data.labels).item(), rel=1e-5)


def test_an_evaluation_uses_the_tasks_criterion():
    def ones(logits, labels):
        return logits.new_ones(())

    assert evaluate_model(network(), split(), 7, criterion=ones).loss == pytest.approx(1.0)


def test_an_evaluation_leaves_modes_statistics_and_gradients_alone():
    model = network(dropout=0.5)
    modes, before = mixed_modes(model), weights(model)
    evaluate_model(model, split())
    assert [module.training for module in model.modules()] == modes
    assert torch.equal(weights(model), before)


def test_an_empty_split_is_refused():
    for call in (evaluate_model, recalibrate_bn, lambda model, data: train_dense(model, data, epochs=1)):
        with pytest.raises(ValueError, match="empty split"):
            call(network(), split(0))


# ---------------------------------------------------------------- recalibrate_bn


def test_recalibrated_statistics_are_those_of_the_split(device):
    model, data = network().to(device), split()
    recalibrate_bn(model, data)
    first = model[0](data.images.to(device))
    assert torch.allclose(model[1].running_mean, first.mean((0, 2, 3)), atol=1e-5)
    assert torch.allclose(model[1].running_var, first.var((0, 2, 3)), atol=1e-5)
    # The second norm sees what the first one normalises with the batch's own (biased) statistics.
    normalised = (first - first.mean((0, 2, 3), keepdim=True)) / (
        first.var((0, 2, 3), keepdim=True, correction=0) + 1e-5
    ).sqrt()
    second = model[4](normalised.relu())
    assert torch.allclose(model[5].running_var, second.var((0, 2, 3)), atol=1e-5)


def test_every_batch_counts_the_same_and_none_is_a_leftover():
    model, data = network(), split(51)
    recalibrate_bn(model, data, batch_size=10)
    parts = [model[0](part) for part in data.images.tensor_split(6)]
    mean = torch.stack([part.mean((0, 2, 3)) for part in parts]).mean(0)
    assert torch.allclose(model[1].running_mean, mean, atol=1e-6)
    assert int(model[1].num_batches_tracked) == 6


def test_old_statistics_are_forgotten():
    one, other = network(), network()
    recalibrate_bn(other, split(seed=8), batch_size=5)
    recalibrate_bn(one, split())
    recalibrate_bn(other, split())
    assert torch.equal(weights(one), weights(other))


def test_dropout_stays_off_and_modes_and_momenta_come_back():
    model, plain = network(dropout=0.9), network()
    modes = mixed_modes(model)
    model[3].train()
    modes[4] = True
    recalibrate_bn(model, split())
    recalibrate_bn(plain, split())
    assert torch.equal(weights(model), weights(plain))
    assert [module.training for module in model.modules()] == modes
    assert (model[1].momentum, model[5].momentum) == (0.1, 0.3)


def test_one_value_a_channel_is_refused_and_changes_nothing():
    model = nn.Sequential(nn.Flatten(), nn.Linear(36, 4), nn.BatchNorm1d(4))
    recalibrate_bn(model, split())
    before = weights(model)
    with pytest.raises(ValueError, match="batch norm '2' gets 1 value a channel"):
        recalibrate_bn(model, split(3), batch_size=1)
    assert torch.equal(weights(model), before)
    assert model[2].momentum == 0.1
    assert not model[2]._forward_pre_hooks


def test_without_batch_norms_nothing_happens():
    model = nn.Sequential(nn.BatchNorm2d(1, track_running_stats=False), nn.Flatten(), nn.Linear(36, 3))
    before = weights(model)
    recalibrate_bn(model, split())
    assert torch.equal(weights(model), before)


# ---------------------------------------------------------------- training


def test_training_learns(device):
    model = network().to(device)
    before = evaluate_model(model, split(seed=9)).loss
    history = train_dense(model, split(), epochs=8, lr=0.05, batch_size=10)
    assert evaluate_model(model, split(seed=9)).loss < before / 2
    assert [record.epoch for record in history] == list(range(1, 9))
    assert history[-1].loss < history[0].loss
    assert history[-1].accuracy > history[0].accuracy


def test_one_step_is_nesterov_sgd_on_the_loss():
    """With momentum m the first Nesterov step is lr (1 + m) times the gradient; matrices also decay."""
    model, data = network(), split(8)
    expected = copy.deepcopy(model)
    cross_entropy(expected.train()(data.images), data.labels).backward()
    history = train_dense(model, data, epochs=1, lr=0.1, batch_size=8, weight_decay=0.01, momentum=0.5)
    for parameter, reference in zip(model.parameters(), expected.parameters(), strict=True):
        decay = 0.01 * reference if reference.ndim >= 2 else 0.0
        step = history[0].lr * 1.5 * (reference.grad + decay)
        assert torch.allclose(parameter, reference - step, atol=1e-6)


def trained(seed, global_seed, **options):
    torch.manual_seed(global_seed)
    model = network(dropout=0.3)
    augment = Augmentation(max_shift=1.0, max_rotation=10.0, flip=True)
    history = train_dense(model, split(), epochs=2, batch_size=16, augment=augment, seed=seed, **options)
    return weights(model), history


def test_the_seed_and_nothing_else_decides_the_result():
    one, history = trained(seed=1, global_seed=10)
    again, history_again = trained(seed=1, global_seed=20)
    assert torch.equal(one, again)
    assert history == history_again
    assert not torch.equal(one, trained(seed=2, global_seed=10)[0])


def test_training_leaves_the_callers_random_stream_and_modes_alone():
    model = network(dropout=0.5)
    modes = mixed_modes(model)
    torch.manual_seed(4)
    expected = torch.rand(1)
    torch.manual_seed(4)
    train_dense(model, split(), epochs=1)
    assert torch.equal(torch.rand(1), expected)
    assert [module.training for module in model.modules()] == modes


def test_progress_counts_every_step_to_the_end():
    calls = []
    train_dense(network(), split(51), epochs=2, batch_size=10, progress=lambda *call: calls.append(call))
    assert calls == [("training", step, 12) for step in range(1, 13)]


def test_a_leftover_image_does_not_stop_batch_norms():
    """51 = 5 * 10 + 1, and a batch of one has no variance after pooling to 1x1."""
    model = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.BatchNorm2d(1), nn.Flatten(), nn.Linear(1, 3))
    train_dense(model, split(51), epochs=1, batch_size=10)


def test_a_diverging_loss_is_an_error_that_names_the_learning_rate():
    model = network()
    with torch.no_grad():
        model[0].weight[0] = math.nan
    with pytest.raises(FloatingPointError, match=r"training: the loss became nan in epoch 1; .*\(0.25\)"):
        train_dense(model, split(), epochs=3, lr=0.25)


def test_frozen_parameters_are_not_trained_and_a_frozen_model_is_refused():
    model = network()
    model[0].requires_grad_(False)
    before = model[0].weight.clone()
    train_dense(model, split(), epochs=1)
    assert torch.equal(model[0].weight, before)
    with pytest.raises(ValueError, match="no parameter requires a gradient"):
        train_dense(model.requires_grad_(False), split(), epochs=1)


@pytest.mark.parametrize(
    "options", [{"epochs": -1}, {"batch_size": 0}, {"lr": 0.0}, {"weight_decay": -1.0}, {"momentum": 1.0}]
)
def test_numbers_out_of_range_are_refused(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        train_dense(network(), split(), **{"epochs": 1, **options})


@pytest.mark.parametrize(("total", "warmup"), [(1, 0.25), (7, 0.1), (100, 0.25), (20, 0.0)])
def test_the_learning_rate_rises_to_its_peak_once_and_falls_to_nearly_nothing(total, warmup):
    shares = [one_cycle(step, total, warmup) for step in range(total)]
    peak = shares.index(max(shares))
    assert all(0 < share <= 1 for share in shares)
    assert shares[: peak + 1] == sorted(shares[: peak + 1])
    assert shares[peak:] == sorted(shares[peak:], reverse=True)
    assert peak <= math.ceil(warmup * total)
    assert max(shares) > 0.9 or total == 1
    assert one_cycle(total, total, warmup) == 0


# ---------------------------------------------------------------- fine-tuning


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_distillation_is_the_divergence_of_softened_outputs(temperature):
    student, teacher = torch.randn(2, 6, 3, generator=torch.Generator().manual_seed(0))
    p, q = (teacher / temperature).softmax(1), (student / temperature).softmax(1)
    expected = temperature**2 * (p * (p / q).log()).sum(1).mean()
    assert torch.allclose(distillation_loss(student, teacher, temperature), expected)
    assert distillation_loss(teacher, teacher, temperature).abs() < 1e-6


def test_the_fine_tuning_loss_is_the_weighted_sum():
    student, teacher, data = network(1), network(2), split(12)
    outputs, targets = copy.deepcopy(student).train()(data.images), teacher.eval()(data.images)
    soft = 4 * kl_div((outputs / 2).log_softmax(1), (targets / 2).softmax(1), reduction="batchmean")
    expected = 0.7 * soft + 0.3 * cross_entropy(outputs, data.labels)
    history = fine_tune(student, teacher, data, epochs=1, temperature=2.0, distillation_weight=0.7)
    assert history[0].loss == pytest.approx(expected.item(), rel=1e-5)


def test_a_taught_student_comes_closer_to_its_teacher_than_an_untaught_one(device):
    """On noise labels, only the teacher tells a student what the teacher would say."""
    teacher = network(2).to(device)
    train_dense(teacher, split(200), epochs=5, lr=0.05, batch_size=20)
    shuffled = torch.randperm(200, generator=torch.Generator().manual_seed(0))
    noise = TensorSplit(split(200).images, split(200).labels[shuffled])

    def distance(learns_from):
        student = network(3).to(device)
        options = {"epochs": 5, "lr": 0.05, "batch_size": 20, "distillation_weight": 1.0}
        fine_tune(student, learns_from, noise, **options)
        images = split(100, seed=5).images.to(device)
        with torch.no_grad():
            return distillation_loss(student.eval()(images), teacher.eval()(images), 1.0)

    assert distance(teacher) < distance(None) / 2


def test_the_teacher_is_left_untouched():
    teacher = network(2, dropout=0.5)
    modes, before = mixed_modes(teacher), weights(teacher)
    fine_tune(network(1), teacher, split(), epochs=1)
    assert [module.training for module in teacher.modules()] == modes
    assert torch.equal(weights(teacher), before)
    assert all(parameter.grad is None for parameter in teacher.parameters())


def test_without_a_teacher_the_weight_does_not_matter():
    one, other = network(1), network(1)
    fine_tune(one, None, split(), epochs=1, distillation_weight=0.0)
    fine_tune(other, None, split(), epochs=1, distillation_weight=1.0)
    assert torch.equal(weights(one), weights(other))


def test_fine_tuning_is_deterministic_given_its_seed():
    results = []
    for seed in (1, 1, 2):
        student = network(1, dropout=0.2)
        fine_tune(student, network(2), split(), epochs=2, batch_size=16, seed=seed)
        results.append(weights(student))
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])


def test_no_epochs_change_nothing():
    model = network()
    before = weights(model)
    assert fine_tune(model, None, split(), epochs=0) == []
    assert torch.equal(weights(model), before)


def test_fine_tuning_refuses_what_makes_no_sense():
    model = network()
    with pytest.raises(ValueError, match="teacher is the model itself"):
        fine_tune(model, model, split(), epochs=1)
    with pytest.raises(ValueError, match="the teacher is on meta, the model on cpu"):
        fine_tune(model, network().to("meta"), split(), epochs=1)
    for options in ({"temperature": 0.0}, {"distillation_weight": 1.1}):
        with pytest.raises(ValueError, match="temperature is positive"):
            fine_tune(model, network(1), split(), epochs=1, **options)


def test_a_nan_teacher_is_an_error():
    teacher = network(2)
    with torch.no_grad():
        teacher[9].bias.fill_(math.nan)
    with pytest.raises(FloatingPointError, match="fine-tuning: the loss became nan"):
        fine_tune(network(1), teacher, split(), epochs=1)


# ---------------------------------------------------------------- augmentation


def dot(row, column, size=9):
    image = torch.zeros(1, 1, size, size)
    image[0, 0, row, column] = 1.0
    return image


def centre(image):
    """Centre of mass, in pixels from the middle."""
    axis = torch.arange(image.shape[-1]) - (image.shape[-1] - 1) / 2
    mass = image.sum((1, 2, 3))
    return (image.sum((1, 2)) @ axis) / mass, (image.sum((1, 3)) @ axis) / mass


def test_no_augmentation_is_the_identity(device):
    images = split().images.to(device)
    assert torch.equal(Augmentation()(images, torch.Generator()), images)


def test_shifts_stay_within_their_bound_and_fill_it(device):
    images = dot(4, 4).repeat(300, 1, 1, 1).to(device)
    shifted = Augmentation(max_shift=2.0)(images, torch.Generator().manual_seed(0)).cpu()
    for offset in centre(shifted):
        assert 1.9 < offset.abs().max() < 2.01
        assert offset.mean().abs() < 0.2


def test_rotations_keep_the_radius_and_stay_within_their_bound():
    images = dot(4, 6).repeat(300, 1, 1, 1)
    rotated = Augmentation(max_rotation=20.0)(images, torch.Generator().manual_seed(0))
    x, y = centre(rotated)
    angle = torch.atan2(y, x).rad2deg()
    assert ((x**2 + y**2).sqrt() - 2).abs().max() < 0.1
    assert 17 < angle.abs().max() < 23


def test_flips_mirror_half_of_the_images():
    images = dot(2, 1).repeat(400, 1, 1, 1)
    flipped = Augmentation(flip=True)(images, torch.Generator().manual_seed(0))
    mirrored = (flipped - dot(2, 7)).abs().amax((1, 2, 3)) < 1e-4
    same = (flipped - images).abs().amax((1, 2, 3)) < 1e-4
    assert (mirrored ^ same).all()
    assert 0.4 < mirrored.float().mean() < 0.6


def test_augmentation_depends_on_its_generator_only():
    augment = Augmentation(1.0, 10.0, True)
    one = augment(split().images, torch.Generator().manual_seed(3))
    torch.manual_seed(5)
    assert torch.equal(one, augment(split().images, torch.Generator().manual_seed(3)))
    assert not torch.equal(one, augment(split().images, torch.Generator().manual_seed(4)))
