"""Files of amortised models: they come back as they were, and nothing else is taken for one."""

import json

import pytest
import torch

from agents.amortised.model import AmortisedModel, Sizes
from agents.amortised.storage import load_model, save_model
from prune_gym.support.files import load_safetensors, save_safetensors_atomic
from tests.agents.amortised import family


@pytest.mark.parametrize("width", [0, 16])
def test_a_saved_model_comes_back(width, tmp_path):
    model = family.trained(width)
    again = load_model(save_model(model, tmp_path / "model.safetensors"))
    assert again.trained_on == model.trained_on
    assert again.sizes == model.sizes
    kept = family.plans(family.network(100))[0]
    expected = [found.at(family.problem()).expected(None, kept) for found in (model, again)]
    assert (expected[0] == expected[1]).all()


@pytest.fixture
def parts(tmp_path):
    return load_safetensors(save_model(AmortisedModel(Sizes(8, 1)), tmp_path / "whole.safetensors"))


def changed(tensors, document, path, **entries):
    text = json.dumps(json.loads(document["amortised"]) | entries)
    return save_safetensors_atomic(path, tensors, {"amortised": text})


@pytest.mark.parametrize(
    ("entries", "said"),
    [
        ({"width": 12}, "does not fit its own sizes"),
        ({"width": 7}, "'width'"),
        ({"width": 10**6}, "'width'"),
        ({"members": 0}, "'members'"),
        ({"trust": 2.0}, "'trust'"),
        ({"inputs": ["depth"]}, "of another version"),
        ({"format": "rspar-amortised-0"}, "of another version"),
        ({"code": "import os"}, "'code'"),
    ],
)
def test_a_file_that_says_what_cannot_be_is_refused(parts, entries, said, tmp_path):
    path = changed(*parts, tmp_path / "changed.safetensors", **entries)
    with pytest.raises(ValueError, match=said):
        load_model(path)


def test_numbers_that_are_none_are_refused(parts, tmp_path):
    tensors, document = parts
    tensors["centre"][0] = torch.nan
    with pytest.raises(ValueError, match="NaN or infinite values in 'centre'"):
        load_model(changed(tensors, document, tmp_path / "nan.safetensors"))


def test_other_files_are_no_models(tmp_path):
    path = save_safetensors_atomic(tmp_path / "other.safetensors", {"a": torch.zeros(1)}, {})
    with pytest.raises(ValueError, match="is no amortised model"):
        load_model(path)
