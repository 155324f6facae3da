"""Reading a run's configuration: one typed tree, validated once at the door.

An unknown or ill-typed key is an error that names the key's path, where it was set, and the nearest valid key.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TypeVar

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from benchmarks.settings.methods import method_names
from benchmarks.settings.names import is_method, is_task, known_tasks
from benchmarks.settings.schema import Config, PruningConfig, Section
from benchmarks.settings.source import ConfigError, ConfigSource, KeyPath, dotted
from hessian.support.names import unknown

__all__ = [
    "Config",
    "ConfigError",
    "ConfigFile",
    "PruningConfig",
    "load_config",
    "nearest_key",
    "parse_config",
    "valid_keys",
    "validate_config",
    "validate_tree",
]


Tree = TypeVar("Tree", bound=BaseModel)
File = TypeVar("File", bound="ConfigFile")


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Read, override and validate a configuration file.

    Args:
        path: YAML file, or the name of a shipped one.
        overrides: ``KEY=VALUE`` strings with dotted keys, applied in order.

    Raises:
        FileNotFoundError: no such file; the message lists those that exist.
        ConfigError: everything wrong with the keys and values, one line each.
    """
    source = ConfigSource.from_file(path)
    source.override(overrides)
    return validate_config(source)


def parse_config(text: str, overrides: Sequence[str] = (), name: str = "configuration") -> Config:
    """Like :func:`load_config`, for YAML text."""
    source = ConfigSource.from_yaml(text, name=name)
    source.override(overrides)
    return validate_config(source)


def validate_config(source: ConfigSource) -> Config:
    """Turn a parsed tree into the typed one.

    Raises:
        ConfigError: one line for each unknown, missing or ill-typed key, with where it was set.
    """
    config = validate_tree(source, Config)
    _check_choices(config, source)
    return config


def validate_tree(source: ConfigSource, root: type[Tree]) -> Tree:
    """Turn a parsed tree into a typed one of any kind.

    Args:
        source: the parsed tree.
        root: the type of the whole.

    Raises:
        ConfigError: one line for each unknown, missing or ill-typed key, with where it was set.
    """
    try:
        return root.model_validate(source.tree)
    except ValidationError as error:
        raise ConfigError("\n".join(_explain(detail, source, root) for detail in error.errors())) from None


class ConfigFile(Section):
    """Base of configurations that are files of their own, such as those of sweeps and studies."""

    @classmethod
    def load(cls: type[File], path: str | Path, overrides: Sequence[str] = ()) -> File:
        """Read, override and validate a file.

        Args:
            path: YAML file.
            overrides: ``KEY=VALUE`` strings with dotted keys, applied in order.

        Raises:
            FileNotFoundError: no such file.
            ConfigError: everything wrong with the keys and values, one line each.
        """
        source = ConfigSource.from_file(path)
        source.override(overrides)
        tree = validate_tree(source, cls)
        found = list(tree.problems(source))
        if found:
            raise ConfigError("\n".join(source.blamed(problem) for problem in found))
        return tree

    def problems(self, source: ConfigSource) -> Iterable[str]:
        """Return a sentence for everything wrong with the values that types cannot say.

        Args:
            source: where they were read from.
        """
        return ()

    def to_yaml(self) -> str:
        """The resolved configuration as YAML."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)


def valid_keys(section: type[BaseModel] = Config, prefix: KeyPath = ()) -> list[KeyPath]:
    """Return the path of every key of the tree, sections before what they hold."""
    paths: list[KeyPath] = []
    for name, info in section.model_fields.items():
        paths.append((*prefix, name))
        if isinstance(info.annotation, type) and issubclass(info.annotation, BaseModel):
            paths.extend(valid_keys(info.annotation, (*prefix, name)))
    return paths


def nearest_key(path: KeyPath, root: type[BaseModel] = Config) -> KeyPath | None:
    """Return the valid key someone who wrote ``path`` most likely meant, or None if nothing is near.

    A misspelling in the same section wins; then the same or a similar word in another section.
    """
    keys = valid_keys(root)
    leaf = str(path[-1])
    siblings = {str(key[-1]): key for key in keys if key[:-1] == path[:-1]}
    close = difflib.get_close_matches(leaf, siblings, n=1, cutoff=0.6)
    if close:
        return siblings[close[0]]
    elsewhere: dict[str, KeyPath] = {}
    for key in keys:
        elsewhere.setdefault(str(key[-1]), key)
    close = difflib.get_close_matches(leaf, elsewhere, n=1, cutoff=0.7)
    return elsewhere[close[0]] if close else None


def _check_choices(config: Config, source: ConfigSource) -> None:
    """Refuse a method or a task that does not exist, before anything is loaded.

    Raises:
        ConfigError: there is no such method or task; the message has those there are.
    """
    problems = []
    if not is_method(config.pruning.method):
        where = source.origin(("pruning", "method"))
        problems.append(f"{where}: {unknown('method', config.pruning.method, method_names(), 'methods')}")
    if not is_task(config.task_name):
        where = source.origin(("model", "name"))
        problems.append(
            f"{where}: dataset.name and model.name together name the task: "
            f"{unknown('task', config.task_name, known_tasks(), 'tasks')}"
        )
    if problems:
        raise ConfigError("\n".join(problems))


def _explain(detail: ErrorDetails, source: ConfigSource, root: type[BaseModel]) -> str:
    path: KeyPath = tuple(detail["loc"])
    key, where = dotted(path), source.origin(path)
    if detail["type"] == "extra_forbidden":
        near = nearest_key(path, root)
        siblings = ", ".join(str(key[-1]) for key in valid_keys(root) if key[:-1] == path[:-1])
        hint = f"did you mean {dotted(near)!r}? " if near else ""
        return f"{where}: unknown key {key!r}; {hint}(keys here: {siblings})"
    if detail["type"] == "missing":
        return f"{where}: the key {key!r} is missing"
    if detail["type"] in ("model_type", "model_attributes_type"):
        inside = ", ".join(str(known[-1]) for known in valid_keys(root) if known[:-1] == path)
        return f"{where}: {key!r} must be a section with the keys {inside}, got {detail['input']!r}"
    message = detail["msg"].removeprefix("Value error, ").replace("Input should be", "must be")
    given = "" if "got" in message else f", got {detail['input']!r}"
    return f"{where}: {key!r} {message[0].lower()}{message[1:]}{given}"
