"""Places where code cuts channels apart: what has to leave together there depends on how the code finds its sizes.

``x.view(n, groups, c // groups, h, w)`` keeps the number of groups and derives their size;
``x.view(n, c // 4, 4, h, w)`` does the opposite. A run cannot tell one from the other, nor ``x.chunk(2)`` from
``x.split(self.width)``. So each such place has several *options*, and cutting a
network for trial says which of them is true.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from hessian.provenance.classes import FIXED

STAYING = "staying"
"""Label of a reading in which channels stay: what is left where no other one stands."""
WINDOWS = "windows"
"""Label of a reading of shuffles that is tried where another one leaves nothing."""
_NONE = torch.zeros(2, 0, dtype=torch.long)


@dataclass(frozen=True, eq=False)
class Follower:
    """A whole number that a module keeps, equal to the number of channels at some place of its code.

    Attributes:
        module: qualified name of the module.
        attribute: its attribute.
        ids: the channels counted.
        index: place of the number where the attribute is a list or tuple of numbers.
    """

    module: str
    attribute: str
    ids: Tensor
    index: int | None = None


@dataclass(frozen=True, eq=False)
class Option:
    """One way to read a place.

    Attributes:
        label: what places of the same code that are read in the same way have in common.
        ties: int64 [2, pairs], ids that leave together.
        followers: attributes that change with the number of channels.
        pins: int64 [ids], ids that stay.
        loose: int64 [ids], ids that stay level over the groups of a convolution by these ties, not by their places.
    """

    label: str
    ties: Tensor
    followers: tuple[Follower, ...] = ()
    pins: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.long))
    loose: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.long))


@dataclass(frozen=True, eq=False)
class Site:
    """A place and the ways to read it, the likeliest first.

    Attributes:
        where: qualified name of the module whose code it is.
        text: what the code does.
        ids: all ids concerned.
        options: see `Option`.
    """

    where: str
    text: str
    ids: Tensor
    options: tuple[Option, ...]


class Sites:
    """All such places of a run."""

    def __init__(self) -> None:
        self._sites: list[Site] = []
        self._slices: dict[Any, _Slices] = {}

    def __iter__(self) -> Iterator[Site]:
        return iter(self._sites)

    def regrouped(self, where: str, module: nn.Module | None, ids: Tensor) -> None:
        """Channels are viewed along several dimensions: ids int64 [A, B, ...], changing along all of them."""
        order = [ids.ndim - 1, 0, *range(1, ids.ndim - 1)]
        plain = [Option(f"size {place}", _tied_across(ids, flexible)) for place, flexible in enumerate(order)]
        extra = []
        for flexible, option in zip(order, plain, strict=True):
            followers = _followers(where, module, [_line(ids, flexible), ids.flatten()])
            if followers:
                extra.append(Option(f"{option.label}, kept", option.ties, followers))
        options = (*plain, *extra, *_windows(ids))
        self._sites.append(Site(where, "views channels along several dimensions", ids.flatten(), options))

    def shuffled(self, where: str, ids: Tensor) -> None:
        """Channels of groups are shuffled by PyTorch's own operator: ids int64 [groups, size]."""
        options = (Option("places", _tied_across(ids, 1)), *_windows(ids))
        self._sites.append(Site(where, "shuffles channels", ids.flatten(), options))

    def parts(self, where: str, module: nn.Module | None, parts: Sequence[Tensor]) -> None:
        """Channels are split into consecutive parts: ids int64 [size] of each."""
        followers = _followers(where, module, [*parts, torch.cat(list(parts))])
        options = [Option("free, kept", _NONE, followers)] if followers else []
        options.append(Option("free", _NONE))
        if len({len(part) for part in parts}) == 1 and len(parts) > 1:
            ties = _tied_across(torch.stack(list(parts)), 1)
            tied = [Option("tied", ties), *([Option("tied, kept", ties, followers)] if followers else [])]
            options = [*tied, *reversed(options)]
        if len(parts) > 1:  # boundaries counted by the code: what lies before the last one stays
            options.append(Option(STAYING, _NONE, (), torch.cat(list(parts[:-1]))))
        self._sites.append(Site(where, "splits channels", torch.cat(list(parts)), tuple(options)))

    def sliced(self, key: Any, where: str, module: nn.Module | None, part: Tensor, whole: Tensor) -> None:
        """A slice is taken out of channels; slices of one tensor are looked at together, by `finish`.

        Args:
            key: names the tensor.
            where: qualified name of the module whose code it is.
            module: that module.
            part: ids of the slice.
            whole: ids of the tensor.
        """
        slices = self._slices.setdefault(key, _Slices(where, module, [], whole))
        if all(not torch.equal(part, other) for other in slices.parts):
            slices.parts.append(part)

    def strided(self, where: str, ids: Tensor, step: int) -> None:
        """Every so many channels are taken: ids int64 [size]; blocks of as many that leave whole keep all places."""
        whole = len(ids) // step * step
        option = Option("blocks", _tied_across(ids[:whole].view(-1, step), 0), (), ids[whole:])
        self._sites.append(Site(where, "takes every so many channels", ids, (option,)))

    def rolled(self, where: str, ids: Tensor, shift: int) -> None:
        """Channels are rolled: ids int64 [size]; those that come round are counted by the code."""
        size = len(ids)
        round_ = ids[size - shift % size :]
        options = [Option(STAYING, _NONE, (), round_)]
        if 2 * (shift % size) == size:
            options.insert(0, Option("halves", _tied_across(ids.view(2, -1), 1)))
        self._sites.append(Site(where, "rolls channels", ids, tuple(options)))

    def counted(self, where: str, module: nn.Module | None, ids: Tensor, text: str) -> None:
        """Code uses a number of channels that its module may keep as an attribute: ids int64 [size]."""
        followers = _followers(where, module, [ids]) + _listed(where, module, ids)
        if followers:
            options = (Option("free", _NONE), Option("free, kept", _NONE, followers))
            self._sites.append(Site(where, text, ids, options))

    def finish(self) -> None:
        """Turn slices seen into places."""
        for slices in self._slices.values():
            self.parts(slices.where, slices.module, _disjoint(slices.parts, slices.whole))
        self._slices.clear()


