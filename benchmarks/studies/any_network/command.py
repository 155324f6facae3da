"""Thousands of random networks, cut and compared with an oracle.

``python -m benchmarks.studies.any_network`` composes networks of the block kinds there are, removes one unit of one
layer, any number of every layer and about half of every layer, and compares the smaller network with the dense one in
which these channels read as zero, where a head runs in training only in training mode, too. It prints a table and
writes ``benchmarks/results/any_network.json``.
"""

from __future__ import annotations

import argparse
import json
import re
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from torch import nn

from benchmarks.common.arguments import positive, writable
from benchmarks.common.columns import Column, Value
from benchmarks.common.command import reports_errors
from benchmarks.common.provenance import write_result
from benchmarks.common.table import Table, report_console
from benchmarks.studies.any_network.composer import AUXILIARY, KINDS, Composition, seeded
from benchmarks.studies.any_network.judge import FAILED, RIGHT, WHOLE, WRONG, Judgement, enliven, in_double, judge
from benchmarks.studies.any_network.oracle import network_outputs
from hessian.channels.layer_types import MIXING_TYPES

RESULTS = Path(__file__).parents[2] / "results" / "any_network.json"
NETWORKS = 2000
_EVERY = 100
"""Networks between two reports of progress."""
_KEPT_EVERY = 20
"""Networks between two writings of the result file."""
_DRAWS = 5


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
        largest_gap: of all networks that were cut rightly.
        seconds, slowest: of all discoveries together, and of the slowest.
        parameters_kept: sum over all networks that were cut, with about half the units of every layer gone.
        problems: networks that were not cut rightly, or not at all: seed, kinds, head, verdict, message.
    """

    verdicts: Counter[str] = field(default_factory=Counter)
    kinds: dict[str, KindCount] = field(default_factory=lambda: {kind: KindCount() for kind in KINDS})
    heads: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    largest_gap: float = 0.0
    seconds: float = 0.0
    slowest: float = 0.0
    parameters_kept: float = 0.0
    problems: list[dict[str, Any]] = field(default_factory=list)

    def add(self, seed: int, network: Composition, found: Judgement) -> None:
        """Count one network."""
        self.verdicts[found.verdict] += 1
        self.heads[network.head] += 1
        self.reasons.update(_nameless(pin.reason) for pin in found.pins)
        self.seconds += found.seconds
        self.slowest = max(self.slowest, found.seconds)
        bad = found.verdict not in (RIGHT, WHOLE)
        if found.verdict == RIGHT:
            self.largest_gap = max(self.largest_gap, found.gap)
            self.parameters_kept += found.parameters_kept
        if found.verdict != RIGHT:
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
            "networks": self.networks,
            "verdicts": dict(self.verdicts),
            "largest_gap": self.largest_gap,
            "parameters_kept": self.parameters_kept / max(1, self.verdicts[RIGHT]),
            "discovery_seconds": {"mean": self.seconds / max(1, self.networks), "largest": self.slowest},
            "heads": dict(self.heads),
            "kinds": {kind: asdict(count) for kind, count in self.kinds.items()},
            "reasons": dict(self.reasons.most_common()),
            "problems": self.problems,
        }

    @classmethod
    def of(cls, content: dict[str, Any]) -> RandomRun:
        """The run that a result file tells of, to go on with."""
        verdicts, seconds = Counter(content["verdicts"]), content["discovery_seconds"]
        run = cls(verdicts, heads=Counter(content["heads"]), reasons=Counter(content["reasons"]))
        run.kinds.update({kind: KindCount(**count) for kind, count in content["kinds"].items()})
        run.problems, run.largest_gap = list(content["problems"]), content["largest_gap"]
        run.seconds, run.slowest = seconds["mean"] * run.networks, seconds["largest"]
        run.parameters_kept = content["parameters_kept"] * verdicts[RIGHT]
        return run

    @property
    def networks(self) -> int:
        """Networks judged so far."""
        return sum(self.verdicts.values())


def random_run(
    seeds: Iterable[int],
    kinds: tuple[str, ...],
    progress: Callable[[RandomRun], None],
    before: RandomRun | None = None,
) -> RandomRun:
    """Judge the random networks of some seeds.

    Args:
        seeds: one a network.
        kinds: block kinds to compose of.
        progress: called after every network.
        before: what is known of other seeds; absent means nothing.
    """
    run = RandomRun() if before is None else before
    for seed in seeds:
        network = seeded(seed, kinds)
        modes = (False, True) if network.head == AUXILIARY else (False,)
        found = judge(_awake(network, seed), in_double(network.example), seed=seed, modes=modes, flops=False)
        run.add(seed, network, found)
        progress(run)
    return run


def _awake(network: Composition, seed: int) -> nn.Module:
    """The network with lively norms and biases, drawn anew where its outputs are the same for all images.

    Behind a ReLU that lets nothing through there is nothing that a cut could change.
    """
    for draw in range(_DRAWS):
        model = enliven(network.model, seed + draw * NETWORKS)
        outputs = network_outputs(model, in_double(network.example))
        if any(bool((output[0] - output[1]).abs().max() > 0) for output in outputs):
            break
    return model


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


@reports_errors(OSError, ValueError)
def main(argv: Sequence[str] | None = None) -> int:
    """Judge random networks; the exit code is 1 if one is not cut rightly, 2 on bad input.

    Args:
        argv: arguments; absent means those of the process.

    Raises:
        ValueError: the file to go on from has another first seed; ends the command with exit code 2.
    """
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.studies.any_network", description=__doc__.splitlines()[0]
    )
    parser.add_argument("kinds", nargs="*", metavar="KIND", help=f"block kinds; all by default: {', '.join(KINDS)}")
    parser.add_argument("--networks", type=positive, default=NETWORKS, help="how many (default: %(default)s)")
    parser.add_argument("--first-seed", type=int, default=0, help="seed of the first network (default: %(default)s)")
    parser.add_argument(
        "--json",
        type=writable,
        help="where the numbers go (default: benchmarks/results/any_network.json for a whole run, nowhere for others)",
    )
    parser.add_argument("--resume", action="store_true", help="go on with the run that the file tells of")
    parser.add_argument("--table", action="store_true", help="judge nothing; print what the file has as Markdown")
    arguments = parser.parse_args(argv)
    unknown = [kind for kind in arguments.kinds if kind not in KINDS]
    if unknown:
        parser.error(f"unknown block kind {unknown[0]!r}; choose among {', '.join(KINDS)}")
    whole = not arguments.kinds and arguments.networks >= NETWORKS
    path = arguments.json or (RESULTS if whole else None)
    if arguments.table:
        print(kinds_table(json.loads((path or RESULTS).read_text(encoding="utf-8"))).markdown())  # noqa: T201 - for a page
        return 0
    first, before = arguments.first_seed, RandomRun()
    if arguments.resume and path is not None and path.exists():
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["first_seed"] != first:
            raise ValueError(f"{path} is a run from seed {content['first_seed']}; give --first-seed that")
        before = RandomRun.of(content)
    console = report_console(Console())
    # Networks that spectral norms or empty gradients make PyTorch talk about are no news here.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        seeds = range(first + before.networks, first + arguments.networks)
        reporter = _Reporter(console, path, first, arguments.networks)
        run = random_run(seeds, tuple(arguments.kinds) or tuple(KINDS), reporter, before)
    console.print(kinds_table(run.content()))
    return 1 if run.verdicts[WRONG] or run.verdicts[FAILED] else 0


class _Reporter:
    """Says how far a run is, and what went wrong, as it happens; writes what there is."""

    def __init__(self, console: Console, path: Path | None, first_seed: int, networks: int) -> None:
        self._console, self._started, self._known = console, time.perf_counter(), 0
        self._path, self._first_seed, self._networks = path, first_seed, networks

    def __call__(self, run: RandomRun) -> None:
        for problem in run.problems[self._known :]:
            kinds = ", ".join(problem["kinds"])
            line = f"seed {problem['seed']} ({kinds}; {problem['head']}): {problem['verdict']}: {problem['message']}"
            self._console.print(line, markup=False, highlight=False, soft_wrap=True)
        self._known = len(run.problems)
        done = run.networks
        if self._path is not None and (done % _KEPT_EVERY == 0 or done == self._networks):
            write_result(self._path, {"first_seed": self._first_seed, **run.content()})
        if done % _EVERY == 0:
            spent = time.perf_counter() - self._started
            self._console.print(f"{done} networks, {dict(run.verdicts)}, {spent:.0f} s", highlight=False)
