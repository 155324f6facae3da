"""Every rule against brute force: what changes when one producer's channel changes carries that channel's id."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from hessian.provenance.classes import FIXED, Classes
from hessian.provenance.entries import Entries
from hessian.provenance.facts import Context, Facts, fixed
from hessian.provenance.labels import Labels
from hessian.provenance.sites import Sites
from hessian.provenance.tracker import Tracker

WIDTH = 12


class Maker(nn.Module):
    """Twelve channels whose sources are known, and other makers to meet them."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.make, self.other = nn.Conv2d(2, WIDTH, 1), nn.Conv2d(2, WIDTH, 1)
        self.gate, self.mask = nn.Conv2d(2, WIDTH, 1), nn.Conv2d(2, 1, 1)
        self.scale = nn.Parameter(torch.randn(WIDTH, 1, 1))
        self.norm, self.group, self.slopes = nn.BatchNorm2d(WIDTH), nn.GroupNorm(3, WIDTH), nn.PReLU(WIDTH)
        self.dense, self.wide = nn.Conv2d(WIDTH, 5, 3, padding=1), nn.Linear(WIDTH * 16, 7)
        self.depth = nn.Conv2d(WIDTH, 2 * WIDTH, 3, padding=1, groups=WIDTH)
        self.grouped, self.up = nn.Conv2d(WIDTH, 6, 1, groups=3), nn.ConvTranspose2d(WIDTH, 5, 2, stride=2)


def written(base, part):
    base = base.clone()
    base[:, 4:8] = part
    return base


def in_parts(x):
    new = x.new_empty(x.shape)
    new[..., 2:] = x[..., :-2]
    new[..., :2] = x[..., -2:]
    return new


MOVING = {
    "permute": lambda m, x: x.permute(0, 2, 3, 1),
    "flatten": lambda m, x: x.flatten(1),
    "channels last flatten": lambda m, x: x.permute(0, 2, 3, 1).flatten(1),
    "flip": lambda m, x: x.flip(1),
    "roll": lambda m, x: x.roll(5, 1),
    "chunk and swap": lambda m, x: torch.cat(x.chunk(2, 1)[::-1], 1),
    "strided slice": lambda m, x: x[:, ::3],
    "slice both ends": lambda m, x: x[:, 2:-3],
    "index": lambda m, x: x[:, [3, 1, 1, 7]],
    "index_select": lambda m, x: x.index_select(1, torch.tensor([5, 0])),
    "gather": lambda m, x: x.flatten(2).gather(1, torch.tensor([[[4] * 16, [2] * 16]])),
    "shuffle": lambda m, x: x.view(1, 3, 4, 4, 4).transpose(1, 2).reshape(1, WIDTH, 4, 4),
    "native shuffle": lambda m, x: F.channel_shuffle(x, 4),
    "pixel shuffle": lambda m, x: F.pixel_shuffle(x, 2),
    "pixel unshuffle": lambda m, x: F.pixel_unshuffle(x, 2),
    "unfold": lambda m, x: F.unfold(x, 2),
    "channel padding": lambda m, x: F.pad(x, (0, 0, 0, 0, 2, 1)),
    "circular padding": lambda m, x: F.pad(x, (1, 2, 0, 1), mode="circular"),
    "a new tensor written in parts": lambda m, x: in_parts(x),
    "spatial padding": lambda m, x: F.pad(x, (1, 2, 0, 1)),
    "reflection": lambda m, x: F.pad(x, (1, 1, 1, 1), mode="reflect"),
    "repeat": lambda m, x: x.repeat(1, 2, 1, 1),
    "repeat_interleave": lambda m, x: x.repeat_interleave(2, 1),
    "expand": lambda m, x: x.mean((2, 3), keepdim=True).expand(-1, -1, 3, 5),
    "stack": lambda m, x: torch.stack([x, x.flip(1)], 1),
    "unbind": lambda m, x: torch.cat(x.unbind(1)[:4], 0),
    "nearest": lambda m, x: F.interpolate(x, scale_factor=2),
    "bilinear": lambda m, x: F.interpolate(x, scale_factor=2, mode="bilinear"),
    "average pooling": lambda m, x: F.avg_pool2d(x, 2),
    "maximum pooling": lambda m, x: F.max_pool2d(x, 2),
    "adaptive pooling": lambda m, x: F.adaptive_avg_pool2d(x, 1),
    "mean over positions": lambda m, x: x.mean((2, 3)),
    "maximum over positions": lambda m, x: x.amax((-1, -2)),
    "einsum of positions": lambda m, x: torch.einsum("nchw->nhc", x),
    "write of a part": lambda m, x: written(x, m.other(INPUT)[:, :4]),
    "write in place": lambda m, x: x.clone().mul_(2).add_(1),
    "clone of a view": lambda m, x: x.transpose(1, 3).contiguous().view(1, 4, -1),
    "split of a flat map": lambda m, x: x.flatten(1).view(1, WIDTH, 2, 8),
    "as strided": lambda m, x: x.as_strided((1, WIDTH, 2), (192, 16, 3)),
    "double": lambda m, x: x.double().float(),
    "squeeze": lambda m, x: x.unsqueeze(2).squeeze(0),
    "where": lambda m, x: torch.where(x > 0, x, 0.1 * x),
    "scale by a parameter": lambda m, x: m.scale * x,
    "batch norm": lambda m, x: m.norm(x),
    "slopes": lambda m, x: m.slopes(x),
}

