"""Sources of a configuration: YAML files that extend each other plus ``KEY=VALUE`` overrides, with origins.

YAML forgets where a value stood once it is parsed. Here the parsed tree keeps, for each key path, the line of
the file (or the override) that set it, so that an error about ``pruning.rspar.num_episodes`` can say "line 12".
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.settings.yaml_door import ConfigError, KeyPath, dotted, read_yaml

__all__ = ["EXTENDS", "ConfigError", "ConfigSource", "KeyPath", "Override", "dotted"]

EXTENDS = "extends"
"""Key of the file a configuration is laid over, relative to the folder of the file that names it."""


class Override(str):
    """A ``KEY=VALUE`` text that an option of the command line stands for; messages name the option.

    Attributes:
        option: what was written on the command line, such as ``"--seed 3"``.
    """

    option: str

    @classmethod
    def of(cls, option: str, key: str, value: str) -> Override:
        """The override that an option means.

        Args:
            option: as written.
            key: dotted key.
            value: as YAML.
        """
        override = cls(f"{key}={value}")
        override.option = option
        return override


@dataclass
class ConfigSource:
    """A configuration tree before validation.

    Attributes:
        tree: nested dicts, lists and scalars.
        origins: for each key path set by somebody, who set it: ``"demo.yaml, line 7"``, ``"override 'a.b=1' on the
            command line"``, ``"--seed 3"``.
        name: what to call the whole in messages, usually the file.
    """

    tree: dict[str, Any]
    origins: dict[KeyPath, str] = field(default_factory=dict)
    name: str = "configuration"

    def origin(self, path: KeyPath) -> str:
        """Return who set ``path``, or its nearest ancestor that somebody set."""
        for length in range(len(path), 0, -1):
            if path[:length] in self.origins:
                return self.origins[path[:length]]
        return self.name

    @classmethod
    def from_yaml(cls, text: str, name: str = "configuration") -> ConfigSource:
        """Parse YAML text.

        Args:
            text: the YAML document; an empty one gives an empty tree.
            name: what to call it in messages, usually the file's path.

        Raises:
            ConfigError: broken YAML, a top level that is no mapping, a key twice, or a key that is no string.
        """
        source = cls(tree={}, name=name)
        tree = read_yaml(text, name, source.origins.__setitem__)
        if tree is not None and not isinstance(tree, dict):
            raise ConfigError(f"{name}: expected a mapping of sections at the top level, got {tree!r}")
        source.tree = tree or {}
        return source

    @classmethod
    def from_file(cls, path: str | Path) -> ConfigSource:
        """Parse a YAML file and, below it, the one it ``extends``, and so on.

        Args:
            path: the file, or the name of a shipped one.

        Raises:
            FileNotFoundError: no such file; the message lists the YAML files beside it and the shipped ones.
            ConfigError: see :meth:`from_yaml`; or files that extend each other in a circle, or one that is not there.
        """
        from benchmarks.configs.files import found_config

        return cls._from_chain(found_config(path), ())

    @classmethod
    def _from_chain(cls, path: Path, above: tuple[Path, ...]) -> ConfigSource:
        if not path.is_file():
            raise FileNotFoundError(_missing_file(path))
        try:
            source = cls.from_yaml(path.read_text(encoding="utf-8"), name=str(path))
        except UnicodeDecodeError as error:
            raise ConfigError(f"{path}: not a text file in UTF-8: {error}") from None
        if EXTENDS not in source.tree:
            return source
        base, where = source.tree.pop(EXTENDS), source.origins.pop((EXTENDS,))
        if not isinstance(base, str) or not base:
            raise ConfigError(f"{where}: {EXTENDS!r} names one file, relative to this one; got {base!r}")
        try:
            file = path.parent / Path(base).expanduser()
            file.resolve().is_file()
        except (RuntimeError, ValueError, OSError) as error:
            why = error.strerror if isinstance(error, OSError) else error
            raise ConfigError(f"{where}: {EXTENDS!r}: {base[:200]!r} is no path ({why})") from None
        chain = (*above, path.resolve())
        if file.resolve() in chain:
            circle = " -> ".join(str(link) for link in (*chain, file.resolve()))
            raise ConfigError(f"{where}: {EXTENDS!r} goes round in a circle: {circle}")
        try:
            found = cls._from_chain(file, chain)
        except FileNotFoundError as error:
            raise ConfigError(f"{where}: {EXTENDS!r}: {error}") from None
        found._lay(source)
        return found

    def _lay(self, over: ConfigSource) -> None:
        """Lay another source over this one: sections are joined key by key, everything else is replaced."""
        replaced = _merge(self.tree, over.tree)
        kept = {
            path: who
            for path, who in self.origins.items()
            if not any(path[: len(taken)] == taken and path != taken for taken in replaced)
        }
        self.origins = {**kept, **over.origins}
        self.name = over.name

    def blamed(self, problem: str) -> str:
        """A problem with who set the first key it names in quotes; the whole's name where it names none."""
        for word in re.findall(r"'([\w.]+)'", problem):
            path = tuple(word.split("."))
            if path in self.origins:
                return f"{self.origins[path]}: {problem}"
        return f"{self.name}: {problem}"

    def override(self, assignments: Sequence[str]) -> None:
        """Set keys from ``KEY=VALUE`` strings, e.g. ``pruning.target_flops_reduction=0.94``.

        The value is read as YAML, so ``true``, ``[1, 2]`` and ``null`` mean what they mean in the file.

        Raises:
            ConfigError: no ``=``, an empty key part, a value that is not YAML, or a key below a scalar.
        """
        for assignment in assignments:
            said = f"override {str(assignment)!r} on the command line"
            said = assignment.option if isinstance(assignment, Override) else said
            key, equals, value_text = assignment.partition("=")
            parts = key.strip().split(".")
            if not equals or not all(parts):
                raise ConfigError(
                    f"{said}: expected KEY=VALUE with a dotted key, e.g. pruning.target_flops_reduction=0.94"
                )
            self._set(tuple(parts), read_yaml(value_text, said), said)

    def _set(self, path: tuple[str, ...], value: Any, origin: str) -> None:
        section = self.tree
        for depth, part in enumerate(path[:-1], start=1):
            if section.get(part) is None:
                section[part] = {}
            if not isinstance(section[part], dict):
                raise ConfigError(f"{origin}: {dotted(path[:depth])!r} is {section[part]!r}, not a section")
            section = section[part]
        section[path[-1]] = value
        self.origins = {known: who for known, who in self.origins.items() if known[: len(path)] != path}
        self.origins[path] = origin


def _merge(below: dict[str, Any], above: dict[str, Any], path: KeyPath = ()) -> list[KeyPath]:
    """Change the tree below by the one above; returns the paths whose old value is gone."""
    replaced: list[KeyPath] = []
    for key, value in above.items():
        here = (*path, key)
        if isinstance(value, dict) and isinstance(below.get(key), dict):
            replaced += _merge(below[key], value, here)
        else:
            below[key] = value
            replaced.append(here)
    return replaced


def _missing_file(path: Path) -> str:
    from benchmarks.configs.files import CONFIG_DIR

    beside = sorted(str(other) for other in path.parent.glob("*.yaml")) if path.parent.is_dir() else []
    shipped = sorted(str(other) for other in CONFIG_DIR.glob("*.yaml"))
    found = ", ".join(dict.fromkeys([*beside, *shipped]))
    return f"no configuration file {str(path)!r}; available: {found}"
