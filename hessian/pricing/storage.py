"""An analysis as named tensors and string metadata, and as a safetensors file."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hessian.obs.factors import KroneckerFactors
from hessian.obs.moments import DenseMoment, Moment, RowMoment
from hessian.patches.matrices import weight_matrix
from hessian.pricing.analysis import Analysis
from hessian.support.batches import model_device
from hessian.support.files import read_tensor_file, tensor_bytes, write_atomic

FORMAT = 2
RESULTS = ("prices", "orders", "curves", "obd_curves")
ROWS = "/rows"
"""Ends the key of a factor that is kept as rows."""


def to_tensors(analysis: Analysis) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Everything an analysis holds: named tensors on the CPU, and string metadata."""
    tensors: dict[str, Tensor] = {}
    for kind in RESULTS:
        tensors.update({f"{kind}/{name}": value for name, value in getattr(analysis, kind).items()})
    for name, factors in analysis.factors.items():
        for letter, moment in (("A", factors.inputs), ("G", factors.outputs)):
            tensors[f"{letter}/{name}" + (ROWS if isinstance(moment, RowMoment) else "")] = moment.values
    settings = {
        "format": FORMAT,
        "damping": analysis.damping,
        "approximation": analysis.approximation,
        "layers": {group.name: group.num_units for group in analysis.groups},
        "constants": [name for name, factors in analysis.factors.items() if factors.bias],
        "norms": analysis.norms,
    }
    metadata = {"hobs": json.dumps(settings, sort_keys=True)}
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, metadata


def from_tensors(analysis: Analysis, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> Analysis:
    """An analysis that knows its structure, filled with what :func:`to_tensors` gave.

    Raises:
        ValueError: another format version, other layers or sizes than this network's, or missing tensors.
    """
    if not analysis.groups:
        raise ValueError("the structure is unknown: construct the analyzer with example_input=... before loading")
    settings = _settings(metadata)
    layers = {group.name: group.num_units for group in analysis.groups}
    if settings["layers"] != layers:
        raise ValueError(f"the analysis is of another network: its layers are {settings['layers']}, expected {layers}")
    try:
        results: dict[str, Any] = {kind: {name: tensors[f"{kind}/{name}"] for name in layers} for kind in RESULTS}
        constants = settings["constants"]
        results["factors"] = {name: _factors(analysis, tensors, name, name in constants) for name in analysis.consumers}
    except KeyError as error:
        raise ValueError(f"the analysis is incomplete: {error} is missing") from error
    for kind in RESULTS:
        for name, tensor in results[kind].items():
            _check_result(kind, name, tensor, layers[name])
    return replace(analysis, damping=settings["damping"], norms=settings["norms"], **results)


def _settings(metadata: Mapping[str, str]) -> dict[str, Any]:
    """The JSON part, its types checked.

    Raises:
        ValueError: another format version, or an entry of another kind.
    """
    try:
        settings = json.loads(metadata.get("hobs", "{}"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"the settings of the analysis are no JSON ({error})") from None
    found = settings.get("format") if isinstance(settings, dict) else None
    if found != FORMAT:
        raise ValueError(f"not an H-OBS analysis of format {FORMAT} (found {found!r})")
    damping, layers, names, norms = (settings.get(key) for key in ("damping", "layers", "constants", "norms"))
    fine = {
        "damping": isinstance(damping, float) and math.isfinite(damping) and damping >= 1e-8,
        "layers": isinstance(layers, dict),
        "constants": isinstance(names, list) and all(isinstance(name, str) for name in names),
        "norms": isinstance(norms, dict) and all(isinstance(name, str) for name in norms.values()),
    }
    for key, good in fine.items():
        if not good:
            raise ValueError(f"the analysis is damaged: its {key} are {settings.get(key)!r}")
    return settings


def _check_result(kind: str, layer: str, tensor: Tensor, units: int) -> None:
    """Check that a layer's prices, order or curve can be one of its units.

    Raises:
        ValueError: another type, length or content.
    """
    wanted = torch.int64 if kind == "orders" else torch.float64
    if tensor.dtype != wanted or tuple(tensor.shape) != (units,):
        raise ValueError(
            f"{kind} of layer {layer!r} are {tensor.dtype} {list(tensor.shape)}; expected {wanted} [{units}]"
        )
    if kind == "orders" and not torch.equal(tensor.sort().values, torch.arange(units)):
        raise ValueError(f"the order of layer {layer!r} does not name each of its {units} units once")
    if kind != "orders" and not bool(torch.isfinite(tensor).all()):
        raise ValueError(f"{kind} of layer {layer!r} hold NaN or infinite values")


def _factors(analysis: Analysis, tensors: Mapping[str, Tensor], name: str, bias: bool) -> KroneckerFactors:
    groups, d_out, d_in = weight_matrix(analysis.model.get_submodule(name), bias=False).shape
    device = model_device(analysis.model)
    inputs, outputs = _moment(tensors, f"A/{name}"), _moment(tensors, f"G/{name}")
    for letter, moment, width in (("A", inputs, d_in + bias), ("G", outputs, d_out)):
        shape = tuple(moment.values.shape)
        square = isinstance(moment, RowMoment) or shape[1:] == (width, width)
        if len(shape) != 3 or shape[0] != groups or shape[2] != width or not square or 0 in shape:
            raise ValueError(f"factor {letter} of {name!r} has shape {list(shape)}; expected {[groups, width, width]}")
        if not moment.values.is_floating_point() or not bool(torch.isfinite(moment.values).all()):
            raise ValueError(f"factor {letter} of {name!r} holds NaN, infinite or whole numbers")
    return KroneckerFactors(_on(inputs, device), _on(outputs, device), bias)


def _on(moment: Moment, device: torch.device) -> Moment:
    return type(moment)(moment.values.to(device))


def _moment(tensors: Mapping[str, Tensor], key: str) -> Moment:
    if key + ROWS in tensors:
        return RowMoment(tensors[key + ROWS])
    return DenseMoment(tensors[key])


def write(path: str | Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write a safetensors file with a checksum, atomically, making its folder."""
    write_atomic(path, tensor_bytes(tensors, metadata))


def read(path: str | Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a file that :func:`write` wrote, verified.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file is truncated, was changed, carries no checksum, or is of another kind.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no analysis at {path}; compute_sensitivity(...) and save(...) make one")
    return read_tensor_file(path)
