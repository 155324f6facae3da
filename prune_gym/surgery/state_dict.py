"""A network from a plain state dict: sizes are read off the tensors, and the dense network is shrunk to them."""

from __future__ import annotations

import io
import os
import pickle
import struct
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hessian.channels.layer_types import is_depthwise
from hessian.support.door import plain_model
from hessian.support.files import CHECKSUM_KEY, read_tensor_file, sha256_of
from prune_gym.surgery.sizes import broken_promises, channel_table, resize_tensor, set_sizes, size_attributes

_PREFIXES = ("module.", "_orig_mod.")
"""Prefixes that DistributedDataParallel and ``torch.compile`` put before every name."""

_UNREADABLE = (
    *(pickle.UnpicklingError, zipfile.BadZipFile, zlib.error, struct.error, OSError, EOFError, RuntimeError),
    *(ValueError, LookupError, TypeError, AttributeError, ImportError, OverflowError, MemoryError, AssertionError),
)
"""Errors of ``torch.load`` on files that are damaged or hold other things, depending on where."""


def read_state_dict(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """Read a plain state dict: safetensors, or PyTorch's format with tensors only. No code of the file is run.

    What :func:`prune_gym.export_state_dict` wrote carries a checksum, which is checked. Files of other programs carry
    none; theirs have to be sound archives of finite numbers.

    Args:
        path: ``*.safetensors``, or any file of ``torch.save(model.state_dict(), path)``.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is damaged or was changed, holds more than tensors, no tensors by name, or tensors with
            NaN or infinite values.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint {path}")
    state = read_tensor_file(path, foreign=True)[0] if path.suffix == ".safetensors" else _read_archive(path)
    if isinstance(state, Mapping) and isinstance(state.get("state_dict"), Mapping):
        state = state["state_dict"]
    if not isinstance(state, Mapping) or not state or not all(isinstance(value, Tensor) for value in state.values()):
        raise ValueError(f"{path} holds a {type(state).__name__}, not tensors by name")
    for name, tensor in state.items():
        if not isinstance(name, str):
            raise ValueError(f"{path} holds a tensor called {name!r}; names are text")
        if (tensor.is_floating_point() or tensor.is_complex()) and not bool(torch.isfinite(tensor).all()):
            raise ValueError(f"{path}: {name!r} holds NaN or infinite values; the network is broken, or the file is")
    return {_bare(name): tensor for name, tensor in state.items()}


def signed_archive(state: Mapping[str, Tensor]) -> bytes:
    """A state dict as ``torch.save`` writes it, with a checksum beside the tensors in the archive.

    Args:
        state: CPU tensors by name.
    """
    buffer = io.BytesIO()
    torch.save(dict(state), buffer)
    with zipfile.ZipFile(buffer, "a") as archive:
        folder = archive.namelist()[0].split("/")[0]
        archive.writestr(zipfile.ZipInfo(f"{folder}/{CHECKSUM_KEY}"), sha256_of(dict(state)))
    return buffer.getvalue()


def _read_archive(path: Path) -> Any:
    """Read a file of ``torch.save``, its checksums verified: the archive's own, and ours where it is there.

    Raises:
        ValueError: damaged, changed since it was written, or no plain state dict.
    """
    data = path.read_bytes()
    try:
        state = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
        expected = _checksum(data)
    except _UNREADABLE as error:
        raise ValueError(
            f"{path} is damaged or not a plain state dict; save one with torch.save(model.state_dict(), path) "
            f"({str(error).splitlines()[0] if str(error) else type(error).__name__})"
        ) from error
    if expected is not None and (not isinstance(state, Mapping) or _digest(state) != expected):
        raise ValueError(f"{path} does not match its checksum: it was changed or damaged; export it again")
    return state


def _checksum(data: bytes) -> str | None:
    """Digest kept in an archive, its members verified one by one; None in files of other programs.

    Raises:
        ValueError: a member does not match its CRC.
    """
    if not zipfile.is_zipfile(io.BytesIO(data)):
        return None  # the format of PyTorch before 1.6
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        damaged = archive.testzip()
        if damaged is not None:
            raise ValueError(f"{damaged!r} in it does not match its checksum")
        own = [name for name in archive.namelist() if name.endswith(f"/{CHECKSUM_KEY}")]
        return archive.read(own[0]).decode(errors="replace") if own else None


def _digest(state: Mapping[Any, Any]) -> str | None:
    try:
        return sha256_of(dict(state))
    except (TypeError, RuntimeError):
        return None


def shrink_to(model: nn.Module, state: Mapping[str, Tensor]) -> nn.Module:
    """Give a dense network the sizes of a pruned one's state dict, and its weights, in place.

    Args:
        model: The dense network.
        state: Tensors by name, of the same network with fewer channels; every grouped convolution that is not depthwise
            keeps its number of groups.

    Returns:
        The model, in evaluation mode.

    Raises:
        ValueError: If the state is not one of this network with fewer channels; what differs is named.
    """
    model = plain_model(model)
    _check_names(model, state)
    modules = dict(model.named_modules())
    for name, sizes in channel_table(model).items():
        module = modules[name]
        tensors = {suffix: state[f"{name}.{suffix}" if name else suffix] for suffix in sizes.shapes}
        for suffix, full in sizes.shapes.items():
            shape = list(tensors[suffix].shape)
            if len(shape) != len(full) or any(cut > whole for cut, whole in zip(shape, full, strict=True)):
                raise ValueError(
                    f"the checkpoint is of another network: {name}.{suffix} is {shape}, dense it is {full}"
                )
        set_sizes(module, _inferred(module, tensors))
        for suffix, tensor in tensors.items():
            resize_tensor(module, suffix, tuple(tensor.shape), tensor.dtype)
    problems = broken_promises(model)
    if problems:
        raise ValueError(f"the checkpoint contradicts itself: {'; '.join(problems[:3])}")
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            tensor.copy_(state[name])
    return model.eval()


def _inferred(module: nn.Module, tensors: Mapping[str, Tensor]) -> dict[str, int | list[int]]:
    """Size attributes of a module according to its tensors."""
    sizes = size_attributes(module)
    if not sizes or not tensors:
        return sizes
    shape = list((tensors["weight"] if "weight" in tensors else next(iter(tensors.values()))).shape)
    if isinstance(module, nn.modules.conv._ConvNd):
        groups = max(shape[0], 1) if is_depthwise(module) else module.groups
        inputs, outputs = (shape[0], shape[1] * groups) if module.transposed else (shape[1] * groups, shape[0])
        return {"in_channels": inputs, "out_channels": outputs, "groups": groups}
    if isinstance(module, nn.Linear):
        return {"in_features": shape[1], "out_features": shape[0]}
    if isinstance(module, nn.LayerNorm):
        return {"normalized_shape": shape}
    if isinstance(module, nn.GroupNorm):
        return {"num_channels": shape[0], "num_groups": module.num_groups}
    return dict.fromkeys(sizes, shape[0])


def _check_names(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    own = model.state_dict().keys()
    if own != state.keys():
        odd = sorted(own ^ state.keys())
        more = f" and {len(odd) - 3} more" if len(odd) > 3 else ""
        where = [f"{name!r} is {'missing' if name in own else 'unexpected'}" for name in odd[:3]]
        raise ValueError(f"the checkpoint is of another network: {', '.join(where)}{more}")


def _bare(name: str) -> str:
    for prefix in _PREFIXES:
        name = name.removeprefix(prefix)
    return name
