"""Pruned networks on disk: weights as safetensors, structure as a JSON manifest beside them. No pickle anywhere.

``<stem>.safetensors`` is the plain state dict, for people who rebuild the network by hand. ``<stem>.json`` says how to
rebuild it: the factory of the dense network, and a table of every module's sizes after pruning. Loading calls the
factory, shrinks its modules to the table and fills in the weights; torch-pruning is not needed for it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from hessian.support.door import plain_model
from prune_gym.saving.manifest import (
    Manifest,
    PathLike,
    as_json,
    library_versions,
    read_manifest,
    weights_path,
    write_manifest,
)
from prune_gym.support.files import load_safetensors, save_safetensors_atomic
from prune_gym.surgery.sizes import ModuleSizes, broken_promises, channel_table, resize_tensor, set_sizes
from prune_gym.tasks.models import MODEL_FACTORIES, build_model

Factory: TypeAlias = Callable[..., nn.Module]


def save_pruned(
    path: PathLike,
    model: nn.Module,
    *,
    factory: str | Factory,
    factory_kwargs: Mapping[str, Any] | None = None,
    kept: Mapping[str, Sequence[int]] | None = None,
    metrics: Mapping[str, Any] | None = None,
) -> Path:
    """Save a pruned network so that `load_pruned` can rebuild it in a fresh process.

    The network is rebuilt once from its factory before anything is written, so what was saved can be loaded.

    Args:
        path: ``<stem>.safetensors`` (``<stem>.json`` and ``<stem>`` mean the same); missing folders are created.
        model: The pruned network.
        factory: Name of a registered network (see `prune_gym.tasks.models`) whose dense form the model was cut from, or
            the callable that builds it. A callable is not stored: it has to be passed to `load_pruned` again.
        factory_kwargs: Its keyword arguments; JSON-able.
        kept: Layer name -> kept channel indices, to keep with the network.
        metrics: Measurements to keep with the network; JSON-able.

    Returns:
        Path of the safetensors file.

    Raises:
        KeyError: If ``factory`` is a name that is not registered.
        TypeError: If ``factory_kwargs`` or ``metrics`` hold something JSON cannot say.
        ValueError: If the factory's network is not one the model can have been cut from, or a metric is NaN or
            infinite.
        OSError: If the files cannot be written.
    """
    model = plain_model(model)
    weights = weights_path(path)
    kwargs = as_json("factory_kwargs", factory_kwargs or {})
    measured = as_json("metrics", metrics or {})
    with _all_buffers_saved(model):
        state, table = model.state_dict(), channel_table(model)
    _rebuild(_builder(factory) if isinstance(factory, str) else factory, kwargs, table, state)
    save_safetensors_atomic(weights, state)
    manifest = Manifest(
        factory=factory if isinstance(factory, str) else getattr(factory, "__qualname__", type(factory).__name__),
        factory_registered=isinstance(factory, str),
        factory_kwargs=kwargs,
        modules=table,
        weights_sha256=_digest(weights),
        weights_bytes=weights.stat().st_size,
        kept={layer: [int(index) for index in indices] for layer, indices in (kept or {}).items()},
        metrics=measured,
        versions=library_versions(),
    )
    write_manifest(path, manifest)  # last, so that a manifest never describes weights that are not there yet
    return weights


def load_pruned(path: PathLike, factory: Factory | None = None) -> nn.Module:
    """Rebuild a pruned network that `save_pruned` wrote. No code of the file is run, and nothing is unpickled.

    Args:
        path: ``<stem>.safetensors`` (``<stem>.json`` and ``<stem>`` mean the same).
        factory: Builds the dense network from the stored keyword arguments; None means the registered network the
            manifest names.

    Returns:
        The network on the CPU, in eval mode.

    Raises:
        FileNotFoundError: If one of the two files is missing.
        KeyError: If the manifest names a network that is not registered.
        ValueError: If a file is truncated, was changed after saving, is of another format version, or does not fit the
            network the factory builds; if it asks for absurd sizes, or a weight is NaN or infinite.
    """
    weights, manifest = weights_path(path), read_manifest(path)
    if not weights.is_file():
        raise FileNotFoundError(f"{weights} is missing: a pruned network is two files, its weights and its manifest")
    size = weights.stat().st_size
    if size != manifest.weights_bytes:
        kind = "truncated" if size < manifest.weights_bytes else "not the file that was saved"
        raise ValueError(f"{weights} is {kind}: {size:,} bytes instead of {manifest.weights_bytes:,}; save it again")
    if _digest(weights) != manifest.weights_sha256:
        raise ValueError(f"{weights} does not match the checksum in its manifest: it was changed after saving")
    state, _ = load_safetensors(weights)
    for name, tensor in state.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise ValueError(f"{weights}: {name!r} holds NaN or infinite values, and so does what the network computes")
    return _rebuild(factory or _registered(manifest), manifest.factory_kwargs, manifest.modules, state).eval()


def _rebuild(
    factory: Factory, kwargs: Mapping[str, Any], table: Mapping[str, ModuleSizes], state: Mapping[str, Tensor]
) -> nn.Module:
    """Build the dense network, shrink it to the table and load the weights.

    Raises:
        ValueError: the factory returns no module, or the table's network is not consistent.
    """
    with torch.random.fork_rng(devices=[]):  # initialisation draws random numbers that loading has no business using up
        model = factory(**kwargs)
    if not isinstance(model, nn.Module):
        raise ValueError(f"the factory returned a {type(model).__name__}, not a torch.nn.Module")
    modules = dict(model.named_modules())
    _keep_buffers(modules, table)
    _check_fits(channel_table(model), table)
    keys = [f"{name}.{suffix}" if name else suffix for name, sizes in table.items() for suffix in sizes.shapes]
    missing = [f"{key!r} is not among the weights" for key in keys if key not in state]
    if missing:
        raise ValueError(_misfit(missing))
    for name, sizes in table.items():
        set_sizes(modules[name], sizes.attributes)
        for number, value in sizes.numbers.items():
            kept_as_tuple = isinstance(getattr(modules[name], number, None), tuple)
            setattr(modules[name], number, tuple(value) if isinstance(value, list) and kept_as_tuple else value)
        for suffix, shape in sizes.shapes.items():
            resize_tensor(modules[name], suffix, tuple(shape), state[f"{name}.{suffix}" if name else suffix].dtype)
    problems = broken_promises(model)
    if problems:
        raise ValueError(_misfit(problems))
    _fill(model, state)
    return model


@contextmanager
def _all_buffers_saved(model: nn.Module) -> Iterator[None]:
    """Inside, a state dict holds buffers that the network does not save: they may have been cut."""
    before = [(module, set(module._non_persistent_buffers_set)) for module in model.modules()]
    try:
        for module, _ in before:
            if not type(module).__module__.startswith("torch."):
                module._non_persistent_buffers_set.clear()
        yield
    finally:
        for module, names in before:
            module._non_persistent_buffers_set |= names


def _keep_buffers(modules: Mapping[str, nn.Module], table: Mapping[str, ModuleSizes]) -> None:
    """Let a state dict hold the buffers that were saved though the network does not save them."""
    for name, sizes in table.items():
        if name in modules:
            modules[name]._non_persistent_buffers_set -= set(sizes.shapes)


@torch.no_grad()
def _fill(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Copy tensors in by name. Not ``load_state_dict``, whose hooks ask for versions that safetensors does not keep.

    Raises:
        ValueError: a name is in only one of the two.
    """
    own = model.state_dict()
    if own.keys() != state.keys():
        raise ValueError(_misfit([f"{name!r} is in only one of them" for name in sorted(own.keys() ^ state.keys())]))
    for name, tensor in own.items():
        tensor.copy_(state[name])


