"""A second run takes the first one's decisions, and says what they were taken by."""

import pytest
import torch

from hessian.discovery.decisions import Decisions

VALUES = torch.tensor([[0.5, 2.0, -1.0, 1.0], [3.0, 0.2, 0.1, 0.0]])
OTHER = VALUES.flip(1) + 0.25

DECIDING = {
    "topk": lambda x: x.topk(2, dim=1),
    "sort": lambda x: x.sort(dim=0, descending=True),
    "max": lambda x: x.max(dim=1),
    "median": lambda x: x.median(dim=1, keepdim=True),
    "argmax": lambda x: x.argmax(1),
    "mask": lambda x: x > 0.3,
    "rounding": lambda x: x.round(),
    "floor of a quotient": lambda x: torch.div(x, 0.3, rounding_mode="floor"),
    "whole numbers": lambda x: x.long(),
    "places": lambda x: (x > 0.3).nonzero(),
}


@pytest.mark.parametrize("decide", DECIDING.values(), ids=DECIDING)
def test_decisions_are_those_of_the_first_run_and_values_those_of_now(decide):
    decisions = Decisions()
    with decisions.noted():
        first = decide(VALUES.clone())
    with decisions.followed() as compared:
        second = decide(OTHER.clone())
    assert [(mine.tolist(), noted.tolist()) for _, mine, noted in compared] == [(OTHER.tolist(), VALUES.tolist())]
    if isinstance(first, torch.Tensor):
        assert torch.equal(first, second)
        return
    assert torch.equal(first[1], second[1])
    places = first[1] if first[1].ndim == 2 else first[1][:, None]
    dim = 0 if decide is DECIDING["sort"] else 1
    assert torch.equal(second[0].reshape(places.shape), OTHER.gather(dim, places))


def test_what_no_value_decides_is_left_alone():
    decisions = Decisions()
    with decisions.noted():
        VALUES.relu(), VALUES.view(torch.int32), torch.zeros_like(VALUES, dtype=torch.long), VALUES.sum(1)
    with decisions.followed() as compared:
        OTHER.relu()
    assert not compared


def test_another_number_of_values_decides_for_itself():
    decisions = Decisions()
    with decisions.noted():
        VALUES.argmax(1)
        VALUES[:1].argmax(1)
    with decisions.followed() as compared:
        assert OTHER[:1].argmax(1).tolist() == [2]
        assert OTHER[:1].argmax(1).tolist() == VALUES[:1].argmax(1).tolist()
    assert len(compared) == 1


def test_another_way_through_the_code_is_followed_no_further():
    decisions = Decisions()
    with decisions.noted():
        VALUES.argmax(1)
    with decisions.followed() as compared:
        assert (OTHER > 0).tolist() == (OTHER > 0).tolist()
        assert OTHER.argmax(1).tolist() == [2, 3]
    assert not compared
