"""Random networks out of all block kinds: cut to the oracle's numbers, or left whole for a reason."""

import json
import warnings

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from benchmarks.studies.any_network import command
from benchmarks.studies.any_network.command import kinds_table, random_run
from benchmarks.studies.any_network.composer import HEADS, KINDS, compose, seeded
from benchmarks.studies.any_network.judge import RIGHT, WHOLE, enliven, in_double, judge


class HypothesisDraw:
    """Choices that hypothesis makes, and shrinks."""

    def __init__(self, draw):
        self._draw = draw

    def choose(self, options):
        return self._draw(st.sampled_from(options))


@st.composite
def networks(draw):
    torch.manual_seed(0)
    return compose(HypothesisDraw(draw), most=2)


def judged(network, seed=0):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return judge(enliven(network.model, seed), in_double(network.example), seed=seed)


@settings(
    max_examples=20,
    derandomize=True,
    database=None,
    phases=(Phase.generate, Phase.shrink),
    suppress_health_check=list(HealthCheck),
)
@given(networks())
def test_any_composition_is_cut_to_the_oracles_numbers_or_left_whole(network):
    found = judged(network)
    assert found.verdict in (RIGHT, WHOLE), (network.kinds, network.head, network.entry, found.message)


@pytest.mark.parametrize("kind", KINDS)
def test_every_block_kind_is_cut_to_the_oracles_numbers(kind):
    network = seeded(3, (kind,))
    found = judged(network, 3)
    assert found.verdict == RIGHT, (network.kinds, network.head, found.message)
    assert found.layers


def test_a_seed_says_which_network():
    first, second = (seeded(11) for _ in range(2))
    assert (first.kinds, first.head, first.entry) == (second.kinds, second.head, second.entry)
    assert all(map(torch.equal, first.model.state_dict().values(), second.model.state_dict().values()))


def test_a_run_counts_networks_kinds_and_what_went_wrong():
    run = random_run(range(3), ("plain", "SPPF"), lambda run: None)
    content = run.content()
    assert content["networks"] == 3 == sum(content["verdicts"].values())
    assert sum(content["heads"].values()) == 3
    assert {kind for kind, count in content["kinds"].items() if count["networks"]} <= {"plain", "SPPF"}
    assert len(content["problems"]) == 3 - content["verdicts"].get(RIGHT, 0)
    assert "3 random networks" in kinds_table(content).markdown()


def test_a_run_goes_on_where_the_last_one_ended(tmp_path):
    whole, parts = tmp_path / "whole.json", tmp_path / "parts.json"
    command.main(["plain", "--networks", "3", "--json", str(whole)])
    for networks in ("1", "3"):
        command.main(["plain", "--networks", networks, "--resume", "--json", str(parts)])
    contents = [json.loads(path.read_text()) for path in (whole, parts)]
    assert all(content.pop("discovery_seconds")["mean"] > 0 for content in contents)
    assert contents[0]["kinds"] == contents[1]["kinds"]
    assert contents[0]["verdicts"] == contents[1]["verdicts"]
    assert contents[0]["networks"] == contents[1]["networks"] == 3


def test_there_are_at_least_twenty_block_kinds():
    assert len(KINDS) >= 20 < len(KINDS) + len(HEADS)
