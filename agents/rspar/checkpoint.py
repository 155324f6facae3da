"""Agents on disk: one safetensors file, JSON in its metadata, nothing that executes."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from agents.amortised.storage import document_of, model_of
from agents.model.experience import Experience
from agents.model.reward_model import RewardModel
from agents.rspar.state import LearnerState
from prune_gym.support.files import load_safetensors, save_safetensors_atomic

FORMAT = "rspar-agent-1"


def write_checkpoint(agent: LearnerState, path: str | os.PathLike[str]) -> Path:
    """Write everything `agent` needs to go on; see :meth:`agents.rspar.agent.RSPARAgent.save`."""
    tensors = {f"network.{name}": tensor for name, tensor in agent.network.state_dict().items()}
    for index, moments in agent.optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{name}": torch.as_tensor(value) for name, value in moments.items()}
    tensors["generator"] = agent.generator.get_state()
    if agent.experience is not None:
        arrays = agent.experience.state()
        tensors |= {f"experience.{name}": torch.as_tensor(array) for name, array in arrays.items()}
    if agent.amortised is not None:
        tensors |= {f"amortised.{name}": tensor for name, tensor in agent.amortised.state_dict().items()}
    document = {
        "format": FORMAT,
        "config": asdict(agent.config),
        "imagination": None if agent.imagination is None else asdict(agent.imagination),
        "rng": agent.rng.bit_generator.state,
        "environment": agent.environment_state,
        "num_timesteps": agent.num_timesteps,
        "num_updates": agent.num_updates,
        "fingerprint": None if agent.experience is None else agent.experience.fingerprint,
        "history": agent.history,
        "amortised": None if agent.amortised is None else document_of(agent.amortised),
    }
    return save_safetensors_atomic(path, tensors, {"agent": json.dumps(document)})


Size = Annotated[int, Field(ge=1, le=1_000_000)]
Count = Annotated[int, Field(ge=0, le=2**40)]
Rate = Annotated[float, Field(allow_inf_nan=False)]


class _Config(BaseModel):
    """Sizes and rates of an agent, as they can be; :class:`agents.ppo.agent.AgentConfig` says what they mean."""

    model_config = ConfigDict(extra="allow")

    num_layers: Size
    layer_feature_dim: Annotated[int, Field(ge=1, le=10_000)]
    hidden_dim: Annotated[int, Field(ge=1, le=16_384)]
    n_steps: Size
    lr: Rate
    gamma: Rate
    gae_lambda: Rate
    clip_range: Rate
    ent_coef: Rate
    vf_coef: Rate
    max_grad_norm: Rate
    initial_std: Rate
    target_kl: Rate | None
    anneal_timesteps: Count | None
    seed: int


class _Document(BaseModel):
    """The JSON part of an agent's file."""

    config: _Config
    imagination: dict[str, bool | Count | Rate | str | None] | None
    rng: dict[str, Any]
    environment: Any
    num_timesteps: Count
    num_updates: Count
    fingerprint: str | None
    history: list[dict[str, Any]]
    amortised: str | None = None


_DOCUMENT = TypeAdapter(_Document)
_MISFITS = (RuntimeError, KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError)


def read_document(
    path: str | os.PathLike[str], expected: Mapping[str, int | None]
) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Tensors and JSON document of an agent's file.

    Args:
        path: what :func:`write_checkpoint` wrote.
        expected: sizes the caller counts on (None: whatever the file says).

    Raises:
        FileNotFoundError: no such file.
        ValueError: damaged, not an agent's, or of other sizes.
    """
    tensors, metadata = load_safetensors(path)
    try:
        document = json.loads(metadata.get("agent", "{}"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is damaged ({error}); pass a file that RSPARAgent.save wrote") from None
    found = document.get("format") if isinstance(document, dict) else None
    if found != FORMAT:
        raise ValueError(
            f"{path} is not an agent of this version (format {found!r}, expected {FORMAT!r}); pass a file that "
            "RSPARAgent.save wrote"
        )
    try:
        _DOCUMENT.validate_python(document, strict=True)
    except ValidationError as error:
        detail = error.errors()[0]
        where = ".".join(map(str, detail["loc"]))
        raise ValueError(f"{path} cannot be an agent that was saved: {where!r}: {detail['msg']}") from None
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise ValueError(f"{path} cannot be an agent that was saved: {name!r} holds NaN or infinite values")
    for name, size in expected.items():
        if size is not None and size != document["config"][name]:
            raise ValueError(
                f"{path} holds an agent with {name} = {document['config'][name]}, but {size} was expected; only the "
                "number of layers may differ, so use it with its own feature dimension and width, or train a new one"
            )
    return tensors, document


def restore(agent: LearnerState, tensors: Mapping[str, torch.Tensor], document: Mapping[str, Any]) -> None:
    """Bring a fresh agent to the state of a file; measurements only if it is about as many layers.

    Raises:
        ValueError: the file's parts do not fit each other.
    """
    try:
        _restore(agent, tensors, document)
    except _MISFITS as error:
        why = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"the parts of an agent's file do not fit each other ({why}); save it again") from error


def _restore(agent: LearnerState, tensors: Mapping[str, torch.Tensor], document: Mapping[str, Any]) -> None:
    agent.network.load_state_dict(_part(tensors, "network."))
    if document.get("amortised") is not None:
        agent.amortised = model_of(_part(tensors, "amortised."), document["amortised"], "the file")
    optimizer = agent.optimizer.state_dict()
    moments: dict[int, dict[str, torch.Tensor]] = {}
    for key, tensor in _part(tensors, "optimizer.").items():
        index, name = key.split(".")
        moments.setdefault(int(index), {})[name] = tensor
    agent.optimizer.load_state_dict({"state": moments, "param_groups": optimizer["param_groups"]})
    agent.generator.set_state(tensors["generator"])
    agent.rng = np.random.default_rng()
    agent.rng.bit_generator.state = document["rng"]
    agent.environment_state = document["environment"]
    agent.num_timesteps = document["num_timesteps"]
    agent.num_updates = document["num_updates"]
    if agent.num_layers != document["config"]["num_layers"]:
        return
    agent.history.extend(document["history"])
    if document["fingerprint"] is not None:
        refit_every = agent.imagination.refit_every if agent.imagination else RewardModel().refit_every
        agent.experience = Experience(document["fingerprint"], RewardModel(refit_every))
        arrays = {name: tensor.numpy() for name, tensor in _part(tensors, "experience.").items()}
        agent.experience.load_state(arrays)


def _part(tensors: Mapping[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {name[len(prefix) :]: tensor for name, tensor in tensors.items() if name.startswith(prefix)}
