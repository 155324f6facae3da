"""Structures of detectors (the largest few, sorting, masks, boxes): their sizes come from code, or from data."""

from collections import Counter

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


def boxes_of(maps):
    import torchvision

    scores, order = maps[:, :2].permute(0, 2, 3, 1).flatten(1).topk(40, dim=1)
    corners = maps[:, 2:].permute(0, 2, 3, 1).reshape(1, -1, 2).sigmoid()[0, order[0]]
    boxes = torch.cat([corners * 2, corners * 3 + 2], 1)
    return boxes[torchvision.ops.nms(boxes, scores[0], 0.9)]


def aligned_proposals(h, maps):
    import torchvision

    return torchvision.ops.roi_align(h, [boxes_of(maps)], 2).mean((0, 2, 3))[None]


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


class Rare(nn.Module):
    """A branch for places of which the example has none."""

    def __init__(self, widen):
        super().__init__()
        torch.manual_seed(0)
        self.limit, self.widen = 1e3, widen
        self.stem, self.maps = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(3, 1, 1)
        self.hidden, self.side, self.head = nn.Linear(8, 6), nn.Linear(24, 5), nn.Linear(8, 5)

    def forward(self, x):
        h = F.relu(self.stem(x))
        rows = h.permute(0, 2, 3, 1).flatten(0, 2)[self.maps(x).flatten() > self.limit]
        found = self.widen(self.hidden(rows).relu())
        return self.head(h.mean((2, 3))) + self.side(found).sum(0)


@pytest.mark.parametrize(
    ("widen", "layers"),
    [
        (lambda rows: rows.repeat_interleave(4, 1), {"stem": 8, "hidden": 6}),
        (lambda rows: rows[:, :, None].expand(-1, -1, 4).flatten(1), {"stem": 8}),
        (lambda rows: F.pad(rows, (0, 18)), {"stem": 8, "hidden": 6}),
        (lambda rows: torch.cat([rows, rows, rows, rows], 1), {"stem": 8, "hidden": 6}),
        (lambda rows: rows.view(-1, 2, 3).transpose(1, 2).reshape(-1, 6)[:, [0, 1, 2, 3] * 6], {"stem": 8}),
        (lambda rows: F.linear(rows, torch.ones(24, 6)), {"stem": 8}),
        (lambda rows: F.adaptive_avg_pool1d(rows, 24), {"stem": 8}),
    ],
    ids=["repeated", "expanded", "padded", "concatenated", "shuffled", "linear", "resampled"],
)
def test_what_reads_rows_of_which_the_example_has_none_is_cut_with_what_it_reads(widen, layers):
    model = Rare(widen).eval()
    found = discover(model, IMAGE)
    assert {group.name: group.num_units for group in found.groups} == layers
    model.limit = 0.0
    assert_equal_to_silenced(model, found, {group.name: group.channels([0, 3, 4]) for group in found.groups})


