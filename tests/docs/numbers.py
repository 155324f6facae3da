"""Result files and pages, as the tests that compare them read them."""

from __future__ import annotations

import json
from typing import Any

from tests.pages import DOCS, ROOT

RESULTS = ROOT / "benchmarks" / "results"
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = {page.stem: page.read_text(encoding="utf-8") for page in DOCS.glob("*.md")}
ONE_LINE = {name: " ".join(page.split()) for name, page in PAGES.items()}


def result(name: str) -> Any:
    """A result file."""
    return json.loads((RESULTS / name).read_text())


def percent(fraction: float) -> str:
    """A fraction in percent, two decimals."""
    return f"{100 * fraction:.2f}"


def interval(found: dict[str, float]) -> str:
    """A value with its interval."""
    return "{value:.2f} [{low:.2f}, {high:.2f}]".format(**found)


def row_of(page: str, first: str) -> list[str]:
    """Cells of the page's only table row that begins with a cell."""
    (line,) = (line for line in page.splitlines() if line.startswith(f"| {first} |"))
    return [cell.strip(" |") for cell in line.split(" | ")]


def compared(network: str, target: float) -> dict[str, Any]:
    """Method -> its row in the comparison of published methods on Fashion-MNIST."""
    rows = result(f"compare_fashion_{network}/comparison.json")["rows"]
    return {row["method"]: row for row in rows if row["target"] == target}
