"""The documentation as its tests see it: pages with their code blocks, links and headings."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = (ROOT / "README.md", *sorted(DOCS.glob("*.md")))

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```", flags=re.DOTALL | re.MULTILINE)
_LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")


def code_blocks(page: Path, language: str = "python") -> list[str]:
    """The page's code blocks of a language, in order."""
    return [code for kind, code in _FENCE.findall(page.read_text(encoding="utf-8")) if kind == language]


def run_page(page: Path) -> dict[str, Any]:
    """Run the page's Python blocks in order and as they stand, in one namespace, which is returned."""
    return run_blocks(code_blocks(page), page.name)


def run_blocks(blocks: list[str], name: str) -> dict[str, Any]:
    """Run blocks of Python in order, in one namespace, which is returned."""
    namespace: dict[str, Any] = {"__name__": f"page_{name}"}
    for block in blocks:
        exec(compile(block, name, "exec"), namespace)
    return namespace


def prose(page: Path) -> str:
    """The page without its code blocks."""
    return _FENCE.sub("", page.read_text(encoding="utf-8"))


def links(page: Path) -> list[str]:
    """Targets of the page's links and pictures, those to other sites and those that are shown as code left out."""
    shown = re.sub(r"`[^`\n]*`", "", prose(page))
    return [target for target in _LINK.findall(shown) if not re.match(r"\w+:", target)]


def anchors(page: Path) -> set[str]:
    """Anchors of the page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", prose(page), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}