def _check_fits(dense: Mapping[str, ModuleSizes], table: Mapping[str, ModuleSizes]) -> None:
    """Check that the table's network can have been cut from the dense one.

    Raises:
        ValueError: a tensor is larger than the dense one, or of another rank.
    """
    problems = [f"it has no {name!r}" for name in table if name not in dense]
    problems += [f"{name!r} is not in the checkpoint" for name in dense if name not in table and dense[name].shapes]
    for name in [name for name in table if name in dense]:
        big, small = dense[name], table[name]
        if (big.type, big.attributes.keys(), big.shapes.keys()) != (
            small.type,
            small.attributes.keys(),
            small.shapes.keys(),
        ):
            problems.append(
                f"{name!r} is a {big.type} with {sorted(big.shapes)}, not a {small.type} with {sorted(small.shapes)}"
            )
            continue
        for suffix, shape in small.shapes.items():
            full = big.shapes[suffix]
            if len(shape) != len(full) or any(cut > whole for cut, whole in zip(shape, full, strict=True)):
                problems.append(f"{name}.{suffix} is {full} dense, {shape} in the checkpoint")
    if problems:
        raise ValueError(_misfit(problems))


def _misfit(problems: Sequence[str]) -> str:
    more = f" (and {len(problems) - 3} more)" if len(problems) > 3 else ""
    return (
        "the checkpoint does not fit the network its factory builds: "
        + "; ".join(problems[:3])
        + more
        + "; check the factory and its keyword arguments"
    )


def _registered(manifest: Manifest) -> Factory:
    if not manifest.factory_registered:
        raise ValueError(
            f"this network was built by {manifest.factory!r}, which is not stored in the checkpoint; "
            "pass it: load_pruned(path, factory=...)"
        )
    if manifest.factory not in MODEL_FACTORIES:
        raise KeyError(
            f"the network {manifest.factory!r} of this checkpoint is not registered (registered: "
            f"{', '.join(sorted(MODEL_FACTORIES))}); pass what builds it: load_pruned(path, factory=...)"
        )
    return _builder(manifest.factory)


def _builder(name: str) -> Factory:
    def build(**kwargs: Any) -> nn.Module:
        return build_model(name, **kwargs)

    return build


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