INPUT = torch.randn(1, 2, 4, 4, generator=torch.Generator().manual_seed(1))


def followed(run, model=None):
    """Classes, labels and result of a computation on the maker."""
    model = Maker().eval() if model is None else model
    classes, labels = Classes(), Labels()
    entries = Entries(model, classes, labels)
    facts = Facts(classes, labels, Sites(), Context(), entries.grouped, entries.features)
    labels.set(INPUT, [fixed(4)], activation=True)
    with torch.no_grad(), Tracker(facts):
        made = model.make(INPUT)
        result = run(model, made)
    rows = {entry.names[0]: entry.ids for entry in entries.all if entry.axis == 0}
    return model, facts, result, rows


@pytest.mark.parametrize("run", MOVING.values(), ids=MOVING)
def test_an_element_carries_the_id_of_the_channel_that_moves_it(run):
    model, facts, result, rows = followed(run)
    resolved = facts.classes.resolve()
    (plane,) = facts.labels.of(result).planes
    ids = resolved.classes[plane.clamp_min(0)].expand(result.shape)
    for channel in range(WIDTH):
        with torch.no_grad():
            before = run(model, model.make(INPUT))
            made = model.make(INPUT)
            made[:, channel] += 0.5 + torch.rand(4, 4)
            moved = run(model, made) != before
        carried = ids == resolved.classes[rows["make.weight"][channel]]
        assert not (moved & ~carried).any(), f"channel {channel} moves elements that carry another id"
        assert moved.any() or not carried.any(), f"nothing that carries channel {channel} moves with it"


UNITED = {
    "sum": lambda m, x: x + m.other(INPUT),
    "product with a gate": lambda m, x: x * torch.sigmoid(m.gate(INPUT).mean((2, 3), keepdim=True)),
    "gate expanded": lambda m, x: x * m.gate(INPUT).mean((2, 3)).view(1, -1, 1, 1).expand_as(x),
    "maximum": lambda m, x: torch.maximum(x, m.other(INPUT)),
    "in place": lambda m, x: x.clone().add_(m.other(INPUT)),
    "sum of a stack": lambda m, x: torch.stack([x, m.other(INPUT)]).sum(0),
    "softmax over branches": lambda m, x: torch.stack([x, m.other(INPUT)]).softmax(0)[0],
}


@pytest.mark.parametrize("run", UNITED.values(), ids=UNITED)
def test_operands_of_elementwise_operations_are_one_channel(run):
    _, facts, _, rows = followed(run)
    classes = facts.classes.resolve().classes
    partner = rows["gate.weight"] if "gate" in next(k for k, v in UNITED.items() if v is run) else rows["other.weight"]
    assert torch.equal(classes[rows["make.weight"]], classes[partner])
    assert len(classes[partner].unique()) == WIDTH


PINNING = {
    "sum with the input": lambda m, x: x[:, :2] + INPUT,
    "mask of one channel": lambda m, x: x * m.mask(INPUT),
    "product of activations": lambda m, x: x.flatten(2).transpose(1, 2) @ x.flatten(2),
    "attention": lambda m, x: F.scaled_dot_product_attention(*[x.flatten(2).transpose(1, 2)] * 3),
    "weights made from the input": lambda m, x: F.conv2d(INPUT, x.mean((2, 3)).view(6, 2, 1, 1)),
    "an operation not followed": lambda m, x: torch.linalg.qr(x)[0],
}


