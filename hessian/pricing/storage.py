"""An analysis as named tensors and string metadata, and as a safetensors file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from hessian.obs.factors import KroneckerFactors
from hessian.obs.moments import DenseMoment, Moment, RowMoment
from hessian.pricing.analysis import Analysis
from hessian.support.batches import model_device
from hessian.support.files import write_atomic

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
    settings = json.loads(metadata.get("hobs", "{}"))
    if settings.get("format") != FORMAT:
        raise ValueError(f"not an H-OBS analysis of format {FORMAT} (found {settings.get('format')!r})")
    layers = {group.name: group.num_units for group in analysis.groups}
    if settings["layers"] != layers:
        raise ValueError(f"the analysis is of another network: its layers are {settings['layers']}, expected {layers}")
    results: dict[str, Any] = {}
    try:
        for kind in RESULTS:
            results[kind] = {name: tensors[f"{kind}/{name}"] for name in layers}
        device = model_device(analysis.model)
        results["factors"] = {
            name: KroneckerFactors(
                _moment(tensors, f"A/{name}", device),
                _moment(tensors, f"G/{name}", device),
                name in settings["constants"],
            )
            for name in analysis.consumers
        }
    except KeyError as error:
        raise ValueError(f"the analysis is incomplete: {error} is missing") from error
    return replace(analysis, damping=settings["damping"], norms=settings["norms"], **results)


def _moment(tensors: Mapping[str, Tensor], key: str, device: torch.device) -> Moment:
    if key + ROWS in tensors:
        return RowMoment(tensors[key + ROWS].to(device))
    return DenseMoment(tensors[key].to(device))


def write(path: str | Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    """Write a safetensors file atomically, making its folder."""
    write_atomic(path, save(tensors, metadata))


def read(path: str | Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a safetensors file.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file is truncated or of another kind.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no analysis at {path}; compute_sensitivity(...) and save(...) make one")
    try:
        with safe_open(str(path), framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{path} is not a readable safetensors file ({error})") from error
