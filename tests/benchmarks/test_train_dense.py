import dataclasses
import json

import pytest
import torch

from benchmarks import train_dense
from benchmarks.train_dense import main, train_named_task
from prune_gym.data.splits import DatasetSplits, load_digits_splits
from prune_gym.support.files import load_safetensors
from prune_gym.tasks import named
from prune_gym.tasks.named import TrainingRecipe, named_task
from prune_gym.training import evaluate_model


@pytest.fixture(scope="module")
def splits():
    digits = load_digits_splits()
    few = digits.train.subset(slice(200))
    return DatasetSplits(few, few.subset(slice(50)), digits.reward, digits.test)


@pytest.fixture
def small_task(splits):
    recipe = TrainingRecipe(epochs=3, lr=0.05, batch_size=20)
    kwargs = {"widths": (4, 8, 12)}
    changes = {"load_splits": lambda: splits, "recipe": recipe, "model_kwargs": kwargs}
    return dataclasses.replace(named_task("digits-resnet20"), weights_shipped=False, **changes)


def test_trained_weights_load_into_the_task_and_score_what_was_reported(small_task, splits, tmp_path):
    path = tmp_path / "weights.safetensors"
    result = train_named_task(small_task, splits, path, seed=2)
    task = small_task.build(weights=path)
    assert evaluate_model(task.model, task.test) == result
    untrained, _ = small_task.structure(seed=2)
    assert result.accuracy > evaluate_model(untrained, splits.test).accuracy
    assert load_safetensors(path)[1]["seed"] == "2"


def test_the_seed_decides_the_weights(small_task, splits, tmp_path):
    quick = dataclasses.replace(small_task, recipe=dataclasses.replace(small_task.recipe, epochs=1))
    states = []
    for index, seed in enumerate((1, 1, 2)):
        path = tmp_path / f"{index}.safetensors"
        train_named_task(quick, splits, path, seed=seed)
        states.append(load_safetensors(path)[0]["conv1.weight"])
    assert torch.equal(states[0], states[1])
    assert not torch.equal(states[0], states[2])


def test_without_out_the_weights_go_where_the_task_looks(small_task, monkeypatch, capsys):
    monkeypatch.setattr(named, "named_task", lambda name: small_task)
    assert main(["--task", "fashion-resnet20", "--epochs", "1"]) == 0
    assert "test accuracy" in capsys.readouterr().out
    metadata = load_safetensors(small_task.cached_weights_path)[1]
    assert '"epochs": 1' in metadata["recipe"]
    small_task.build()


class Interrupted(Exception):
    pass


def interrupt_in_epoch(epoch):
    def progress(description, done, total):
        if done > total * (epoch - 1) / 3 + 2:
            raise Interrupted

    return progress


def test_an_interrupted_training_goes_on_and_ends_with_the_same_weights(small_task, splits, tmp_path):
    recipe = dataclasses.replace(small_task.recipe, max_shift=1.0, flip=True)
    task = dataclasses.replace(small_task, recipe=recipe)
    train_named_task(task, splits, tmp_path / "whole.safetensors")
    path, state = tmp_path / "w.safetensors", tmp_path / "w.training.safetensors"
    for epoch in (2, 3):
        with pytest.raises(Interrupted):
            train_named_task(task, splits, path, progress=interrupt_in_epoch(epoch))
        assert state.is_file()
        assert not path.exists()
    steps = []
    train_named_task(task, splits, path, progress=lambda _, done, total: steps.append((done, total)))
    assert (steps[0], steps[-1]) == ((21, 30), (30, 30))
    assert not state.exists()
    whole, resumed = (load_safetensors(file)[0] for file in (tmp_path / "whole.safetensors", path))
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


@pytest.mark.parametrize(("damage", "message"), [("another seed", "another training"), ("truncated", "truncated")])
def test_a_state_that_does_not_belong_is_refused(damage, message, small_task, splits, tmp_path):
    path, state = tmp_path / "w.safetensors", tmp_path / "w.training.safetensors"
    with pytest.raises(Interrupted):
        train_named_task(small_task, splits, path, seed=1, progress=interrupt_in_epoch(2))
    if damage == "truncated":
        state.write_bytes(state.read_bytes()[:-9])
    with pytest.raises(ValueError, match=message):
        train_named_task(small_task, splits, path, seed=2 if damage == "another seed" else 1)


def test_ctrl_c_says_how_to_go_on(small_task, monkeypatch, tmp_path, capsys):
    def interrupted(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(train_dense, "train_named_task", interrupted)
    assert main(["--out", str(tmp_path / "w.safetensors")]) == 130
    assert "goes on after the last finished epoch" in capsys.readouterr().err


def test_weights_that_are_there_are_trained_again_only_when_asked_to(small_task, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(named, "named_task", lambda name: small_task)
    path = tmp_path / "w.safetensors"
    path.write_bytes(b"there")
    assert main(["--out", str(path), "--epochs", "1"]) == 0
    assert path.read_bytes() == b"there"
    assert "--overwrite" in capsys.readouterr().out
    assert main(["--out", str(path), "--epochs", "1", "--overwrite"]) == 0
    assert "test_accuracy" in load_safetensors(path)[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--task", "fashion-resnet20", "--data-dir", "/nowhere"], "dataset-fashion-mnist"),
        (["--task", "cifar10-resnet20", "--data-dir", "/nowhere"], "no CIFAR-10 binary files"),
        (["--task", "imagenet-resnet18"], "its weights are torchvision's, there is nothing to train"),
        (["--task", "mine"], "no recipe for task 'mine'"),
        (["--gpu", "99"], "device '99' is not present"),
        (["--epochs", "-1"], "epochs >= 0"),
    ],
)
def test_what_cannot_work_ends_with_a_message(arguments, message, tmp_path, capsys):
    assert main([*arguments, "--out", str(tmp_path / "w.safetensors")]) == 2
    assert message in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "w.safetensors").exists()


def test_the_shipped_weights_are_what_the_recipe_says():
    task = named_task("digits-resnet20")
    metadata = load_safetensors(task.weights_path)[1]
    assert metadata["task"] == task.name
    assert json.loads(metadata["recipe"]) == dataclasses.asdict(task.recipe)
