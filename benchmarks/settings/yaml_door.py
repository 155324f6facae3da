"""The one door for YAML: text in, plain values out, or an error that names the line and the column.

YAML can say more than configurations need. What can only be a mistake or an attack is refused before anything is built:
aliases that multiply to millions of values or contain themselves, nesting without end, tags of other types, numbers of
thousands of digits.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import yaml

from benchmarks.common.errors import InputError

KeyPath = tuple[str | int, ...]

MOST_BYTES = 1 << 20
"""Of a configuration; the longest shipped one has 4 kB."""

MOST_VALUES = 20_000
"""In a configuration, every use of an alias counted."""

DEEPEST = 40
"""Sections and lists inside each other."""

LONGEST_NUMBER = 400
"""Digits of a number; a float has 309 before its point."""

_PLAIN = {f"tag:yaml.org,2002:{name}" for name in ("str", "int", "float", "bool", "null", "map", "seq")}


class ConfigError(InputError):
    """A configuration that cannot be used; the message says where and what to write instead."""


def dotted(path: KeyPath) -> str:
    """Return a key path as people write it: ``("a", "b", 0)`` -> ``"a.b[0]"``."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


class _Loader(yaml.SafeLoader):
    """SafeLoader that reads ``3e-4`` as a number (YAML 1.2) and leaves dates alone."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, regexp) for tag, regexp in resolvers if not tag.endswith((":float", ":timestamp"))]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?((\.[0-9]+|[0-9]+\.[0-9]*)([eE][-+]?[0-9]+)?|[0-9]+[eE][-+]?[0-9]+|\.(inf|nan))$", re.I),
    list("-+0123456789."),
)


def read_yaml(text: str, name: str, found: Callable[[KeyPath, str], None] | None = None) -> Any:
    """Values of a YAML document: dicts, lists and scalars; None for an empty one.

    Args:
        text: the document.
        name: what to call it in messages.
        found: told every key path and where it stands ("demo.yaml, line 7").

    Raises:
        ConfigError: broken YAML, a key twice, a key that is no word, or one of the things this door keeps out; the
            message has the line and the column.
    """
    if len(text) > MOST_BYTES:
        raise ConfigError(f"{name}: {len(text):,} characters; a configuration has at most {MOST_BYTES:,}")
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
    except yaml.YAMLError as error:
        raise ConfigError(f"{name}: not valid YAML: {_describe(error, text)}") from None
    except RecursionError:
        raise ConfigError(f"{name}: not valid YAML: lists or sections inside each other without end") from None
    except (ValueError, LookupError, OverflowError) as error:  # escapes of characters that there are none of
        raise ConfigError(f"{name}: not valid YAML: {error}") from None
    if node is None:
        return None
    return _Builder(loader, name, found or (lambda path, where: None)).build(node, ())


@dataclass
class _Builder:
    """Builds the values of one document, counting what it builds."""

    loader: _Loader
    name: str
    found: Callable[[KeyPath, str], None]
    values: int = 0
    open_nodes: set[int] = field(default_factory=set)

    def build(self, node: yaml.Node, path: KeyPath) -> Any:
        """The value of a node."""
        self.values += 1
        if self.values > MOST_VALUES:
            raise self._error(node, f"more than {MOST_VALUES:,} values, aliases counted where they are used")
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node)
        if node.tag not in _PLAIN:
            raise self._error(node, f"the tag {node.tag!r} means nothing here; leave it out")
        if id(node) in self.open_nodes:
            raise self._error(node, "an alias of a section or list that it stands in")
        if len(self.open_nodes) >= DEEPEST:
            raise self._error(node, f"more than {DEEPEST} sections or lists inside each other")
        self.open_nodes.add(id(node))
        try:
            return self._mapping(node, path) if isinstance(node, yaml.MappingNode) else self._list(node, path)
        finally:
            self.open_nodes.discard(id(node))

    def _list(self, node: yaml.Node, path: KeyPath) -> list[Any]:
        values = []
        for index, child in enumerate(node.value):
            here = (*path, index)
            self.found(here, self._line(child))
            values.append(self.build(child, here))
        return values

    def _mapping(self, node: yaml.MappingNode, path: KeyPath) -> dict[str, Any]:
        mapping: dict[str, Any] = {}
        first: dict[str, str] = {}
        for key_node, value_node in node.value:
            key = self._scalar(key_node) if isinstance(key_node, yaml.ScalarNode) else None
            if not isinstance(key, str):
                shown = repr(key) if isinstance(key_node, yaml.ScalarNode) else "a section or list"
                raise self._error(key_node, f"keys are words, got {shown}")
            here: KeyPath = (*path, key)
            if key in mapping:
                raise self._error(key_node, f"the key {dotted(here)!r} stands here a second time (first: {first[key]})")
            first[key] = self._line(key_node)
            self.found(here, first[key])
            mapping[key] = self.build(value_node, here)
        return mapping

    def _scalar(self, node: yaml.ScalarNode) -> Any:
        kind = node.tag.rpartition(":")[2]
        if node.tag not in _PLAIN:
            raise self._error(node, f"the tag {node.tag!r} means nothing here; leave it out")
        if kind in ("int", "float") and len(node.value) > LONGEST_NUMBER:
            raise self._error(node, f"a number of {len(node.value):,} digits")
        try:
            return self.loader.construct_object(node)
        except (yaml.YAMLError, ValueError, LookupError, TypeError, AttributeError, OverflowError):
            raise self._error(node, f"{node.value!r} is no {kind}; write it in quotes if it is a word") from None

    def _line(self, node: yaml.Node) -> str:
        return f"{self.name}, line {node.start_mark.line + 1}"

    def _error(self, node: yaml.Node, what: str) -> ConfigError:
        return ConfigError(f"{self._line(node)}, column {node.start_mark.column + 1}: {what}")


def _describe(error: yaml.YAMLError, text: str) -> str:
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        mark = error.problem_mark
        return f"line {mark.line + 1}, column {mark.column + 1}: {error.problem}"
    if isinstance(error, yaml.reader.ReaderError):
        before = text[: error.position]
        line, column = before.count("\n") + 1, len(before) - before.rfind("\n")
        return f"line {line}, column {column}: the character {text[error.position]!r} ({error.reason})"
    return str(error)