class Routed(nn.Module):
    """One map decides which channel is taken at each place: in another image it is another one."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.maps, self.head = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(3, 1, 1), nn.Linear(64, 5)

    def forward(self, x):
        channel = (self.maps(x).sigmoid() * 8).long()
        return self.head(F.relu(self.stem(x)).gather(1, channel).flatten(1))


def test_channels_that_data_choose_among_stay_all_of_them():
    found = discover(Routed().eval(), IMAGE)
    assert not found.groups
    assert {stay.name: (stay.count, stay.reason) for stay in found.pinned}["stem"] == (8, "is picked by data in gather")


def pooled_proposals(h, maps):
    import torchvision

    return torchvision.ops.roi_pool(h, [boxes_of(maps)], 2).mean((0, 2, 3))[None]


def proposals_of_levels(h, maps):
    """Rows of what is pooled come from several maps, and are written to where their boxes stand."""
    import torchvision

    boxes = boxes_of(maps)
    large = torch.where(boxes[:, 2] - boxes[:, 0] > 3, 1, 0)
    result = torch.zeros(len(boxes), h.shape[1], 2, 2)
    for level, features in enumerate((h, F.avg_pool2d(h, 2))):
        rows = torch.where(large == level)[0]
        result[rows] = torchvision.ops.roi_align(features, [boxes[rows]], 2, 1 / (level + 1))
    return result.mean((0, 2, 3))[None]


BOXES = {
    "aligned": aligned_proposals,
    "pooled": pooled_proposals,
    "of several levels": proposals_of_levels,
}


@pytest.mark.parametrize("pick", BOXES.values(), ids=BOXES)
def test_what_is_pooled_inside_boxes_is_cut_and_what_boxes_are_made_of_stays(pick):
    pytest.importorskip("torchvision")
    model = Picking(pick, 8)
    assert_cut(model, {"stem": 8})
    reasons = {stay.name: stay.reason for stay in discover(model, IMAGE).pinned}
    assert "picked" in reasons["maps"]


class Deformed(nn.Module):
    """A deformable convolution between two others, one of which is also read past it."""

    def __init__(self, parts, groups):
        super().__init__()
        from torchvision.ops import DeformConv2d

        torch.manual_seed(0)
        self.stem, self.where = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(3, 18 * parts, 3, padding=1)
        self.weights = nn.Conv2d(3, 9 * parts, 3, padding=1)
        self.deform, self.past = DeformConv2d(8, 8, 3, padding=1, groups=groups), nn.Conv2d(8, 6, 1)
        self.last, self.head = nn.Conv2d(8, 6, 3, padding=1), nn.Linear(6, 5)

    def forward(self, x):
        h = F.relu(self.stem(x))
        d = F.relu(self.deform(h, 4 * self.where(x).tanh(), self.weights(x).sigmoid())) + h
        return self.head((self.last(d) * self.past(h).sigmoid()).mean((2, 3)))


@pytest.mark.parametrize(
    ("parts", "groups", "stem"),
    [(1, 1, ((0,), (1,), (2,), (3,), (4,), (5,), (6,), (7,))), (2, 1, ((0, 4), (1, 5), (2, 6), (3, 7)))],
)
def test_channels_go_through_a_deformable_convolution_and_what_shifts_its_places_stays(parts, groups, stem):
    pytest.importorskip("torchvision")
    model = Deformed(parts, groups).eval()
    found = discover(model, IMAGE)
    assert {group.name: group.units for group in found.groups} == {
        "stem": stem,
        "last": ((0,), (1,), (2,), (3,), (4,), (5,)),
    }
    reasons = {stay.name: stay.reason for stay in found.pinned}
    assert reasons["where"] == reasons["weights"] == "decides places in torchvision::deform_conv2d"
    assert_equal_to_silenced(model, found, {group.name: group.channels([0, 2]) for group in found.groups})


def assert_cut(model, layers):
    model.eval()
    found = discover(model, IMAGE)
    assert {group.name: group.num_units for group in found.groups} == layers
    maps = 6 - layers.get("maps", 0)
    stays = Counter()
    for stay in found.pinned:
        stays[stay.name] += stay.count
    assert stays == ({"maps": maps} if maps else {}) | {"head": 5}
    assert all(stay.reason for stay in found.pinned)
    assert_equal_to_silenced(model, found, {group.name: group.channels([0, 3, 4]) for group in found.groups})


def assert_equal_to_silenced(model, found, plan):
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


class Twins(nn.Module):
    """Every score twice: which of the two is the larger one is a matter of rounding, and that one of the width."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.maps, self.head = nn.Conv2d(3, 41, 3, padding=1), nn.Conv2d(41, 1, 3), nn.Linear(36, 5)

    def forward(self, x):
        h = F.relu(self.stem(x))
        scores = self.maps(h).flatten(1)
        scores = torch.cat([scores, scores * (1.0 + 3e-7 * (-1) ** h.shape[1])], 1)
        return self.head((scores.topk(36, dim=1)[1] < 36).float())


def test_scores_that_are_equal_but_for_rounding_pin_nothing_before_them():
    found = discover(Twins().eval(), IMAGE)
    assert {group.name: group.num_units for group in found.groups} == {"stem": 41}


def test_what_decides_is_compared_where_the_outcome_hides_it():
    class Hidden(Twins):
        def forward(self, x):
            h = F.relu(self.stem(x))
            wide = F.pad(h.mean((2, 3)), (0, 41 - h.shape[1]))[:, :41]
            order = self.maps(h).flatten(1).mean() + wide[:, 8:].sum() > 1e4  # never, but what asks is another number
            return self.head(self.maps(h).flatten(1)) * (1.0 - order.float())

    found = discover(Hidden().eval(), IMAGE)
    assert not found.groups
