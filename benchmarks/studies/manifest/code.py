"""Code that a command runs: every module it can import, as digests a room.

A result is as old as the code that made it. Modules are found by reading sources, not by importing them: imports at the
top and inside functions, names of a room's face, and texts that name a module, as registries have them. Faces hold no
code; docstrings, comments and empty lines decide nothing. None of them counts.
"""

from __future__ import annotations

import ast
import functools
import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path

FLOORS = ("hessian", "prune_gym", "agents", "baselines", "benchmarks")
DIGITS = 12
"""Hexadecimal digits that are kept of a digest."""


class Sources:
    """The modules below a checkout, as they are when they are first asked for: every file is read once.

    Args:
        root: folder of the packages.
    """

    def __init__(self, root: Path) -> None:
        self._files: dict[str, Path] = {}
        self._faces: dict[str, Path] = {}
        self._rooms: dict[str, list[str]] = {}
        for floor in FLOORS:
            for path in sorted((root / floor).rglob("*.py")):
                name = ".".join(path.relative_to(root).with_suffix("").parts)
                face = path.name == "__init__.py"
                (self._faces if face else self._files)[name.removesuffix(".__init__")] = path
        for name in self._files:
            self._rooms.setdefault(name.rpartition(".")[0], []).append(name)
        self._read = functools.cache(self._read_module)
        self._names = functools.cache(self._read_face)

    def closure(self, entries: Iterable[str]) -> list[str]:
        """Names of all modules that modules can import, themselves included, sorted; unknown names are left out."""
        found: set[str] = set()
        waiting = [name for name in entries if name in self._files]
        while waiting:
            name = waiting.pop()
            if name not in found:
                found.add(name)
                waiting += self._read(name)[0] - found
        return sorted(found)

    def digests(self, entries: Iterable[str]) -> dict[str, str]:
        """Room -> digest of those of its modules that modules can import."""
        rooms: dict[str, list[str]] = {}
        for name in self.closure(entries):
            rooms.setdefault(name.rpartition(".")[0], []).append(f"{name}\n{self._read(name)[1]}")
        return {room: hashlib.sha256("\0".join(texts).encode()).hexdigest()[:DIGITS] for room, texts in rooms.items()}

    def _read_module(self, name: str) -> tuple[frozenset[str], str]:
        """Names of the modules that a module can import, and its lines that count."""
        text = self._files[name].read_text(encoding="utf-8")
        nodes = list(ast.walk(ast.parse(text)))
        return frozenset(self._files.keys() & set(self._named(name, nodes))), _that_counts(text, nodes)

    def _named(self, module: str, nodes: Iterable[ast.AST]) -> Iterator[str]:
        """Modules that the code of a module names in any way, and names that are none."""
        packages = [".".join(module.split(".")[:end]) for end in range(1, module.count(".") + 1)]
        for node in nodes:
            if isinstance(node, ast.Import):
                yield from (alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module:
                yield node.module
                face = self._names(node.module)
                yield from (face.get(alias.name, f"{node.module}.{alias.name}") for alias in node.names)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value != "__main__":
                yield from (f"{package}.{node.value}" for package in packages)
                yield node.value
                if node.value.endswith("."):  # the beginning of a name that is put together
                    yield from self._rooms.get(node.value[:-1], ())

    def _read_face(self, module: str) -> dict[str, str]:
        """Name -> module that the face of a room takes it from; none of what is no face."""
        found: dict[str, str] = {}
        if module in self._faces:
            for node in ast.walk(ast.parse(self._faces[module].read_bytes())):
                if isinstance(node, ast.ImportFrom) and node.module:
                    for alias in node.names:
                        found.setdefault(alias.name, node.module)
        return found


def _that_counts(text: str, nodes: Iterable[ast.AST]) -> str:
    """Lines of a source but docstrings, comments that stand alone, and empty lines."""
    described = {
        line
        for node in nodes
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        for line in range(node.lineno, (node.end_lineno or node.lineno) + 1)
    }
    lines = enumerate(text.splitlines(), start=1)
    return "\n".join(
        line for number, line in lines if number not in described and line.strip() and not line.lstrip().startswith("#")
    )
