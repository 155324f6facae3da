"""Facts about a saved network: the JSON manifest beside its weights, checked when it is read."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any, TypeAlias

from pydantic import TypeAdapter, ValidationError

from prune_gym.support.files import sha256_of, write_json_atomic
from prune_gym.surgery.sizes import ModuleSizes

FORMAT = "prune_gym.pruned_network"
FORMAT_VERSION = 1

PathLike: TypeAlias = str | os.PathLike[str]

LARGEST_SIZE = 10_000_000
"""Of one dimension of a tensor."""

LARGEST_ARGUMENT = 100_000
"""Whole number a factory is asked with: ImageNet-21k has 21,841 classes."""

_WEIGHTS_SUFFIX = ".safetensors"
_MANIFEST_SUFFIX = ".json"
_VERSIONED_PACKAGES = ("prune-gym", "torch", "torch-pruning", "safetensors")


@dataclass(frozen=True)
class Manifest:
    """Content of the JSON file beside the weights.

    Attributes:
        factory: Registered name of the dense network, or the name of the callable that built it.
        factory_registered: Whether ``factory`` is a registered name.
        factory_kwargs: Keyword arguments of the factory.
        modules: The channel table: module name -> sizes after pruning.
        kept: Layer name -> kept channel indices of the dense network; empty if not given on saving.
        metrics: Whatever was measured, as given on saving.
        versions: Library -> version that wrote the file.
        weights_sha256: Checksum of the safetensors file.
        weights_bytes: Size of the safetensors file.
    """

    factory: str
    factory_registered: bool
    factory_kwargs: dict[str, Any]
    modules: dict[str, ModuleSizes]
    weights_sha256: str
    weights_bytes: int
    kept: dict[str, list[int]] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)


def weights_path(path: PathLike) -> Path:
    """Return where the weights of a saved network are, whichever of its names is given."""
    return _named(path, _WEIGHTS_SUFFIX)


def manifest_path(path: PathLike) -> Path:
    """Return where the manifest of a saved network is, whichever of its names is given."""
    return _named(path, _MANIFEST_SUFFIX)


def write_manifest(path: PathLike, manifest: Manifest) -> None:
    """Write a manifest with a checksum of its own, whole or not at all.

    Raises:
        OSError: If the file cannot be written.
    """
    body = asdict(manifest)
    header = {"format": FORMAT, "format_version": FORMAT_VERSION, "manifest_sha256": sha256_of(body)}
    write_json_atomic(manifest_path(path), header | body)


def read_manifest(path: PathLike) -> Manifest:
    """Read and verify what is known about a saved network, without building it.

    Args:
        path: ``<stem>.safetensors`` (``<stem>.json`` and ``<stem>`` mean the same).

    Raises:
        FileNotFoundError: If there is no manifest.
        ValueError: If it is truncated, no manifest of a pruned network, of another version, or was changed after
            saving.
    """
    file = manifest_path(path)
    if not file.is_file():
        raise FileNotFoundError(f"no manifest {file}: a pruned network is two files, its weights and its manifest")
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file} is truncated or not JSON ({error}); save the network again") from error
    if not isinstance(content, dict) or content.pop("format", None) != FORMAT:
        raise ValueError(f"{file} is not the manifest of a pruned network (its format is not {FORMAT!r})")
    version = content.pop("format_version", None)
    if version != FORMAT_VERSION:
        raise ValueError(
            f"{file} has format version {version}, this version of prune-gym reads {FORMAT_VERSION}; "
            "load it with the version that wrote it"
        )
    if content.pop("manifest_sha256", None) != sha256_of(content):
        raise ValueError(f"{file} does not match its checksum: it was changed after saving")
    return _checked(file, content)


def _checked(file: Path, content: dict[str, Any]) -> Manifest:
    """The manifest, its types and sizes checked: a checksum says that nothing changed, not that it makes sense.

    Raises:
        ValueError: no manifest, or one of a network of absurd size.
    """
    try:
        manifest = TypeAdapter(Manifest).validate_json(json.dumps(content), strict=True)
    except ValidationError as error:
        detail = error.errors()[0]
        where = ".".join(map(str, detail["loc"]))
        raise ValueError(f"{file} is no manifest of a pruned network: {where!r}: {detail['msg']}") from None
    sizes = [size for module in manifest.modules.values() for shape in module.shapes.values() for size in shape]
    sizes += [size for module in manifest.modules.values() for size in _whole_numbers(module.attributes)]
    absurd = [size for size in sizes if not 1 <= size <= LARGEST_SIZE]
    absurd += [number for number in _whole_numbers(manifest.factory_kwargs) if abs(number) > LARGEST_ARGUMENT]
    if absurd:
        raise ValueError(f"{file} asks for a network of absurd size ({absurd[0]}); it cannot be one that was saved")
    return manifest


def _whole_numbers(value: Any) -> Iterator[int]:
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        for entry in value:
            yield from _whole_numbers(entry)
    elif isinstance(value, int) and not isinstance(value, bool):
        yield value


def as_json(what: str, mapping: Mapping[str, Any]) -> dict[str, Any]:
    """Return a mapping as JSON will give it back (tuples become lists).

    Args:
        what: Its name, for messages.
        mapping: Anything JSON can say.

    Raises:
        TypeError: If it holds something JSON cannot say.
        ValueError: If it holds NaN or an infinity.
    """
    try:
        plain: dict[str, Any] = json.loads(json.dumps(dict(mapping), allow_nan=False))
    except TypeError as error:
        raise TypeError(f"{what} must be JSON-able (text, numbers, booleans, None, lists, dicts): {error}") from error
    except ValueError as error:
        raise ValueError(f"{what} must not hold NaN or infinite numbers, which JSON cannot say") from error
    return plain


def _named(path: PathLike, ending: str) -> Path:
    path = Path(path)
    name = path.name
    for suffix in (_WEIGHTS_SUFFIX, _MANIFEST_SUFFIX):
        name = name.removesuffix(suffix)
    return path.with_name(name + ending)


def library_versions() -> dict[str, str]:
    """Return the versions of Python and of the libraries a saved network may depend on."""
    versions = {"python": platform.python_version()}
    for package in _VERSIONED_PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = "not installed"  # run from a source folder
    return versions
