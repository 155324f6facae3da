"""Saved analyses: every bit counts, and so do shapes, orders and finiteness."""

import random

import pytest
import torch

from hessian import HOBSSensitivityAnalyzer
from hessian.pricing import storage
from tests.prune_gym.tiny import tiny_task


@pytest.fixture(scope="module")
def task():
    return tiny_task()


def fresh(task):
    return HOBSSensitivityAnalyzer(task.model, example_input=task.example_input[:1])


@pytest.fixture(scope="module")
def analysed(task):
    hobs = fresh(task)
    hobs.compute_sensitivity(task.calibration.batches(100), num_batches=1)
    return hobs


def test_flipped_bits_never_give_another_analysis(task, analysed, tmp_path):
    path, rng, reader = tmp_path / "a.safetensors", random.Random(0), fresh(task)
    analysed.save(path)
    sound = path.read_bytes()
    for _ in range(60):
        damaged = bytearray(sound)
        damaged[rng.randrange(len(damaged))] ^= 1 << rng.randrange(8)
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"a\.safetensors"):
            reader.load(path)
    assert not reader.prices


def test_a_file_without_a_checksum_is_refused(task, analysed, tmp_path):
    from safetensors.torch import save_file

    tensors, metadata = analysed.tensors()
    save_file(tensors, tmp_path / "old.safetensors", metadata)
    with pytest.raises(ValueError, match="carries no checksum"):
        fresh(task).load(tmp_path / "old.safetensors")


def shorter(tensors, layer):
    tensors[f"prices/{layer}"] = tensors[f"prices/{layer}"][:1].clone()


def twice(tensors, layer):
    tensors[f"orders/{layer}"][0] = tensors[f"orders/{layer}"][1]


def undefined(tensors, layer):
    tensors[f"curves/{layer}"][-1] = torch.nan


def other_type(tensors, layer):
    tensors[f"prices/{layer}"] = tensors[f"prices/{layer}"].float()


def narrower(tensors, layer):
    key = next(key for key in tensors if key.startswith("A/"))
    tensors[key] = tensors[key][:, :-1].clone()


def infinite(tensors, layer):
    next(tensors[key] for key in tensors if key.startswith("G/"))[0, 0, 0] = torch.inf


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (shorter, r"prices of layer 'conv1' are torch.float64 \[1\]; expected torch.float64 \[8\]"),
        (twice, "the order of layer 'conv1' does not name each of its 8 units once"),
        (undefined, "curves of layer 'conv1' hold NaN"),
        (other_type, "prices of layer 'conv1' are torch.float32"),
        (narrower, "factor A of .* has shape"),
        (infinite, "factor G of .* holds NaN, infinite"),
    ],
)
def test_what_is_no_analysis_of_this_network_is_refused(task, analysed, tmp_path, change, message):
    tensors, metadata = analysed.tensors()
    tensors = {name: tensor.clone() for name, tensor in tensors.items()}
    change(tensors, "conv1")
    storage.write(tmp_path / "b.safetensors", tensors, metadata)
    with pytest.raises(ValueError, match=message):
        fresh(task).load(tmp_path / "b.safetensors")


@pytest.mark.parametrize("settings", ['{"format": 2}', "[]", "{", '{"format": 2, "damping": "x"}', "[" * 100_000])
def test_settings_that_are_none_are_refused(task, analysed, tmp_path, settings):
    storage.write(tmp_path / "c.safetensors", analysed.tensors()[0], {"hobs": settings})
    with pytest.raises(ValueError, match=r"c\.safetensors"):
        fresh(task).load(tmp_path / "c.safetensors")