@dataclass
class _Slices:
    where: str
    module: nn.Module | None
    parts: list[Tensor]
    whole: Tensor


def _disjoint(parts: Sequence[Tensor], whole: Tensor) -> list[Tensor]:
    """The pieces into which the ends of slices cut a tensor's channels, in their order."""
    place = {owner: index for index, owner in enumerate(whole.tolist())}
    ends = {0, len(whole)}
    for part in parts:
        ends |= {place[int(part[0])], place[int(part[-1])] + 1}
    bounds = sorted(ends)
    return [whole[low:high] for low, high in pairwise(bounds)]


def _line(ids: Tensor, dim: int) -> Tensor:
    """Everything whose number of entries along a dimension is the size of that dimension."""
    first = ids
    for other in range(ids.ndim):
        if other != dim:
            first = first.narrow(other, 0, 1)
    return first.flatten()


def _tied_across(ids: Tensor, flexible: int) -> Tensor:
    """Pairs that tie all ids with the same index along one dimension."""
    lines = ids.movedim(flexible, 0).reshape(ids.shape[flexible], -1)
    pairs = torch.stack([lines[:, :1].expand_as(lines).flatten(), lines.flatten()])
    return pairs[:, (pairs > FIXED).all(dim=0) & (pairs[0] != pairs[1])]


def _windows(ids: Tensor) -> tuple[Option, ...]:
    """The reading of a shuffle between grouped convolutions whose groups share no places: ids int64 [groups, size].

    Behind the shuffle, channels come from the groups in turn. They go on to do so where as many neighbours leave
    together as there are groups, and the next convolution stays level where these leave at the same places of each of
    its groups. What is left over in each of those stays.
    """
    if ids.ndim != 2:
        return ()
    groups, size = ids.shape
    if size % groups == 0 or size < 2 * groups:
        return ()  # channels at the same places do, or nothing is left to choose
    whole = size // groups * groups
    shuffled = ids.T.reshape(groups, size)
    blocks = shuffled[:, :whole].reshape(-1, groups)
    return (Option(WINDOWS, _tied_across(blocks, 0), (), shuffled[:, whole:].flatten(), ids.flatten()),)


def _listed(where: str, module: nn.Module | None, ids: Tensor) -> tuple[Follower, ...]:
    """Numbers in lists and tuples of a module that equal the size of a part: shapes kept for a view."""
    return tuple(
        Follower(where, name, ids, index)
        for name, value in (vars(module) if module is not None else {}).items()
        if isinstance(value, (list, tuple)) and len(value) > 1
        for index, number in enumerate(value)
        if type(number) is int and number == len(ids) > 1
    )


def _followers(where: str, module: nn.Module | None, parts: Sequence[Tensor]) -> tuple[Follower, ...]:
    """Attributes of a module that equal the size of a part: whole numbers, or all sizes in their order."""
    if module is None:
        return ()
    found: dict[str, list[Follower]] = {}
    for name, value in vars(module).items():
        numbers = isinstance(value, (list, tuple)) and value and all(type(number) is int for number in value)
        if numbers and list(value) == [len(part) for part in parts[: len(value)]]:
            found[name] = [Follower(where, name, part, index) for index, part in enumerate(parts[: len(value)])]
        if type(value) is int and value > 1:
            found[name] = [Follower(where, name, part) for part in parts if len(part) == value][:1]
    return tuple(follower for followers in found.values() for follower in followers)
