"""Networks of the bench: all that an environment needs to know of them, in one file of arrays and JSON.

The file is safetensors. Of a network ``NAME`` it holds ``NAME/units`` int64 [L], ``NAME/curves`` float32 [sum of units]
(the curves of the layers, one behind the other), ``NAME/features`` float64 [L, F] in the order of
:data:`prune_gym.problem.features.FEATURES`, unstandardised, ``NAME/flops_form`` and ``NAME/params_form`` float64
[1 + L + L * L], ``NAME/dense`` float64 [6], ``NAME/surrogate/...`` and, where reference plans are known,
``NAME/reference/targets`` float64 [T] and ``NAME/reference/plans`` int64 [T, L]. The metadata has the version of the
format, the digest of everything else, and one JSON text that says what the arrays do not.
"""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hessian.support.files import CHECKSUM_KEY, sha256_of, sorted_header, write_atomic
from hessian.support.names import unknown
from prune_gym.bench.cost import packed, unpacked
from prune_gym.bench.description import SPLITS, Description, described
from prune_gym.bench.surrogate import Surrogate
from prune_gym.cost.limits import FloatArray, IntArray
from prune_gym.cost.quadratic import QuadraticCost
from prune_gym.problem.features import FEATURES

FORMAT = "prune-bench-networks-1"
"""Version of the file's format, in its metadata."""

NETWORKS_FILE = Path(__file__).resolve().parents[1] / "assets" / "bench" / "networks.safetensors"
"""Networks of the package."""

Arrays = Mapping[str, NDArray[Any]]


@dataclass(frozen=True, eq=False)
class BenchNetwork:
    """A trained network as the bench knows it.

    Attributes:
        description: what it is: name, kind, split, layers, recipe.
        units: int64 [L], units of every layer.
        curves: a float64 array [units] a layer: predicted loss increase (nats) after removing the first k units.
        features: float64 [L, F], raw features in the order of :data:`prune_gym.problem.features.FEATURES`.
        flops_form: the FLOPs as a form of the kept counts.
        params_form: the parameters.
        dense: float64 [6], accuracy, soft accuracy and loss of the unpruned network on the reward split, then on test.
        surrogate: what plans are expected to measure; None while it is not fitted.
        references: target FLOPs reduction -> the best plan known there, int64 [L]; by the surrogate.

    Raises:
        ValueError: arrays that do not fit each other, or numbers out of their range.
    """

    description: Description
    units: IntArray
    curves: tuple[FloatArray, ...]
    features: FloatArray
    flops_form: QuadraticCost
    params_form: QuadraticCost
    dense: FloatArray
    surrogate: Surrogate | None = None
    references: Mapping[float, IntArray] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _check(self)

    @property
    def name(self) -> str:
        """Name, as in ``task="bench/NAME"``."""
        return self.description.name

    @property
    def split(self) -> str:
        """Split it belongs to, ``"train"``, ``"validation"`` or ``"test"``."""
        return self.description.split

    @property
    def num_layers(self) -> int:
        """Number of prunable layers L."""
        return len(self.units)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """The arrays of the file, by their names in it."""
        arrays: dict[str, NDArray[Any]] = {
            "units": self.units.astype(np.int64),
            "curves": np.concatenate(self.curves).astype(np.float32),
            "features": self.features.astype(np.float64),
            "flops_form": packed(self.flops_form),
            "params_form": packed(self.params_form),
            "dense": self.dense.astype(np.float64),
        }
        if self.surrogate is not None:
            arrays |= {f"surrogate/{key}": array for key, array in self.surrogate.arrays().items()}
        if self.references:
            arrays["reference/targets"] = np.array(sorted(self.references))
            arrays["reference/plans"] = np.stack([self.references[target] for target in sorted(self.references)])
        return {f"{self.name}/{key}": array for key, array in arrays.items()}

    @classmethod
    def of_arrays(cls, description: Description, arrays: Arrays) -> BenchNetwork:
        """A network back from :meth:`arrays`, without the name in front.

        Raises:
            KeyError: an array is missing.
            ValueError: arrays that do not fit each other.
        """
        units = arrays["units"].astype(np.int64)
        layers = len(units)
        if arrays["curves"].shape != (int(units.sum()),):
            raise ValueError(f"curves have shape {arrays['curves'].shape}; one entry a unit is needed, {units.sum()}")
        for name in ("flops_form", "params_form"):
            if arrays[name].shape != (1 + layers + layers * layers,):
                raise ValueError(f"{name} has shape {arrays[name].shape}, which does not fit {layers} layers")
        surrogate = {key.removeprefix("surrogate/"): array for key, array in arrays.items() if "surrogate/" in key}
        curves = tuple(np.split(arrays["curves"].astype(np.float64), units.cumsum()[:-1]))
        return cls(
            description,
            units,
            curves,
            arrays["features"],
            unpacked(arrays["flops_form"], layers),
            unpacked(arrays["params_form"], layers),
            arrays["dense"],
            Surrogate.restore(curves, surrogate) if surrogate else None,
            dict(zip(arrays["reference/targets"].tolist(), arrays["reference/plans"], strict=True))
            if "reference/targets" in arrays
            else {},
        )


