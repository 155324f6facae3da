"""The family: the same networks for everybody and for good, each prunable, none in two splits."""

import hashlib
import json
from collections import Counter
from dataclasses import asdict, replace

import pytest
import torch
from torch.nn.functional import avg_pool2d
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.studies.any_network.judge import RIGHT, judge
from prune_gym.data.splits import DatasetSplits, TensorSplit
from prune_gym.tasks import make_task
from prune_gym.tasks.family import design_of, family_names, family_network, images, split_of, tasks
from prune_gym.tasks.family.draws import HELD_OUT, KNOWN, SPLITS, kind_of
from prune_gym.tasks.family.networks import FLOPS
from prune_gym.tasks.registry import task_structure

DIGITS = "plain-00"
"""A network on digits: its data is in the package."""


@pytest.fixture(scope="module")
def designs():
    return {name: design_of(name) for name in family_names()}


def test_names_splits_and_designs_are_those_that_were_measured(designs):
    text = json.dumps({name: asdict(design) for name, design in designs.items()}, sort_keys=True)
    assert hashlib.sha256(text.encode()).hexdigest().startswith("475bbe5707a6c28e")
    counts = Counter((split_of(name), kind_of(name) in HELD_OUT) for name in designs)
    assert counts == {("train", False): 60, ("validation", False): 12, ("test", False): 12, ("test", True): 18}
    assert {split: len(family_names(split)) for split in SPLITS} == {"train": 60, "validation": 12, "test": 30}


def test_fresh_networks_are_others_and_in_no_other_split(designs):
    fresh = family_names("fresh")
    assert not set(fresh) & set(designs)
    assert {split_of(name) for name in fresh} == {"fresh"}
    assert {kind_of(name) for name in fresh} == {*KNOWN, *HELD_OUT}
    structures = {json.dumps(asdict(replace(design, name="")), sort_keys=True) for design in designs.values()}
    for name in fresh[:16]:
        assert json.dumps(asdict(replace(design_of(name), name="")), sort_keys=True) not in structures


def test_no_structure_is_in_the_family_twice(designs):
    seen = {json.dumps(asdict(replace(design, name="")), sort_keys=True) for design in designs.values()}
    assert len(seen) == len(designs)


@pytest.mark.parametrize("kind", [*KNOWN, *HELD_OUT])
def test_a_network_of_every_kind_is_cut_to_the_numbers_of_the_oracle(kind):
    design = design_of(f"{kind}-00")
    network = family_network(f"{kind}-00")
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.normal_(module.bias)
            torch.nn.init.normal_(module.running_mean)
    example = torch.randn(2, 1, design.size, design.size)
    found = judge(network, example)
    assert found.verdict == RIGHT, found
    assert 4 <= found.layers <= 20


@pytest.mark.parametrize("name", ["excited-01", "dense-04", "branches-02"])
def test_the_cost_of_a_design_is_that_of_its_network(name):
    size = design_of(name).size
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        family_network(name)(torch.zeros(1, 1, size, size))
    assert FLOPS[0] <= counter.get_total_flops() <= FLOPS[1]


def test_a_task_is_trained_once_and_then_read(monkeypatch, tmp_path):
    monkeypatch.setenv("PRUNE_GYM_CACHE", str(tmp_path))
    monkeypatch.setitem(tasks.RECIPES, "digits", replace(tasks.RECIPES["digits"], epochs=1))
    first = make_task(f"family/{DIGITS}")
    assert first.name == f"family/{DIGITS}"
    assert [len(first.train), len(first.calibration), len(first.reward), len(first.test)] == [700, 128, 600, 497]
    assert not torch.equal(first.model[-1].weight, family_network(DIGITS)[-1].weight)
    monkeypatch.setattr(tasks, "_train", lambda *args: pytest.fail("trained again"))
    again = make_task(f"family/{DIGITS}")
    assert all(torch.equal(a, b) for a, b in zip(first.model.parameters(), again.model.parameters(), strict=True))
    structure = task_structure(f"family/{DIGITS}")
    assert [tuple(p.shape) for p in structure.model.parameters()] == [tuple(p.shape) for p in first.model.parameters()]


def test_another_recipe_is_another_training(monkeypatch, tmp_path):
    monkeypatch.setenv("PRUNE_GYM_CACHE", str(tmp_path))
    monkeypatch.setattr(tasks, "_train", lambda *args: None)
    make_task(f"family/{DIGITS}")
    monkeypatch.setitem(tasks.RECIPES, "digits", replace(tasks.RECIPES["digits"], epochs=2))
    make_task(f"family/{DIGITS}")
    assert len(list(tmp_path.rglob("*.safetensors"))) == 2


def test_fashion_is_averaged_over_areas_and_normalised_again(monkeypatch):
    torch.manual_seed(0)
    splits = [TensorSplit(torch.randn(60, 1, 28, 28), torch.arange(60) % 10) for _ in range(3)]
    whole = DatasetSplits(splits[0], splits[0], splits[1], splits[2])
    monkeypatch.setattr(images, "load_fashion_splits", lambda *args, **kwargs: whole)
    images._fashion.cache_clear()
    small = images.family_images("fashion", 14)
    images._fashion.cache_clear()
    expected = avg_pool2d(splits[0].images, 2)
    torch.testing.assert_close(small.train.images, (expected - expected.mean()) / expected.std())
    expected = (avg_pool2d(splits[1].images, 2) - expected.mean()) / expected.std()
    torch.testing.assert_close(small.reward.images, expected)


@pytest.mark.parametrize("name", ["family/plain-99", "family/plan-00", "family/", "clan/plain-00"])
def test_unknown_names_are_refused(name):
    with pytest.raises(KeyError):
        make_task(name)
    with pytest.raises(ValueError, match="did you mean 'train'"):
        family_names("trian")
