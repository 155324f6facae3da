"""A checkpoint's weights in a network: what trainers put around a state dict is taken off, and nothing in it is run."""

from __future__ import annotations

import os
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from prune_gym.surgery.sizes import channel_table

_EMA = ("ema", "averaged")
_NO_WEIGHTS = ("n_averaged",)
"""Entries beside the weights: the counter of ``torch.optim.swa_utils.AveragedModel``."""


class WeightsError(ValueError):
    """Weights that do not fit a network."""


class ClassCountError(WeightsError):
    """Weights of a network with another number of classes.

    Attributes:
        classes: how many the weights have.
    """

    def __init__(self, message: str, classes: int) -> None:
        super().__init__(message)
        self.classes = classes


@dataclass(frozen=True)
class Checkpoint:
    """State dicts of a file.

    Attributes:
        path: of the file.
        states: where in the file -> tensors by name; averaged weights first.
    """

    path: Path
    states: Mapping[str, Mapping[str, Tensor]]


def read_checkpoint(path: str | os.PathLike[str]) -> Checkpoint:
    """Read a file of weights: safetensors, or PyTorch's format with ``weights_only=True``.

    Args:
        path: a state dict, or a trainer's checkpoint with one inside (``state_dict``, ``model``, ``state_dict_ema``).

    Raises:
        FileNotFoundError: no such file.
        WeightsError: damaged, or it holds objects or no weights.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no weights {path}")
    states = _state_dicts(_read(path), "")
    if not states:
        raise WeightsError(f"{path} holds no tensors by name; save one with torch.save(model.state_dict(), path)")
    return Checkpoint(path, dict(sorted(states.items(), key=lambda item: not _is_average(item[0]))))


def _read(path: Path) -> Any:
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except safetensors.SafetensorError as error:
        raise WeightsError(f"{path} is truncated or not a safetensors file ({error})") from error
    except pickle.UnpicklingError as error:
        raise WeightsError(
            f"{path} holds more than tensors, and reading that could run code ({_first_line(error)}). Where you trust "
            "it, save its weights alone: torch.save(model.state_dict(), 'weights.pth')"
        ) from error
    except (RuntimeError, EOFError, ValueError, KeyError) as error:
        raise WeightsError(f"{path} is truncated or not a file of weights ({_first_line(error)})") from error


def _state_dicts(content: Any, place: str) -> dict[str, dict[str, Tensor]]:
    """All mappings of names to tensors, outermost first."""
    if not isinstance(content, Mapping):
        return {}
    tensors = {str(name): value for name, value in content.items() if isinstance(value, Tensor)}
    found: dict[str, dict[str, Tensor]] = {}
    if any("." in name for name in tensors):
        found[place] = tensors
    for name, value in content.items():
        if isinstance(value, Mapping) and "optim" not in str(name):
            found.update(_state_dicts(value, f"{place}.{name}".lstrip(".")))
    return found


def load_weights(model: nn.Module, checkpoint: Checkpoint | str | os.PathLike[str]) -> tuple[str, ...]:
    """Put a checkpoint's weights into a network, in place, whatever its trainer put before the names.

    Of several that fit, averaged weights (EMA) are taken, as timm does.

    Args:
        model: the network.
        checkpoint: from :func:`read_checkpoint`, or a file.

    Returns:
        What was done beyond loading, a sentence each: which weights, which prefix.

    Raises:
        ClassCountError: the weights have another number of classes.
        WeightsError: they are of another network; what differs is named.
    """
    if not isinstance(checkpoint, Checkpoint):
        checkpoint = read_checkpoint(checkpoint)
    wanted = {name: tensor.shape for name, tensor in model.state_dict().items()}
    best: tuple[int, str, str, Mapping[str, Tensor]] | None = None
    for place, state in checkpoint.states.items():
        for prefix in _prefixes(wanted, state):
            matched = sum(prefix + name in state for name in wanted)
            if best is None or matched > best[0]:
                best = matched, place, prefix, state
    if best is None or best[0] == 0:
        raise WeightsError(_other_network(checkpoint, wanted))
    _, place, prefix, state = best
    own = {name: state[prefix + name] for name in wanted if prefix + name in state}
    _check(model, checkpoint, wanted, own, state, prefix)
    model.load_state_dict(own, strict=False)
    notes = [f"weights taken from {place!r} of the file"] if place else []
    return (*notes, *([f"the prefix {prefix!r} was taken off the names"] if prefix else []))


def _prefixes(wanted: Mapping[str, Any], state: Mapping[str, Tensor]) -> list[str]:
    """Everything that stands before the name of one of the network's tensors in the checkpoint; averages first."""
    prefixes = {""}
    for name in list(wanted)[:3]:
        prefixes |= {key[: -len(name)] for key in state if key.endswith("." + name)}
    return sorted(prefixes, key=lambda prefix: (not _is_average(prefix), len(prefix), prefix))


def _check(
    model: nn.Module,
    checkpoint: Checkpoint,
    wanted: Mapping[str, torch.Size],
    own: Mapping[str, Tensor],
    state: Mapping[str, Tensor],
    prefix: str,
) -> None:
    missing = [name for name in wanted if name not in own and not name.endswith("num_batches_tracked")]
    extra = [key for key in state if key.startswith(prefix) and key[len(prefix) :] not in wanted]
    extra = [key for key in extra if key.rpartition(".")[2] not in _NO_WEIGHTS] if not prefix else []
    differing = [name for name, tensor in own.items() if tensor.shape != wanted[name]]
    head = list(channel_table(model))[-1]
    if differing and not missing and all(name.startswith(head + ".") for name in differing):
        classes, outputs = own[differing[0]].shape[0], wanted[differing[0]][0]
        raise ClassCountError(
            f"{checkpoint.path}: the weights have {classes} classes ({differing[0]} is "
            f"{list(own[differing[0]].shape)}), the network has {outputs}",
            classes,
        )
    problems = [f"{name!r} is missing" for name in missing]
    problems += [f"{key!r} is not in the network" for key in extra]
    problems += [f"{name!r} is {list(own[name].shape)}, in the network {list(wanted[name])}" for name in differing]
    if problems:
        more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise WeightsError(f"{checkpoint.path} is of another network: {'; '.join(problems[:3])}{more}")


def _other_network(checkpoint: Checkpoint, wanted: Mapping[str, Any]) -> str:
    names = next(iter(checkpoint.states.values()))
    return (
        f"{checkpoint.path} is of another network: it has {', '.join(list(names)[:3])}, ..., "
        f"the network {', '.join(list(wanted)[:3])}, ..."
    )


def _is_average(place: str) -> bool:
    return any(word in place.lower() for word in _EMA)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
