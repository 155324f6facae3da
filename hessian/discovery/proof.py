"""Cutting a network for trial: the smaller network must compute what the dense one does without the channels.

One unit of every layer is cut at once. The smaller network has to compute, in evaluation mode, what the dense network
computes when the columns that read these channels are zero; where a normalisation mixes channels, the dense network
normalises over the channels that are left. In training mode (heads that run there only) it has to run. A layer that
fails is read in another way, where its code allows for one, and else stays whole.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import nn

from hessian.channels.group import ChannelGroup
from hessian.discovery.layers import Layers, Pin, layers_of
from hessian.discovery.trial import Trial
from hessian.provenance.classes import Reason
from hessian.provenance.run import Provenance
from hessian.provenance.sites import STAYING, WINDOWS, Site
from hessian.support.calling import state_kept


def proved(model: nn.Module, example_input: Any, provenance: Provenance, ignored: set[str]) -> Layers:
    """The layers of a network that stand the trial.

    Args:
        model: left as it was.
        example_input: what it accepts.
        provenance: what a run showed.
        ignored: names of modules whose channels stay.
    """
    return _Proof(model, example_input, provenance, ignored).layers()


class _Proof:
    """Readings of one network's places, and the layers they lead to."""

    def __init__(self, model: nn.Module, example_input: Any, provenance: Provenance, ignored: set[str]) -> None:
        self._model = model
        self._provenance = provenance
        self._ignored = ignored
        self._sites: list[Site] = list(provenance.sites)
        self._trial = Trial(model, example_input, provenance)
        self._choice: dict[int, int] = {}
        self._pins: list[Pin] = []
        self._layers = self._read()

    def _read(self) -> Layers:
        return layers_of(self._model, self._provenance, self._choice, self._pins, self._ignored)

    def layers(self) -> Layers:
        """Layers that stand the trial."""
        with torch.inference_mode(False), torch.no_grad(), state_kept(self._model):
            if self._failure(self._layers.groups) is None:
                self._reread_idle()
                return self._layers
            self._reread()
            while failed := self._failing(self._layers.groups):
                self._pins += [(self._layers.ids[group.name], problem) for group, problem in failed]
                self._layers = self._read()
        return self._layers

    def _failure(self, groups: Sequence[ChannelGroup]) -> Reason | None:
        return self._trial.failure(groups, {group.name for group in self._touching(range(len(self._sites)))})

    # ------------------------------------------------------------------ other readings

    def _reread(self) -> None:
        """Find, for places of each kind, the first reading that stands; staying is the last resort of each place.

        A kind may fail for another one that is read wrongly: those without a reading are tried again after the others.
        """
        kinds = self._kinds()
        for _ in range(2):
            left = [kind for kind in kinds if self._reread_together(kind, self._readings(kind)) is False]
            if not left or len(left) == len(kinds):
                break
            kinds = left
        for kind in left:
            self._reread_one_by_one(kind)

    def _reread_idle(self) -> None:
        """Read shuffles of which the first reading leaves nothing in the other way, if that stands."""
        for kind in self._kinds():
            readings = [choice for label, choice in self._labelled(kind) if label == WINDOWS]
            if readings and not self._touching(kind):
                self._reread_together(kind, readings)

    def _reread_together(self, kind: Sequence[int], readings: Iterable[dict[int, int]]) -> bool | None:
        """Take the first reading that stands; where none does, the first of all, and None if none leaves layers."""
        touched = False
        for choice in readings:
            self._choice.update(choice)
            self._layers = self._read()
            touching = self._touching(kind)
            touched = touched or bool(touching)
            if touching and self._failure(touching) is None:
                return True
        self._choice.update(dict.fromkeys(kind, 0))
        self._layers = self._read()
        return False if touched else None

    def _readings(self, kind: Sequence[int]) -> list[dict[int, int]]:
        """Ways to read all places of a kind alike, other than that their channels stay; each place's own first."""
        found = [dict.fromkeys(kind, 0)]
        for label, choice in self._labelled(kind):
            if label != STAYING and choice not in found:
                found.append(choice)
        return found

    def _labelled(self, kind: Sequence[int]) -> list[tuple[str, dict[int, int]]]:
        """Every label with the options that have it; the first where a place has none."""
        labels = dict.fromkeys(option.label for site in kind for option in self._sites[site].options)
        return [(label, {site: _option(self._sites[site], label) for site in kind}) for label in labels]

    def _reread_one_by_one(self, kind: Sequence[int]) -> None:
        for site in kind:
            for option in range(len(self._sites[site].options)):
                self._choice[site] = option
                self._layers = self._read()
                if self._stands([site]):
                    break
            else:
                self._choice[site] = 0
        self._layers = self._read()

    def _kinds(self) -> list[list[int]]:
        """Places with several readings, those in the same code together."""
        modules = dict(self._model.named_modules())
        kinds: dict[Any, list[int]] = {}
        for index, site in enumerate(self._sites):
            if len(site.options) > 1:
                kinds.setdefault((type(modules.get(site.where, self._model)), site.text), []).append(index)
        return list(kinds.values())

    def _stands(self, sites: Sequence[int]) -> bool:
        """Return whether a reading leaves layers at these places, and they stand."""
        touching = self._touching(sites)
        return bool(touching) and self._failure(touching) is None

    def _touching(self, sites: Sequence[int]) -> list[ChannelGroup]:
        there = torch.zeros(self._provenance.classes.count, dtype=torch.bool)
        for site in sites:
            there[self._sites[site].ids] = True
        return [group for group in self._layers.groups if bool(there[self._layers.ids[group.name]].any())]

    # ------------------------------------------------------------------ finding the culprits

    def _failing(self, groups: Sequence[ChannelGroup]) -> list[tuple[ChannelGroup, Reason]]:
        """Layers that fail, with the reasons; none where all stand together."""
        rest, suspected = list(groups), []
        while (problem := self._failure(rest)) is not None:
            near = _near(rest, problem.where)
            if not near or len(near) == len(rest):
                break
            suspected.append((near, problem))
            rest = [group for group in rest if group not in near]
        found = [] if problem is None else self._halved(rest, problem)
        for near, why in suspected:
            if self._failure(near) is not None:
                found += self._halved(near, why)
        if not found and suspected:  # they fail only together: one of them stays
            near, why = suspected[0]
            found = [(near[0], why)]
        return found

    def _halved(self, groups: Sequence[ChannelGroup], problem: Reason) -> list[tuple[ChannelGroup, Reason]]:
        """Layers that fail among some that do, found by halving."""
        if len(groups) == 1:
            return [(groups[0], problem)]
        found = []
        middle = len(groups) // 2
        for half in (groups[:middle], groups[middle:]):
            why = self._failure(half)
            if why is not None:
                found += self._halved(half, why)
        return found or [(groups[0], problem)]  # they fail only together: one of them stays


def _option(site: Site, label: str) -> int:
    return next((index for index, option in enumerate(site.options) if option.label == label), 0)


def _near(groups: Sequence[ChannelGroup], where: str) -> list[ChannelGroup]:
    """Layers with something in the module that failed, or in the smallest one around it that has any."""
    scope = where
    while scope:
        near = [group for group in groups if _touches(group, scope)]
        if near:
            return near
        scope = scope.rpartition(".")[0]
    return []


def _touches(group: ChannelGroup, scope: str) -> bool:
    members = (*group.producers, *group.carriers, *group.consumers, *group.silent)
    return any(member.module == scope or member.module.startswith(scope + ".") for member in members)
