"""Amortised models on disk: one safetensors file, JSON in its metadata, nothing that executes."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from agents.amortised.model import AmortisedModel, Sizes
from prune_gym.problem.view import LAYER_INPUTS
from prune_gym.support.files import load_safetensors, save_safetensors_atomic

FORMAT = "rspar-amortised-1"
SHIPPED = Path(__file__).parent / "pretrained.safetensors"
"""The model that comes with the package."""


class _Document(BaseModel):
    """The JSON part of a model's file."""

    model_config = ConfigDict(extra="forbid", strict=True)

    format: str
    width: Annotated[int, Field(ge=0, le=512, multiple_of=4)]
    members: Annotated[int, Field(ge=1, le=16)]
    trust: Annotated[float, Field(ge=0.0, le=1.0)]
    inputs: list[str]
    trained_on: dict[str, Any]


def save_model(model: AmortisedModel, path: str | os.PathLike[str]) -> Path:
    """Write a model, whole or not at all."""
    return save_safetensors_atomic(path, model.state_dict(), {"amortised": document_of(model)})


def document_of(model: AmortisedModel) -> str:
    """Sizes and names of a model's inputs, and what it was trained on, as JSON."""
    own = {"format": FORMAT, "trust": model.trust, "inputs": list(LAYER_INPUTS), "trained_on": model.trained_on}
    return json.dumps(own | asdict(model.sizes), sort_keys=True)


def load_model(path: str | os.PathLike[str] | None = None) -> AmortisedModel:
    """Read a model.

    Args:
        path: what :func:`save_model` wrote; None: the one that comes with the package.

    Raises:
        FileNotFoundError: no such file.
        ValueError: damaged, no such model, of other inputs, or with numbers that are not finite.
    """
    path = SHIPPED if path is None else Path(path)
    tensors, metadata = load_safetensors(path)
    return model_of(tensors, metadata.get("amortised", "{}"), str(path))


def model_of(tensors: Mapping[str, torch.Tensor], document: str, path: str) -> AmortisedModel:
    """A model from its tensors and its document; `path` is for messages.

    Raises:
        ValueError: they do not fit each other or this version.
    """
    try:
        found = _Document.model_validate_json(document)
    except ValidationError as error:
        detail = error.errors()[0]
        where = ".".join(map(str, detail["loc"])) or "the whole"
        raise ValueError(f"{path} is no amortised model: {where!r}: {detail['msg']}") from None
    if found.format != FORMAT or found.inputs != list(LAYER_INPUTS):
        raise ValueError(f"{path} is an amortised model of another version ({found.format!r}); this one has {FORMAT!r}")
    model = AmortisedModel(Sizes(found.width, found.members))
    model.trained_on, model.trust = found.trained_on, found.trust
    try:
        model.load_state_dict(dict(tensors))
    except RuntimeError as error:
        raise ValueError(f"{path} does not fit its own sizes: {str(error).splitlines()[-1].strip()}") from None
    for name, tensor in model.state_dict().items():
        if not bool(torch.isfinite(tensor).all()):
            raise ValueError(f"{path} holds NaN or infinite values in {name!r}")
    return model