def _check(network: BenchNetwork) -> None:
    layers = len(network.units)

    def need(fits: Any, what: str) -> None:
        if not fits:
            raise ValueError(f"network {network.name!r}: {what}")

    need(len(network.description.layer_names) == layers, f"needs one layer name for each of its {layers} layers")
    need((network.units >= 2).all(), "a prunable layer has at least 2 units")
    lengths = [len(curve) for curve in network.curves]
    need(lengths == network.units.tolist(), "a curve has one entry a unit of its layer")
    for curve in network.curves:
        need(np.isfinite(curve).all() and curve[0] >= 0.0 and (np.diff(curve) >= 0.0).all(), "a curve does not rise")
    need(network.features.shape == (layers, len(FEATURES)), f"features have shape [{layers}, {len(FEATURES)}]")
    need(np.isfinite(network.features).all(), "features are finite numbers")
    for form in (network.flops_form, network.params_form):
        flat = packed(form)
        need(
            flat.shape == (1 + layers + layers * layers,) and np.isfinite(flat).all(), "a cost does not fit the layers"
        )
        need(np.array_equal(form.pairwise, form.pairwise.T), "the pairwise part of a cost is symmetric")
        need(form(network.units) > 0.0, "a network costs something")
    need(network.dense.shape == (6,) and np.isfinite(network.dense).all(), "dense has six finite entries")
    shares = network.dense[[0, 1, 3, 4]]
    need(((shares >= 0.0) & (shares <= 1.0)).all() and (network.dense >= 0.0).all(), "accuracies lie in [0, 1]")
    for target, plan in network.references.items():
        need(0.0 < target < 1.0 and plan.shape == (layers,), "a reference is a plan at a target in (0, 1)")
        need(((plan >= 1) & (plan <= network.units)).all(), "a reference plan keeps 1 to all units")


def write_networks(path: str | os.PathLike[str], networks: Iterable[BenchNetwork]) -> Path:
    """Write networks to a file, whole or not at all; equal networks give equal bytes.

    Args:
        path: file to write, by convention ``networks.safetensors``.
        networks: of different names; sorted by name in the file.

    Returns:
        The path written.

    Raises:
        ValueError: two networks of one name, or none at all.
    """
    from safetensors import numpy as safetensors_numpy

    ordered = sorted(networks, key=lambda network: network.name)
    names = [network.name for network in ordered]
    if not names or len(set(names)) != len(names):
        raise ValueError(f"a file holds at least one network, each under a name of its own; got {names}")
    arrays = {key: np.array(array, order="C") for network in ordered for key, array in network.arrays().items()}
    text = json.dumps([network.description.model_dump(mode="json") for network in ordered], sort_keys=True)
    metadata = {"format": FORMAT, "networks": text}
    metadata[CHECKSUM_KEY] = digest(arrays, metadata)
    return write_atomic(path, sorted_header(safetensors_numpy.save(arrays, metadata)))


def load_networks(path: str | os.PathLike[str] | None = None) -> Mapping[str, BenchNetwork]:
    """The networks of a file by name, verified; a file is read once.

    Args:
        path: file of :func:`write_networks`; None means the package's.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is damaged, of another format, or says something that cannot be.
    """
    return _load(str(Path(path).resolve()) if path is not None else str(NETWORKS_FILE))


@functools.lru_cache(maxsize=4)
def _load(path: str) -> Mapping[str, BenchNetwork]:
    arrays, metadata = _read(path)
    networks = {}
    for description in described(metadata["networks"], path):
        start = f"{description.name}/"
        own = {key.removeprefix(start): array for key, array in arrays.items() if key.startswith(start)}
        try:
            networks[description.name] = BenchNetwork.of_arrays(description, own)
        except KeyError as error:
            raise ValueError(f"{path}: network {description.name!r} has no array {error}") from error
        except (ValueError, TypeError, IndexError, OverflowError) as error:
            raise ValueError(f"{path}: the arrays of network {description.name!r} do not fit ({error})") from error
    return networks


def clear_networks() -> None:
    """Forget the files that were read, so that the next reader sees what was written since."""
    _load.cache_clear()


def _read(path: str) -> tuple[dict[str, NDArray[Any]], dict[str, str]]:
    import safetensors
    from safetensors import numpy as safetensors_numpy

    if not Path(path).is_file():
        raise FileNotFoundError(f"no networks of the bench at {path}; python -m benchmarks.studies.bench makes them")
    data = Path(path).read_bytes()
    try:
        arrays = safetensors_numpy.load(data)
        size = int.from_bytes(data[:8], "little")
        metadata = json.loads(data[8 : 8 + size]).get("__metadata__") or {}
    except (safetensors.SafetensorError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"{path} ({len(data):,} bytes) is truncated or not a safetensors file ({error})") from error
    expected = metadata.pop(CHECKSUM_KEY, None)
    if metadata.get("format") != FORMAT or "networks" not in metadata:
        raise ValueError(f"{path} is not in the format {FORMAT}; its metadata says {metadata.get('format')!r}")
    if expected != digest(arrays, metadata):
        raise ValueError(f"{path} does not match its checksum: it was changed or damaged")
    return arrays, metadata


def digest(arrays: Arrays, metadata: Mapping[str, str]) -> str:
    """Digest of arrays, by name, shape, dtype and bytes, and of the text with them; 64 hexadecimal digits."""
    content = {name: [str(array.dtype), list(array.shape), array.tobytes()] for name, array in arrays.items()}
    return sha256_of(content, metadata)


def network_names(split: str | None = None, path: str | os.PathLike[str] | None = None) -> list[str]:
    """Names of the networks, sorted.

    Args:
        split: ``"train"``, ``"validation"`` or ``"test"``; None means all.
        path: see :func:`load_networks`.

    Raises:
        ValueError: no such split.
    """
    if split is not None and split not in SPLITS:
        raise ValueError(unknown("split", split, SPLITS))
    return sorted(name for name, network in load_networks(path).items() if split in (None, network.split))


def bench_network(name: str, path: str | os.PathLike[str] | None = None) -> BenchNetwork:
    """One network by its name.

    Raises:
        KeyError: there is none; the nearest name is suggested.
    """
    networks = load_networks(path)
    if name not in networks:
        raise KeyError(unknown("network of the bench", name, sorted(networks)))
    return networks[name]
