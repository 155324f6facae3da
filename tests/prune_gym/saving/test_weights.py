"""Checkpoints as trainers write them, in the network they are of."""

import argparse

import pytest
import safetensors.torch
import torch
from torch import nn

from prune_gym.saving.weights import ClassCountError, WeightsError, load_weights, read_checkpoint


def network(classes: int = 5) -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, classes))


def renamed(prefix: str, shift: float = 0.0) -> dict:
    return {prefix + name: tensor + shift for name, tensor in network().state_dict().items()}


CONTAINERS = {
    "plain": renamed(""),
    "DistributedDataParallel": renamed("module."),
    "torch.compile": renamed("_orig_mod."),
    "Lightning": {"state_dict": renamed("model."), "epoch": 3, "optimizer_states": [{"lr": 0.1}]},
    "a trainer": {"model": renamed("module."), "optimizer": {"state": {0: torch.zeros(3)}}},
    "AveragedModel": {**renamed("module."), "n_averaged": torch.tensor(7)},
    "two wrappers": {"model_state_dict": renamed("module._orig_mod.net.")},
}


@pytest.mark.parametrize("container", CONTAINERS)
def test_what_trainers_put_around_weights_is_taken_off(container, tmp_path):
    torch.save(CONTAINERS[container], tmp_path / "weights.pth")
    model = network().apply(lambda module: [parameter.data.zero_() for parameter in module.parameters()])
    load_weights(model, tmp_path / "weights.pth")
    for name, tensor in network().state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor)


def test_averaged_weights_are_taken_where_there_are_some(tmp_path):
    torch.save({"state_dict": renamed(""), "state_dict_ema": renamed("module.", shift=1)}, tmp_path / "weights.pth")
    model = network()
    notes = load_weights(model, tmp_path / "weights.pth")
    assert torch.equal(model[0].weight, network()[0].weight + 1)
    assert any("state_dict_ema" in note for note in notes)


def test_safetensors_are_read(tmp_path):
    safetensors.torch.save_file(renamed("module."), tmp_path / "weights.safetensors")
    model = network()
    assert load_weights(model, tmp_path / "weights.safetensors") == ("the prefix 'module.' was taken off the names",)


def test_another_number_of_classes_is_said(tmp_path):
    torch.save(network(7).state_dict(), tmp_path / "weights.pth")
    with pytest.raises(ClassCountError, match=r"the weights have 7 classes .* the network has 5") as caught:
        load_weights(network(5), tmp_path / "weights.pth")
    assert caught.value.classes == 7


class Mischief:
    def __reduce__(self):
        return (print, ("code of the file was run",))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"state_dict": renamed(""), "args": argparse.Namespace(lr=1)}, "holds more than tensors"),
        (Mischief(), "holds more than tensors"),
        ([1, 2], "holds no tensors by name"),
        ({"other.weight": torch.zeros(3)}, "is of another network"),
        ({name: tensor for name, tensor in renamed("").items() if name != "0.bias"}, "'0.bias' is missing"),
        ({**renamed(""), "9.weight": torch.zeros(3)}, "'9.weight' is not in the network"),
        ({**renamed(""), "0.weight": torch.zeros(8, 1, 3, 3)}, r"'0.weight' is \[8, 1, 3, 3\]"),
    ],
)
def test_files_that_are_something_else_are_refused_and_run_nothing(content, message, tmp_path, capsys):
    torch.save(content, tmp_path / "weights.pth")
    with pytest.raises(WeightsError, match=message):
        load_weights(network(), tmp_path / "weights.pth")
    assert "code of the file" not in capsys.readouterr().out


def test_truncated_and_missing_files_are_named(tmp_path):
    torch.save(renamed(""), tmp_path / "weights.pth")
    whole = (tmp_path / "weights.pth").read_bytes()
    (tmp_path / "weights.pth").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(WeightsError, match="truncated"):
        read_checkpoint(tmp_path / "weights.pth")
    with pytest.raises(FileNotFoundError, match="no weights"):
        read_checkpoint(tmp_path / "nowhere.pth")
