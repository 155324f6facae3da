"""Code that a command runs: every module it can import, as digests a room.

A result is as old as the code that made it. Modules are found by reading sources, not by importing them: imports at the
top and inside functions, names of a room's face, and texts that name a module, as registries have them. Faces hold no
code; docstrings, comments and empty lines decide nothing. None of them counts.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path

FLOORS = ("hessian", "prune_gym", "agents", "baselines", "benchmarks")
DIGITS = 12
"""Hexadecimal digits that are kept of a digest."""


class Sources:
    """The modules below a checkout.

    Args:
        root: folder of the packages.
    """

    def __init__(self, root: Path) -> None:
        self._files: dict[str, Path] = {}
        self._faces: dict[str, Path] = {}
        self._imported: dict[str, set[str]] = {}
        for floor in FLOORS:
            for path in sorted((root / floor).rglob("*.py")):
                name = ".".join(path.relative_to(root).with_suffix("").parts)
                face = path.name == "__init__.py"
                (self._faces if face else self._files)[name.removesuffix(".__init__")] = path

    def closure(self, entries: Iterable[str]) -> list[str]:
        """Names of all modules that modules can import, themselves included, sorted; unknown names are left out."""
        found: set[str] = set()
        waiting = [name for name in entries if name in self._files]
        while waiting:
            name = waiting.pop()
            if name not in found:
                found.add(name)
                waiting += self._imports(name) - found
        return sorted(found)

    def digests(self, entries: Iterable[str]) -> dict[str, str]:
        """Room -> digest of those of its modules that modules can import."""
        rooms: dict[str, list[str]] = {}
        for name in self.closure(entries):
            rooms.setdefault(name.rpartition(".")[0], []).append(f"{name}\n{_that_counts(self._files[name])}")
        return {room: hashlib.sha256("\0".join(texts).encode()).hexdigest()[:DIGITS] for room, texts in rooms.items()}

    def _imports(self, name: str) -> set[str]:
        if name not in self._imported:
            named = self._named(name, ast.parse(self._files[name].read_bytes()))
            self._imported[name] = {found for found in named if found in self._files}
        return self._imported[name]

    def _named(self, module: str, tree: ast.Module) -> Iterator[str]:
        """Modules that the code of a module names in any way, and names that are none."""
        packages = [".".join(module.split(".")[:end]) for end in range(1, module.count(".") + 1)]
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                yield from (alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module:
                yield node.module
                yield from (self._defining(node.module, alias.name) for alias in node.names)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value != "__main__":
                yield from (f"{package}.{node.value}" for package in packages)
                yield node.value
                if node.value.endswith("."):  # the beginning of a name that is put together
                    yield from (name for name in self._files if name.rpartition(".")[0] == node.value[:-1])

    def _defining(self, module: str, name: str) -> str:
        """The module behind an imported name: one of that name, or the one that a face takes the name from."""
        if module in self._faces:
            for node in ast.walk(ast.parse(self._faces[module].read_bytes())):
                if isinstance(node, ast.ImportFrom) and node.module and any(alias.name == name for alias in node.names):
                    return node.module
        return f"{module}.{name}"


def _that_counts(path: Path) -> str:
    """Lines of a source file but docstrings, comments that stand alone, and empty lines."""
    text = path.read_text(encoding="utf-8")
    described = {
        line
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        for line in range(node.lineno, (node.end_lineno or node.lineno) + 1)
    }
    lines = enumerate(text.splitlines(), start=1)
    return "\n".join(
        line for number, line in lines if number not in described and line.strip() and not line.lstrip().startswith("#")
    )
