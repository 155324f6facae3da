"""The zoo's findings as a table and as a sentence."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from benchmarks.common.columns import Column, Value, percent_column
from benchmarks.common.table import Table
from benchmarks.studies.any_network.judge import RIGHT, TOLERANCE, WRONG

COLUMNS = (
    "network",
    "layers",
    percent_column("parameters kept, %", 0),
    percent_column("FLOPs removed, %", 0),
    Column("gap", ".0e"),
    Column("discovery, s", ".1f"),
    "pinned",
    Column("mostly because they", wide=True),
)
ENOUGH = 0.75
"""Share of its parameters under which a network counts as pruned."""
_REASON_WIDTH = 70


def zoo_table(rows: Iterable[Mapping[str, Any]]) -> Table:
    """A row a network: what half the units of every layer are worth, and what stays."""
    return Table("Half the units of every layer removed", COLUMNS, [_cells(row) for row in rows])


def _cells(row: Mapping[str, Any]) -> tuple[Value, ...]:
    name, layers = row["network"], row["layers"]
    if row["verdict"] != RIGHT:
        return (name, layers, None, None, None, None, row["verdict"].upper(), row["message"][:_REASON_WIDTH])
    kept, removed, gap, seconds = (row[key] for key in ("parameters_kept", "flops_removed", "gap", "discovery_seconds"))
    return (name, layers, kept, removed, gap, seconds, len(row["pins"]), main_reason(row["pins"]))


def main_reason(pins: Iterable[tuple[str, str]]) -> str:
    """The reason most pins share, without the names in it; empty where nothing is pinned."""
    reasons = Counter(re.sub(r"'[^']*'", "...", reason) for _, reason in pins)
    return reasons.most_common(1)[0][0][:_REASON_WIDTH] if reasons else ""


def zoo_summary(rows: Iterable[Mapping[str, Any]]) -> str:
    """How many networks are cut rightly, and how many to under three quarters, by library."""
    sentences = []
    rows = list(rows)
    for library in ("timm", "torchvision"):
        own = [row for row in rows if row["network"].startswith(library)]
        if not own:
            continue
        right = [row for row in own if row["verdict"] == RIGHT]
        wrong = sum(row["verdict"] == WRONG for row in own)
        pruned = sum(row["parameters_kept"] < ENOUGH for row in right)
        gap, slowest = max((row["gap"] for row in right), default=0.0), max(row["discovery_seconds"] for row in own)
        sentences.append(
            f"{library}: of {len(own)} networks {len(right)} are cut to the oracle's numbers (largest gap {gap:.0e}, "
            f"allowed {TOLERANCE:.0e}), {wrong} wrongly, {len(own) - len(right) - wrong} not at all; {pruned} keep "
            f"under {100 * ENOUGH:.0f} % of their parameters; the slowest discovery took {slowest:.1f} s."
        )
    return " ".join(sentences)
