"""Published networks, each cut to half and compared with an oracle; ``python -m benchmarks.studies.any_network.zoo``.

Every network has random weights and lively norms, sees small images, and is judged in a process of its own under a
limit of processor time. Findings are kept in ``benchmarks/results/zoo.json`` as they come, so that a second call goes
on where the first one ended. timm's networks need the extra ``timm``.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import re
import resource
import signal
import sys
import time
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from benchmarks.common.arguments import positive, writable
from benchmarks.common.columns import Column, Value, percent_column
from benchmarks.common.command import reports_errors
from benchmarks.common.provenance import write_result
from benchmarks.common.table import Table, report_console
from benchmarks.studies.any_network.architectures import Architecture, architectures
from benchmarks.studies.any_network.judge import (
    ERRORS,
    FAILED,
    RIGHT,
    TOLERANCE,
    WRONG,
    Judgement,
    count_parameters,
    enliven,
    judge,
)

RESULTS = Path(__file__).parents[2] / "results" / "zoo.json"
SECONDS = 900
COLUMNS = (
    "network",
    "layers",
    percent_column("parameters kept, %", 0),
    percent_column("FLOPs removed, %", 0),
    Column("gap", ".0e"),
    Column("discovery, CPU s", ".1f"),
    "pinned",
    Column("mostly because they", wide=True),
)
ENOUGH = 0.75
"""Share of its parameters under which a network counts as pruned."""
_REASON_WIDTH = 70
_LARGE = 60_000_000
"""Parameters from which a network is judged in single precision: several copies of it are held at once."""


def judge_architecture(architecture: Architecture) -> dict[str, Any]:
    """Build, cut and judge one network.

    Returns:
        A row of the result file.
    """
    started = time.process_time()
    model = architecture.build()
    parameters = count_parameters(model)
    dtype = torch.float32 if parameters > _LARGE else torch.float64
    model = enliven(model, dtype=dtype)
    modes = (False, True) if architecture.auxiliary else (False,)
    found = judge(
        model,
        architecture.example(2, dtype),
        single_image=architecture.example(1, dtype),
        modes=modes,
        singles=0,
        watched=architecture.watched,
    )
    return _row(architecture, parameters, found, time.process_time() - started)


def _row(architecture: Architecture, parameters: int, found: Judgement, seconds: float) -> dict[str, Any]:
    return {
        "network": architecture.key,
        "task": architecture.task,
        "image_size": architecture.size,
        "parameters": parameters,
        "verdict": found.verdict,
        "layers": found.layers,
        "pins": [[pin.where, pin.reason] for pin in found.pins],
        "parameters_kept": found.parameters_kept,
        "flops_removed": found.flops_removed,
        "gap": found.gap,
        "effect": found.effect,
        "discovery_cpu_seconds": found.seconds,
        "cpu_seconds": seconds,
        "message": found.message[:400],
    }


def _judged_apart(architecture: Architecture, limit: float) -> dict[str, Any]:
    """Judge a network in a process of its own; too many seconds of processor time and dead processes are findings."""
    # A fork: importing the libraries anew for every network takes longer than judging a small one.
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=_send_row, args=(architecture, sender, limit))
    child.start()
    sender.close()
    try:
        row: dict[str, Any] | str = receiver.recv()
    except EOFError:
        child.join()
        late = child.exitcode == -signal.SIGXCPU
        row = f"no result after {limit:.0f} s of processor time" if late else "the process died"
    finally:
        child.kill()
        child.join()
    return _row(architecture, 0, Judgement(FAILED, message=row), 0.0) if isinstance(row, str) else row


def _send_row(architecture: Architecture, sender: Connection, limit: float) -> None:
    """Judge and send what was found, or why nothing was; the system ends the process after so much processor time."""
    spent = math.ceil(time.process_time() + limit)
    resource.setrlimit(resource.RLIMIT_CPU, (spent, resource.RLIM_INFINITY))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            sender.send(judge_architecture(architecture))
        except (ImportError, *ERRORS) as error:
            sender.send(f"{type(error).__name__}: {error}")


def zoo_table(rows: Iterable[Mapping[str, Any]]) -> Table:
    """A row a network: what half the units of every layer are worth, and what stays."""
    return Table("About half the units of every layer removed", COLUMNS, [_cells(row) for row in rows])


def _cells(row: Mapping[str, Any]) -> tuple[Value, ...]:
    name, layers = row["network"], row["layers"]
    if row["verdict"] != RIGHT:
        return (name, layers, None, None, None, None, row["verdict"].upper(), row["message"][:_REASON_WIDTH])
    kept, removed, gap = (row[key] for key in ("parameters_kept", "flops_removed", "gap"))
    seconds = row.get("discovery_cpu_seconds")  # absent where wall seconds of a shared processor were noted once
    return (name, layers, kept, removed, gap, seconds, len(row["pins"]), main_reason(row["pins"]))


def main_reason(pins: Iterable[tuple[str, str]]) -> str:
    """The reason most pins share, without the names in it; empty where nothing is pinned."""
    reasons = Counter(re.sub(r"'[^']*'", "...", reason) for _, reason in pins)
    return reasons.most_common(1)[0][0][:_REASON_WIDTH] if reasons else ""


def zoo_summary(rows: Iterable[Mapping[str, Any]]) -> str:
    """Numbers of networks that are cut rightly, and to under three quarters, by library, in words."""
    sentences = []
    rows = list(rows)
    for library in ("timm", "torchvision"):
        own = [row for row in rows if row["network"].startswith(library)]
        if not own:
            continue
        right = [row for row in own if row["verdict"] == RIGHT]
        wrong = sum(row["verdict"] == WRONG for row in own)
        pruned = sum(row["parameters_kept"] < ENOUGH for row in right)
        gap = max((row["gap"] for row in right), default=0.0)
        slowest = max(row.get("discovery_cpu_seconds", 0.0) for row in own)
        sentences.append(
            f"{library}: of {len(own)} networks {len(right)} are cut to the oracle's numbers (largest gap {gap:.0e}, "
            f"allowed {TOLERANCE:.0e}), {wrong} wrongly, {len(own) - len(right) - wrong} not at all; {pruned} keep "
            f"under {100 * ENOUGH:.0f} % of their parameters; the slowest discovery measured took "
            f"{slowest:.1f} s."
        )
    return " ".join(sentences)


@reports_errors(OSError, ValueError)
def main(argv: Sequence[str] | None = None) -> int:
    """Judge networks and report; the exit code is 1 if one is not cut rightly, 2 on bad input.

    Args:
        argv: arguments; absent means those of the process.
    """
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.studies.any_network.zoo", description=__doc__.splitlines()[0]
    )
    parser.add_argument("networks", nargs="*", metavar="LIBRARY/NAME", help="some of them, or the beginning of names")
    parser.add_argument("--again", action="store_true", help="judge networks that the file has, too")
    parser.add_argument("--failed", action="store_true", help="judge those again that the file has not as cut rightly")
    parser.add_argument(
        "--seconds", type=positive, default=SECONDS, help="limit of processor time a network (default: %(default)s)"
    )
    parser.add_argument("--json", type=writable, default=RESULTS, help="where findings are kept (default: %(default)s)")
    parser.add_argument("--table", action="store_true", help="judge nothing; print what the file has as Markdown")
    arguments = parser.parse_args(argv)
    known = architectures()
    chosen = [key for key in known if key.startswith(tuple(arguments.networks or [""]))]
    if not chosen:
        parser.error(f"no network is called {arguments.networks[0]!r}; they begin with 'timm/' or 'torchvision/'")
    found = _known_rows(arguments.json)
    if arguments.table:
        print(zoo_summary(found.values()) + "\n\n" + zoo_table(found.values()).markdown())  # noqa: T201 - for a page
        return 0
    console = report_console(Console())
    for key in chosen:
        if key in found and not arguments.again and not (arguments.failed and found[key]["verdict"] != RIGHT):
            continue
        found[key] = row = _judged_apart(known[key], arguments.seconds)
        ordered = [found[name] for name in known if name in found]
        write_result(arguments.json, {"networks": ordered})
        line = f"{key}: {row['verdict']}, {row['layers']} layers, gap {row['gap']:.0e}, {row['cpu_seconds']:.0f} CPU s"
        console.print(f"{line} {row['message']}", markup=False, highlight=False, soft_wrap=True)
    rows = [found[key] for key in chosen]
    console.print(zoo_table(rows), zoo_summary(rows))
    return 0 if all(row["verdict"] == RIGHT for row in rows) else 1


def _known_rows(path: Path) -> dict[str, dict[str, Any]]:
    if not path.exists():
        return {}
    rows = json.loads(path.read_text(encoding="utf-8"))["networks"]
    return {row["network"]: row for row in rows}


if __name__ == "__main__":
    sys.exit(main())
