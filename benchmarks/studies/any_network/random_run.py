"""What thousands of random networks showed: counts by verdict, by block kind and by reason of what stays."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any

from torch import nn

from benchmarks.common.columns import Column, Value
from benchmarks.common.table import Table
from benchmarks.studies.any_network.composer import KINDS, Composition, seeded
from benchmarks.studies.any_network.judge import RIGHT, WHOLE, Judgement, enliven, in_double, judge
from hessian.channels.layer_types import MIXING_TYPES

_REASONS = 25
"""Reasons that a result lists, the most frequent ones."""


@dataclass
class KindCount:
    """A block kind over all networks.

    Attributes:
        networks: in which it occurs.
        weighted: convolutions and linear layers of its blocks.
        prunable: those of them whose output channels belong to a prunable layer.
        not_right: networks with it that were not cut rightly.
    """

    networks: int = 0
    weighted: int = 0
    prunable: int = 0
    not_right: int = 0


@dataclass
class RandomRun:
    """The findings of a run, filled one network at a time.

    Attributes:
        verdicts: verdict -> networks.
        kinds: block kind -> counts.
        heads: kind of head -> networks.
        reasons: why channels stay, names left out -> times.
        gaps: largest gap of every network that was cut.
        seconds: of every discovery.
        parameters_kept: of every network that was cut, with half the units of every layer gone.
        problems: networks that were not cut rightly: seed, kinds, head, verdict, message.
    """

    verdicts: Counter[str] = field(default_factory=Counter)
    kinds: dict[str, KindCount] = field(default_factory=lambda: {kind: KindCount() for kind in KINDS})
    heads: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    gaps: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    parameters_kept: list[float] = field(default_factory=list)
    problems: list[dict[str, Any]] = field(default_factory=list)

    def add(self, seed: int, network: Composition, found: Judgement) -> None:
        """Count one network."""
        self.verdicts[found.verdict] += 1
        self.heads[network.head] += 1
        self.reasons.update(_nameless(pin.reason) for pin in found.pins)
        self.seconds.append(found.seconds)
        bad = found.verdict not in (RIGHT, WHOLE)
        if found.verdict == RIGHT:
            self.gaps.append(found.gap)
            self.parameters_kept.append(found.parameters_kept)
        if bad:
            what = {"kinds": list(network.kinds), "head": network.head, "entry": network.entry}
            self.problems.append({"seed": seed, **what, "verdict": found.verdict, "message": found.message[:300]})
        for at, kind in enumerate(network.kinds):
            weighted = _weighted(network.model, f"blocks.{at}.")
            self.kinds[kind].weighted += len(weighted)
            self.kinds[kind].prunable += len(weighted.intersection(found.producers))
        for kind in set(network.kinds):
            self.kinds[kind].networks += 1
            self.kinds[kind].not_right += bad

    def content(self) -> dict[str, Any]:
        """As a result file holds it."""
        return {
            "networks": sum(self.verdicts.values()),
            "verdicts": dict(self.verdicts),
            "largest_gap": max(self.gaps, default=None),
            "parameters_kept": median(self.parameters_kept) if self.parameters_kept else None,
            "discovery_seconds": {"median": median(self.seconds), "largest": max(self.seconds)},
            "heads": dict(self.heads),
            "kinds": {kind: asdict(count) for kind, count in self.kinds.items()},
            "reasons": dict(self.reasons.most_common(_REASONS)),
            "problems": self.problems,
        }


def random_run(seeds: Iterable[int], kinds: tuple[str, ...], progress: Callable[[RandomRun], None]) -> RandomRun:
    """Judge the random networks of some seeds.

    Args:
        seeds: one a network.
        kinds: block kinds to compose of.
        progress: called after every network.
    """
    run = RandomRun()
    for seed in seeds:
        network = seeded(seed, kinds)
        found = judge(enliven(network.model, seed), in_double(network.example), seed=seed)
        run.add(seed, network, found)
        progress(run)
    return run


def kinds_table(content: dict[str, Any]) -> Table:
    """Block kinds of a result, one a row."""
    verdicts = ", ".join(f"{number:,} {verdict}" for verdict, number in content["verdicts"].items())
    columns = ("block kind", "networks", "weighted layers", Column("prunable, %", ".0f", scale=100), "not right")
    rows = [_cells(kind, count) for kind, count in content["kinds"].items() if count["networks"]]
    return Table(f"{content['networks']:,} random networks: {verdicts}", columns, rows)


def _cells(kind: str, count: dict[str, int]) -> tuple[Value, ...]:
    share = count["prunable"] / count["weighted"] if count["weighted"] else None
    return (kind, count["networks"], count["weighted"], share, count["not_right"])


def _weighted(model: nn.Module, prefix: str) -> set[str]:
    return {
        name for name, module in model.named_modules() if name.startswith(prefix) and isinstance(module, MIXING_TYPES)
    }


def _nameless(reason: str) -> str:
    """A reason without the names and numbers in it."""
    return re.sub(r"\d+", "N", re.sub(r"'[^']*'", "'...'", reason))
