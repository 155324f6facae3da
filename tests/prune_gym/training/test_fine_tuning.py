"""Options of fine-tuning: never worse than the start, raced learning rates, averages, Adam, layers' outputs."""

import copy

import pytest
import torch
from torch import nn

from prune_gym.data.splits import TensorSplit
from prune_gym.surgery.pruner import PhysicalPruner
from prune_gym.training.averaging import WeightAverage
from prune_gym.training.block_outputs import BlockOutputs, blocks_of_plan
from prune_gym.training.choosing import fine_tune_better
from prune_gym.training.training import Loop, evaluate_model, fine_tune


def split(count=60, seed=0):
    images = torch.randn(count, 2, 6, 6, generator=torch.Generator().manual_seed(seed))
    return TensorSplit(images, (images.mean(dim=(1, 2, 3)) > 0).long())


def network(seed=1):
    torch.manual_seed(seed)
    return nn.Sequential(
        *(nn.Conv2d(2, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6), nn.ReLU()),
        *(nn.Conv2d(6, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 2)),
    )


def train(model, **options):
    return fine_tune(model, None, split(), **{"epochs": 2, "lr": 0.02, "batch_size": 10, "seed": 3, **options})


def train_with(network, images, epochs, lr):
    return fine_tune(network, None, images, epochs=epochs, lr=lr, batch_size=10)


def test_a_network_that_training_ruins_stays_as_it_was():
    model, decide = network(), split(40, seed=5)
    train(model, epochs=6)
    before = copy.deepcopy(model.state_dict())
    wrong = TensorSplit(split().images, 1 - split().labels)
    choice = fine_tune_better(model, wrong, decide, train_with, epochs=5, learning_rates=[0.1])
    assert not choice.kept
    assert choice.end < choice.start == evaluate_model(model, decide).accuracy
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_the_best_of_the_raced_learning_rates_trains_on_from_the_start():
    model, decide = network(), split(40, seed=5)
    alone = copy.deepcopy(model)
    choice = fine_tune_better(
        model, split(), decide, train_with, epochs=3, learning_rates=[1e-6, 0.1, 0.02], race_images=30
    )
    assert choice.raced[choice.lr] == max(choice.raced.values()) > min(choice.raced.values())
    train_with(alone, split(), 3, choice.lr)
    assert torch.equal(model[0].weight, alone[0].weight)
    with pytest.raises(ValueError, match="at least one"):
        fine_tune_better(model, split(), decide, train_with, epochs=1, learning_rates=[])


def test_the_average_is_the_formulas():
    model = nn.Linear(2, 1)
    average, expected = WeightAverage(model, 0.9), model.weight.detach().clone()
    for step in range(1, 6):
        with torch.no_grad():
            model.weight.add_(step)
        average.update()
        decay = min(0.9, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * model.weight.detach()
    average.install()
    torch.testing.assert_close(model.weight.detach(), expected)


@pytest.mark.parametrize("options", [{"average": 0.9}, {"optimizer": "adam", "lr": 0.003}])
def test_options_change_the_training_and_resume_bit_equal(tmp_path, options):
    plain, whole = network(), network()
    train(plain)
    train(whole, **options)
    assert not torch.equal(plain[0].weight, whole[0].weight)

    class Stopped(Exception):
        pass

    def stop(description, done, total):
        if done == 9:
            raise Stopped

    loop = Loop(checkpoint=tmp_path / "state.safetensors")
    with pytest.raises(Stopped):
        train(network(), loop=loop, progress=stop, **options)
    resumed, again = network(), network()
    for model in (resumed, again):  # the second finds the training finished
        train(model, loop=loop, **options)
        for name, tensor in whole.state_dict().items():
            assert torch.equal(model.state_dict()[name], tensor), name


@pytest.mark.parametrize("options", [{"optimizer": "lion"}, {"average": 1.0}])
def test_unknown_options_are_refused(options):
    with pytest.raises(ValueError, match="the optimizer is one of"):
        train(network(), **options)


def cut():
    dense = network().eval()
    pruner, plan = PhysicalPruner(dense, split().images[:1]), {"0": [0, 3], "3": [1]}
    return dense, pruner.prune(plan), blocks_of_plan(dense, pruner.groups, plan, split().images[:1])


def test_the_blocks_of_a_plan_are_norms_or_producers_and_the_channels_they_keep():
    _, _, blocks = cut()
    assert {name: kept.tolist() for name, kept in blocks.items()} == {"1": [1, 2, 4, 5], "3": [0, 2, 3]}


def test_the_loss_inside_is_the_relative_error_of_the_kept_channels():
    dense, small, blocks = cut()
    inside, x = BlockOutputs(small, dense, blocks), split().images
    with inside.watched(), torch.no_grad():
        small.eval()(x)
        dense(x)
        found = inside.loss()
        expected = 0.0
        for name, kept in blocks.items():
            last = int(name) + 1
            target, own = dense[:last](x)[:, kept], small[:last](x)
            expected += (own - target).square().mean() / target.square().mean() / len(blocks)
    torch.testing.assert_close(found, expected)


def test_matching_layers_brings_their_outputs_closer():
    errors = []
    for weight in (0.0, 1.0):
        dense, small, blocks = cut()
        options = {"epochs": 8, "lr": 0.003, "batch_size": 10, "blocks": blocks, "block_weight": weight}
        fine_tune(small, dense, split(), **options)
        inside = BlockOutputs(small, dense, blocks)
        with inside.watched(), torch.no_grad():
            small.eval()(split().images)
            dense(split().images)
            errors.append(float(inside.loss()))
    assert errors[1] < 0.8 * errors[0]


def test_blocks_that_do_not_fit_are_refused():
    dense, small, blocks = cut()
    with pytest.raises(ValueError, match="unknown module '9'"):
        fine_tune(small, dense, split(), epochs=1, blocks={"9": None})
    with pytest.raises(ValueError, match="which channels it keeps"):
        fine_tune(small, dense, split(), epochs=1, blocks={"1": None})
    with pytest.raises(ValueError, match="pass the dense network as teacher"):
        fine_tune(small, None, split(), epochs=1, blocks=blocks)
