"""Positions of parameters that can only be removed together: an equivalence relation that is built pair by pair.

An *id* is one position along one axis of one parameter or buffer (row 3 of a convolution's weight, entry 7 of a
BatchNorm's bias). What a run of the network shows is written down as three kinds of facts:

* two ids are the *same channel* (the column of a convolution that reads a row of another one): they form a class;
* two classes are *tied*: they leave together though they are different channels (one of each group of a grouped
  convolution); tied classes form a unit;
* several runs of ids are *level*: as many of each have to leave, which those at the same place do unless a reading of
  the code says otherwise;
* an id is *pinned*: it has to stay, for a reason that is kept for the report.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

FIXED = 0
"""Id of everything that no layer of the network makes: its input, sizes written into its code."""

NEUTRAL = -1
"""Mark of elements made from nothing (zeros, padding): they follow whatever they are combined with."""


@dataclass(frozen=True)
class Reason:
    """Reason why channels stay.

    Attributes:
        text: what happens to them.
        where: qualified name of the innermost module that was running.
    """

    text: str
    where: str


class Classes:
    """Facts about ids, and the classes and units that follow from them."""

    def __init__(self) -> None:
        self.count = 1
        self._same: list[Tensor] = []
        self._tied: list[Tensor] = []
        self._level: list[Tensor] = []
        self._pinned: list[tuple[Tensor, Reason]] = []
        self._mixed: list[tuple[Tensor, Reason]] = []
        self._contracted: list[tuple[Tensor, Tensor, Reason]] = []

    def block(self, size: int) -> Tensor:
        """New ids, int64 [size]."""
        ids = torch.arange(self.count, self.count + size)
        self.count += size
        return ids

    def unite(self, one: Tensor, other: Tensor, reason: Reason) -> None:
        """Say that ids are the same channel, pair by pair; a partner that is fixed pins the other.

        Args:
            one: ids of any shape; NEUTRAL entries say nothing.
            other: ids of the same shape.
            reason: for what gets pinned.
        """
        one, other = one.reshape(-1), other.reshape(-1)
        said = (one != other) & (one != NEUTRAL) & (other != NEUTRAL)
        if not said.any():
            return
        pairs = torch.stack([one[said], other[said]])
        fixed = (pairs == FIXED).any(dim=0)
        if fixed.any():
            self.pin(pairs[:, fixed].amax(dim=0), reason)
        self._same.append(_distinct(pairs[:, ~fixed]))

    def unite_along(self, ids: Tensor, dims: tuple[int, ...], reason: Reason) -> None:
        """Say that all ids along some dimensions are the same channel; they are remembered as mixed."""
        if not dims:
            return
        rest = [dim for dim in range(ids.ndim) if dim not in dims]
        lines = ids.permute(*rest, *dims).reshape(-1, _size(ids, dims))
        real = lines.clamp_min(FIXED)
        first = real.amax(dim=1, keepdim=True).expand_as(lines)
        self.unite(first, lines, reason)
        self._mixed.append((lines[lines > FIXED].unique(), reason))

    def tie(self, one: Tensor, other: Tensor) -> None:
        """Say that ids leave together, pair by pair."""
        one, other = one.reshape(-1), other.reshape(-1)
        said = (one > FIXED) & (other > FIXED) & (one != other)
        if said.any():
            self._tied.append(torch.stack([one[said], other[said]]))

    def level(self, ids: Tensor) -> None:
        """Say that as many ids have to leave of every group: ids int64 [groups, size]."""
        if bool((ids > FIXED).all()):
            self._level.append(ids)
        else:
            self.tie(ids[:1].expand_as(ids), ids)

    def pin(self, ids: Tensor, reason: Reason) -> None:
        """Say that ids have to stay."""
        ids = ids[ids > FIXED].unique()
        if len(ids):
            self._pinned.append((ids, reason))

    def contract(self, columns: Tensor, rows: Tensor, reason: Reason) -> None:
        """Say that a weight was used along these axes: it reads channels with some ids and makes others.

        A tensor that is used along both (tied to its transpose) makes channels that go with those it reads: they stay.
        """
        self._contracted.append((columns, rows, reason))

    def _pin_both_ways(self) -> None:
        read, made = (torch.zeros(self.count, dtype=torch.bool) for _ in range(2))
        for columns, rows, _ in self._contracted:
            read[columns.clamp_min(FIXED)] = True
            made[rows.clamp_min(FIXED)] = True
        both = read & made
        both[FIXED] = False
        for columns, rows, reason in self._contracted:
            for ids in (columns, rows):
                self.pin(ids[both[ids.clamp_min(FIXED)]], reason)
        self._contracted.clear()

    def resolve(self, loose: Tensor | None = None) -> Resolved:
        """Classes and units that follow from all facts so far.

        Args:
            loose: ids of channels that stay level in another way than by their places in the groups.
        """
        self._pin_both_ways()
        none = torch.zeros(2, 0, dtype=torch.long)
        classes = components(self.count, torch.cat([none, *self._same], dim=1))
        freed = torch.zeros(self.count, dtype=torch.bool)
        if loose is not None:
            freed[classes[loose]] = True
        kept = [bool(freed[classes[ids]].any()) for ids in self._level]
        places = [_same_places(ids) for ids, free in zip(self._level, kept, strict=True) if not free]
        units = components(self.count, classes[torch.cat([none, *self._tied, *places], dim=1)])[classes]
        level = tuple(ids for ids, free in zip(self._level, kept, strict=True) if free)
        return Resolved(
            classes, units, _first_reasons(classes, self._pinned), _first_reasons(units, self._mixed), level
        )


@dataclass(frozen=True, eq=False)
class Resolved:
    """Classes and units of all ids.

    Attributes:
        classes: int64 [ids], the smallest id of each id's class.
        units: int64 [ids], the smallest id of each id's unit.
        pinned: class -> why it stays.
        mixed: unit -> what mixed its channels, for a layer that turns out to be a single unit.
        level: ids [groups, size] of which as many have to leave in every group, where units do not see to that.
    """

    classes: Tensor
    units: Tensor
    pinned: dict[int, Reason]
    mixed: dict[int, Reason]
    level: tuple[Tensor, ...]


def components(count: int, pairs: Tensor) -> Tensor:
    """Smallest member of every node's connected component, int64 [count].

    Args:
        count: number of nodes.
        pairs: int64 [2, edges].
    """
    roots = torch.arange(count)
    if not pairs.numel():
        return roots
    while True:
        ends = roots[pairs]
        low = ends.amin(dim=0)
        before = roots.clone()
        roots.scatter_reduce_(0, ends[0], low, "amin")
        roots.scatter_reduce_(0, ends[1], low, "amin")
        roots = roots[roots]
        if torch.equal(roots, before):
            return roots


def _same_places(ids: Tensor) -> Tensor:
    """Pairs of the ids at the same place of every group, int64 [2, pairs]; ids [groups, size]."""
    return torch.stack([ids[:1].expand_as(ids[1:]).reshape(-1), ids[1:].reshape(-1)])


def _distinct(pairs: Tensor) -> Tensor:
    return pairs if pairs.shape[1] < 4096 else pairs.unique(dim=1)


def _size(ids: Tensor, dims: tuple[int, ...]) -> int:
    size = 1
    for dim in dims:
        size *= ids.shape[dim]
    return size


def _first_reasons(roots: Tensor, facts: list[tuple[Tensor, Reason]]) -> dict[int, Reason]:
    found: dict[int, Reason] = {}
    for ids, reason in facts:
        for root in roots[ids].unique().tolist():
            found.setdefault(root, reason)
    return found
