"""From classes of positions that leave together to the layers of the pruning problem."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from hessian.channels.group import ChannelGroup, Member, PinnedChannels, SizeAttribute
from hessian.discovery.roles import Role, places_of
from hessian.provenance.classes import Reason, components
from hessian.provenance.run import Provenance
from hessian.provenance.sites import Option

Pin = tuple[Tensor, Reason]


@dataclass(frozen=True, eq=False)
class _Part:
    """Units that own as many positions at the same places.

    Attributes:
        units: int64 [n], in the order of their first positions.
        positions: place -> int64 [n, positions of a unit there], ascending; places ascend, too.
    """

    units: Tensor
    positions: dict[int, Tensor]


@dataclass(frozen=True, eq=False)
class Layers:
    """Layers and pinned channels of a network.

    Attributes:
        groups: the layers, in execution order of their roots.
        pinned: channels that stay, and why.
        ids: layer name -> ids of all positions that belong to it.
    """

    groups: list[ChannelGroup]
    pinned: list[PinnedChannels]
    ids: dict[str, Tensor]


def layers_of(
    model: nn.Module, provenance: Provenance, choice: Mapping[int, int], pins: Sequence[Pin], ignored: set[str]
) -> Layers:
    """Gather layers.

    Args:
        model: the network.
        provenance: what a run showed.
        choice: index of a place that can be read in several ways -> index of the option; 0 where it is absent.
        pins: ids that stay besides those the run showed, and why.
        ignored: names of modules whose channels stay.
    """
    options = [site.options[choice.get(index, 0)] for index, site in enumerate(provenance.sites)]
    return _Gathering(model, provenance, options, pins, ignored).layers()


class _Gathering:
    """Works out the layers of one network; every method is one step."""

    def __init__(
        self,
        model: nn.Module,
        provenance: Provenance,
        options: Sequence[Option],
        pins: Sequence[Pin],
        ignored: set[str],
    ) -> None:
        self._provenance = provenance
        self._options = options
        self._order = provenance.order
        self._places = places_of(model, provenance)
        none = torch.zeros(0, dtype=torch.long)
        resolved = provenance.resolve(torch.cat([none, *(option.loose for option in options)]))
        self._classes = resolved.classes
        self._class_list: list[int] = resolved.classes.tolist()
        none = torch.zeros(2, 0, dtype=torch.long)
        ties = torch.cat([none, *(option.ties for option in options)], dim=1)
        self._units = components(len(resolved.units), resolved.units[ties])[resolved.units]
        self._reasons = dict(resolved.pinned)
        self._resolved = resolved
        self._unit_list: list[int] = self._units.tolist()
        self._first_ids = [int(place.ids[0]) for place in self._places]  # ids of a place are consecutive
        self._add_pins([*pins, *self._ignored_pins(ignored), *self._training_pins(), *self._option_pins()])
        self._add_pins(self._uneven_pins())
        self._stays = self._staying_units()

    def _add_pins(self, pins: Iterable[Pin]) -> None:
        for ids, reason in pins:
            for root in self._classes[ids].unique().tolist():
                self._reasons.setdefault(root, reason)

    def _ignored_pins(self, ignored: set[str]) -> list[Pin]:
        return [
            (place.ids, Reason("is in ignored_layers", place.module))
            for place in self._places
            if place.module in ignored and place.role is not Role.CONSUMER
        ]

    def _training_pins(self) -> list[Pin]:
        return [
            (place.ids, Reason("runs in training mode only", place.module))
            for place in self._places
            if place.role is Role.PRODUCER and place.module in self._order and not place.live
        ]

    def _option_pins(self) -> list[Pin]:
        sites = zip(self._provenance.sites, self._options, strict=True)
        return [(option.pins, Reason(f"stays where code {site.text}", site.where)) for site, option in sites]

    def _uneven_pins(self) -> Iterator[Pin]:
        """Units with more channels in one group of a convolution than in another."""
        for ids in self._resolved.level:
            units = self._units[ids]
            found, places = units.unique(return_inverse=True)
            counts = torch.zeros(len(units), len(found), dtype=torch.long)
            counts.scatter_add_(1, places, torch.ones_like(places))
            uneven = found[(counts != counts[:1]).any(0)]
            yield ids[torch.isin(units, uneven)], Reason("would leave a convolution's groups unequal", "")

    def _staying_units(self) -> Tensor:
        stays = torch.zeros(len(self._units), dtype=torch.bool)
        if self._reasons:
            stays[self._units[torch.tensor(list(self._reasons))]] = True
        return stays

    def layers(self) -> Layers:
        """The layers."""
        groups: list[ChannelGroup] = []
        owners = torch.full((len(self._units),), -1)
        failed: dict[int, Reason] = {}
        taken: set[str] = set()
        for part in self._sublayers():
            group, reason = self._assembled(part, taken)
            if group is None:
                failed.update(dict.fromkeys(part.units.tolist(), reason))
                continue
            groups.append(group)
            owners[part.units] = len(groups) - 1
        owner = owners[self._units]
        ids = {group.name: (owner == index).nonzero()[:, 0] for index, group in enumerate(groups)}
        rank = {group.name: index for index, group in enumerate(groups)}
        groups.sort(key=lambda group: (self._rank(group.root), rank[group.name]))
        return Layers(groups, self._pinned(failed), ids)

    # ------------------------------------------------------------------ which units make a layer

    def _sublayers(self) -> list[_Part]:
        """Units of every layer.

        Producers unite units; units of such a family that do not own the same numbers of positions at the same places
        make layers of their own.
        """
        free = self._free()
        kinds, count = self._families(free), len(free)
        owned: dict[int, tuple[Tensor, Tensor, Tensor]] = {}
        for index, place in enumerate(self._places):
            units = self._units[place.ids]
            there = free[units].nonzero()[:, 0]
            if not len(there):
                continue
            found, inverse, counts = units[there].unique(return_inverse=True, return_counts=True)
            # Units of one kind that own as many positions here are of one kind again.
            pairs = kinds[found] * (int(counts.max()) + 1) + counts
            renamed = pairs.unique(return_inverse=True)[1]
            kinds[found] = count + renamed
            count += len(found)
            owned[index] = found, counts, there[inverse.argsort(stable=True)]
        return sorted(self._parts(kinds, owned), key=self._first_place)

    @staticmethod
    def _parts(kinds: Tensor, owned: Mapping[int, tuple[Tensor, Tensor, Tensor]]) -> Iterator[_Part]:
        """Units of one kind each, from every place's units, numbers of positions, and positions unit by unit."""
        units: dict[int, Tensor] = {}
        positions: dict[int, dict[int, Tensor]] = defaultdict(dict)
        for index, (found, counts, there) in owned.items():
            starts = counts.cumsum(0) - counts
            named, sizes = kinds[found].unique(return_counts=True)
            ordered = kinds[found].argsort(stable=True).split(sizes.tolist())
            for kind, some in zip(named.tolist(), ordered, strict=True):
                width = torch.arange(int(counts[some[0]]))
                positions[kind][index] = there[starts[some][:, None] + width]
                units.setdefault(kind, found[some])
        for kind, places in positions.items():
            order = next(iter(places.values()))[:, 0].argsort()
            yield _Part(units[kind][order], {index: rows[order] for index, rows in places.items()})

    def _first_place(self, part: _Part) -> tuple[int, int, int, int]:
        root, first = self._root(part), next(iter(part.positions))
        rank = self._rank(self._places[root].module)
        return rank, int(part.positions[root].min()), first, int(part.positions[first][0, 0])

    def _root(self, part: _Part) -> int:
        producers = [place for place in part.positions if self._places[place].role is Role.PRODUCER]
        return min(producers, key=lambda place: self._rank(self._places[place].module))

    def _rank(self, module: str) -> int:
        return self._order.get(module, len(self._order))

    def _free(self) -> Tensor:
        """Mask of the units that may leave and have a producer, bool [units]."""
        made = torch.zeros(len(self._units), dtype=torch.bool)
        for place in self._places:
            if place.role is Role.PRODUCER and place.live:
                made[self._units[place.ids]] = True
        return made & ~self._stays

    def _families(self, free: Tensor) -> Tensor:
        pairs = [torch.zeros(2, 0, dtype=torch.long)]
        for place in self._places:
            if place.role is Role.PRODUCER:
                units = self._units[place.ids].unique()
                units = units[free[units]]
                if len(units) > 1:
                    pairs.append(torch.stack([units[:1].expand(len(units) - 1), units[1:]]))
        return components(len(self._units), torch.cat(pairs, dim=1))

    # ------------------------------------------------------------------ a layer from its units

    def _assembled(self, part: _Part, taken: set[str]) -> tuple[ChannelGroup | None, Reason]:
        root = self._root(part)
        module = self._places[root].module
        places = [self._places[place] for place in part.positions]
        if not any(place.role is Role.CONSUMER and place.live for place in places):
            return None, Reason("is read by no convolution or linear module of PyTorch", module)
        if len(part.units) < 2:
            mixed = self._resolved.mixed.get(int(self._resolved.units[part.units[0]]))
            if mixed is not None:
                return None, mixed
            return None, Reason("its channels can only leave all together", module)
        table, units = self._channels(part, root)
        name = self._name(module, table[root], taken)
        return (
            ChannelGroup(
                name,
                len(table[root]),
                units,
                self._members(table, Role.PRODUCER, True),
                self._members(table, Role.CARRIER, None),
                self._members(table, Role.CONSUMER, True),
                self._members(table, Role.CONSUMER, False),
                self._attributes(table, root),
            ),
            Reason("", module),
        )

    def _channels(self, part: _Part, root: int) -> tuple[dict[int, Tensor], tuple[tuple[int, ...], ...]]:
        """Positions of a layer's channels, place -> int64 [channels, positions], and its units as numbers of channels.

        A channel is a class where all classes of the layer own alike; else, as where halves of different use leave
        together, a whole unit counts as one channel. Channels are in the order of their first positions in the root.
        """
        count = len(part.units)
        owner = torch.arange(count)[:, None] * len(self._classes)
        keys = [
            (owner + self._classes[self._first_ids[place] + rows]).reshape(-1) for place, rows in part.positions.items()
        ]
        channels, numbers = torch.cat(keys).unique(return_inverse=True)
        table: dict[int, Tensor] = {}
        for (place, rows), own in zip(part.positions.items(), numbers.split(list(map(len, keys))), strict=True):
            if len(own) % len(channels) or bool(
                (own.bincount(minlength=len(channels)) != len(own) // len(channels)).any()
            ):
                order = part.positions[root][:, 0].argsort()
                return {each: some[order] for each, some in part.positions.items()}, _runs(torch.arange(count))
            table[place] = rows.reshape(-1)[own.argsort(stable=True)].reshape(len(channels), -1)
        order = table[root][:, 0].argsort()
        units = (channels // len(self._classes))[order]
        return {place: rows[order] for place, rows in table.items()}, _runs(units)

    def _name(self, module: str, rows: Tensor, taken: set[str]) -> str:
        name = module
        if name in taken:
            name = f"{module}[{int(rows.min())}:{int(rows.max()) + 1}]"
        while name in taken:
            name += "'"
        taken.add(name)
        return name

    def _members(self, table: Mapping[int, Tensor], role: Role, live: bool | None) -> tuple[Member, ...]:
        found = [
            (self._places[place], indices)
            for place, indices in table.items()
            if self._places[place].role is role and live in (None, self._places[place].live)
        ]
        found.sort(key=lambda pair: self._rank(pair[0].module))
        return tuple(Member(place.module, indices, place.parameter, place.axis) for place, indices in found)

    def _attributes(self, table: Mapping[int, Tensor], root: int) -> tuple[SizeAttribute, ...]:
        """Attributes of modules that count channels of this layer."""
        found: dict[tuple[str, str, int | None], SizeAttribute] = {}
        if not any(option.followers for option in self._options):
            return ()
        owners = {
            self._class_list[self._first_ids[place] + position]: channel
            for place, indices in table.items()
            for channel, positions in enumerate(indices.tolist())
            for position in positions
        }
        for option in self._options:
            for follower in option.followers:
                counts = torch.zeros(len(table[root]), dtype=torch.long)
                for owner in self._classes[follower.ids].tolist():
                    if owner in owners:
                        counts[owners[owner]] += 1
                if counts.any():
                    key = follower.module, follower.attribute, follower.index
                    found.setdefault(key, SizeAttribute(*key[:2], counts, follower.index))
        return tuple(found.values())

    # ------------------------------------------------------------------ what stays

    def _pinned(self, failed: Mapping[int, Reason]) -> list[PinnedChannels]:
        """Channels of every producer that are in no layer, by reason."""
        partners: dict[int, Reason] = {}
        for root, reason in self._reasons.items():
            partners.setdefault(self._unit_list[root], reason)
        found: dict[tuple[str, Reason], int] = {}
        sizes: dict[str, int] = {}
        for index, place in enumerate(self._places):
            if place.role is not Role.PRODUCER or place.module not in self._order:
                continue
            sizes[place.module] = len(place.ids)
            first = self._first_ids[index]
            for root in self._class_list[first : first + len(place.ids)]:
                unit = self._unit_list[root]
                why = self._reasons.get(root) or partners.get(unit) or failed.get(unit)
                if why is not None:
                    found[place.module, why] = found.get((place.module, why), 0) + 1
        pinned = [
            PinnedChannels(name, count, sizes[name], reason.where, reason.text)
            for (name, reason), count in found.items()
        ]
        return sorted(pinned, key=lambda stay: self._order[stay.name])


def _runs(owners: Tensor) -> tuple[tuple[int, ...], ...]:
    """Numbers of the entries of every owner, ascending, those with the smallest first."""
    runs: dict[int, list[int]] = {}
    for number, owner in enumerate(owners.tolist()):
        runs.setdefault(owner, []).append(number)
    return tuple(map(tuple, runs.values()))
