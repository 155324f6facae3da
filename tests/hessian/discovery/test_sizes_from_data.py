"""Structures of detectors (the largest few, sorting, masks, boxes): their sizes come from code, or from data."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from hessian.channels.slicing import NetworkSlicer, installed
from hessian.discovery.discover import discover
from hessian.provenance.tracker import RULES
from tests.hessian.discovery.test_structures import silenced

IMAGE = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))


class Picking(nn.Module):
    """A hidden convolution, a few maps that something is picked by, and a head that reads what was picked."""

    def __init__(self, pick, width):
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.maps = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 6, 1)
        self.pick, self.head = pick, nn.Linear(width, 5)

    def forward(self, x):
        h = F.relu(self.stem(x))
        return self.head(self.pick(h, self.maps(h)))


def anchors(_, maps):
    return maps.permute(0, 2, 3, 1).flatten(1)


def largest_anchors(h, maps):
    return anchors(h, maps).topk(20, dim=1)[0]


def sorted_anchors(h, maps):
    return anchors(h, maps).sort(dim=1, descending=True)[0][:, :20]


def gathered_by_largest(h, maps):
    return anchors(h, maps).gather(1, maps.flatten(1).topk(20, dim=1)[1])


def rows_above_the_mean(h, maps):
    rows = maps.permute(0, 2, 3, 1).flatten(0, 2)
    return rows[rows[:, 0] > rows[:, 0].mean()].mean(0, keepdim=True)


def largest_by_position(h, maps):
    return maps.flatten(2).topk(5, dim=2)[0].mean(2)


def counted_positive(h, maps):
    places = (maps > 0).nonzero()
    return h.mean((2, 3)) + 0.0 * places.float().sum()


def aligned_proposals(h, maps):
    import torchvision

    scores, order = maps[:, :2].permute(0, 2, 3, 1).flatten(1).topk(40, dim=1)
    corners = maps[:, 2:].permute(0, 2, 3, 1).reshape(1, -1, 2).repeat_interleave(2, 1).sigmoid()[0, order[0] % 64]
    boxes = torch.cat([corners * 2, corners * 2 + 4], 1)
    boxes = boxes[torchvision.ops.nms(boxes, scores[0], 0.9)]
    return torchvision.ops.roi_align(h, [boxes], 2).mean((0, 2, 3))[None]


PICKS = {
    "the largest anchors": (largest_anchors, 20, {"stem": 8}),
    "sorted anchors": (sorted_anchors, 20, {"stem": 8}),
    "gathered by the largest": (gathered_by_largest, 20, {"stem": 8}),
    "a mask": (rows_above_the_mean, 6, {"stem": 8, "maps": 5}),
    "the largest positions of each map": (largest_by_position, 6, {"stem": 8, "maps": 6}),
    "a count of places": (counted_positive, 8, {"stem": 8}),
}


@pytest.mark.parametrize(("pick", "width", "layers"), PICKS.values(), ids=PICKS)
def test_maps_that_decide_places_stay_and_all_before_them_is_cut(pick, width, layers):
    assert_cut(Picking(pick, width), layers)


def test_boxes_from_the_largest_scores_pin_what_they_are_made_of_and_pool():
    pytest.importorskip("torchvision")
    found = discover(Picking(aligned_proposals, 8).eval(), IMAGE)
    reasons = {stay.name: stay.reason for stay in found.pinned}
    assert reasons.keys() >= {"maps", "stem"}
    assert "roi_align" in reasons["stem"]


def assert_cut(model, layers):
    model.eval()
    found = discover(model, IMAGE)
    assert {group.name: group.num_units for group in found.groups} == layers
    maps = 6 - layers.get("maps", 0)
    assert {stay.name: stay.count for stay in found.pinned} == ({"maps": maps} if maps else {}) | {"head": 5}
    assert all(stay.reason for stay in found.pinned)
    plan = {group.name: group.channels([0, 3, 4]) for group in found.groups}
    cut = NetworkSlicer(model, found.groups).cut(plan)
    with torch.no_grad():
        expected = silenced(model, found.groups, plan)(IMAGE)
        with installed(model, cut.state(), cut.attributes):
            torch.testing.assert_close(model(IMAGE), expected)


@torch.library.custom_op("prune_gym_tests::avg_pool2d", mutates_args=())
def narrowed(x: torch.Tensor) -> torch.Tensor:
    """An operator with the name of a known one that does something else."""
    return x[:, :5].clone()


def test_another_librarys_operator_is_not_taken_for_the_known_one_of_its_name():
    found = discover(Picking(lambda h, maps: narrowed(h).mean((2, 3)), 5).eval(), IMAGE)
    reasons = {stay.name: stay.reason for stay in found.pinned}
    assert reasons["stem"] == "goes through prune_gym_tests::avg_pool2d, which is not followed"


def test_a_result_of_another_shape_than_its_rule_says_pins_with_the_operators_name(monkeypatch):
    def narrower(facts, call):
        facts.give(call.result, [facts.map(call.source).plane[:, :5]])

    monkeypatch.setitem(RULES, "avg_pool2d", narrower)
    found = discover(Picking(lambda h, maps: F.avg_pool2d(h, 8).flatten(1), 8).eval(), IMAGE)
    assert {stay.name: stay.reason for stay in found.pinned}["stem"] == "goes through avg_pool2d, which is not followed"