@pytest.mark.parametrize("run", PINNING.values(), ids=PINNING)
def test_what_cannot_be_followed_is_pinned_with_a_reason(run):
    _, facts, _, rows = followed(run)
    resolved = facts.classes.resolve()
    name = "mask.weight" if run is PINNING["mask of one channel"] else "make.weight"
    if name in rows:
        reasons = [resolved.pinned.get(int(root)) for root in resolved.classes[rows[name][:2]]]
        assert all(reason is not None and reason.text for reason in reasons)
    else:  # one channel has no axis to cut
        assert not {int(root) for root in resolved.classes[rows["make.weight"]]} & set(resolved.pinned)


def test_a_mean_over_channels_makes_them_leave_together_and_a_sum_does_not():
    _, facts, _, rows = followed(lambda m, x: x.mean(1))
    assert len(facts.classes.resolve().classes[rows["make.weight"]].unique()) == 1
    _, facts, result, rows = followed(lambda m, x: x.sum((1, 2, 3)))
    assert len(facts.classes.resolve().classes[rows["make.weight"]].unique()) == WIDTH
    assert int(facts.labels.of(result).planes[0].max()) == FIXED


@pytest.mark.parametrize(
    ("run", "name", "width"),
    [
        (lambda m, x: m.dense(x), "dense.weight", 1),
        (lambda m, x: m.wide(x.flatten(1)), "wide.weight", 16),
        (lambda m, x: F.linear(x.flatten(1), m.wide.weight), "wide.weight", 16),
        (lambda m, x: torch.addmm(m.wide.bias, x.flatten(1), m.wide.weight.t()), "wide.weight", 16),
        (lambda m, x: m.dense(F.relu(m.norm(x))), "dense.weight", 1),
    ],
)
def test_columns_are_the_channels_they_read(run, name, width):
    model, facts, result, rows = followed(run)
    classes = facts.classes.resolve().classes
    read = facts.labels.of(model.get_parameter(name)).planes[1].flatten()
    assert torch.equal(classes[read], classes[rows["make.weight"]].repeat_interleave(width))
    (plane,) = facts.labels.of(result).planes
    assert torch.equal(plane.flatten(), rows[name])  # and rows open a new map


def test_a_depthwise_convolution_passes_channels_on_with_all_it_makes_of_them():
    _, facts, _, rows = followed(lambda m, x: m.depth(x))
    classes = facts.classes.resolve().classes
    assert torch.equal(
        classes[rows["depth.weight"]].view(WIDTH, 2), classes[rows["make.weight"]][:, None].expand(-1, 2)
    )


@pytest.mark.parametrize("run", [lambda m, x: m.grouped(x), lambda m, x: m.group(x)])
def test_groups_tie_the_channels_at_the_same_place_of_each(run):
    _, facts, _, rows = followed(run)
    resolved = facts.classes.resolve()
    made = rows["make.weight"]
    assert len(resolved.classes[made].unique()) == WIDTH
    units = resolved.units[made].view(3, 4)
    assert torch.equal(units, units[:1].expand(3, 4))
    assert len(units[0].unique()) == 4


def test_weights_computed_from_parameters_keep_their_rows_and_columns():
    def standardised(m, x):
        weight = m.dense.weight
        mean = weight.mean((1, 2, 3), keepdim=True)
        return F.conv2d(x, (weight - mean) / weight.std((1, 2, 3), keepdim=True), m.dense.bias, padding=1)

    _, facts, result, rows = followed(standardised)
    (plane,) = facts.labels.of(result).planes
    classes = facts.classes.resolve().classes
    assert torch.equal(classes[plane.flatten()], classes[rows["dense.weight"]])


def test_an_unknown_view_of_other_numbers_pins():
    _, facts, _, rows = followed(lambda m, x: torch.view_as_complex(x.view(1, WIDTH, 8, 2)).real)
    resolved = facts.classes.resolve()
    assert all(int(root) in resolved.pinned for root in resolved.classes[rows["make.weight"]])
