"""Reading batches: what a loader yields becomes (inputs, labels) on the model's device."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sized
from typing import Any

import torch
from torch import Tensor, nn

INPUT_KEYS = ("images", "image", "inputs", "input", "pixel_values", "x")
LABEL_KEYS = ("labels", "label", "targets", "target", "y")


def model_device(model: nn.Module) -> torch.device:
    """The one device a model lives on.

    Raises:
        ValueError: the model's parameters are spread over several devices, or it has none.
    """
    devices = {parameter.device for parameter in model.parameters()}
    if len(devices) != 1:
        raise ValueError(f"the model's parameters must live on one device, found {sorted(map(str, devices)) or 'none'}")
    return devices.pop()


def split_batch(batch: Any) -> tuple[Tensor, Tensor]:
    """Inputs and labels of a batch given as a pair or as a dict with the usual keys.

    Raises:
        ValueError: neither form fits, or the two differ in length.
    """
    if isinstance(batch, Mapping):
        inputs = next((batch[key] for key in INPUT_KEYS if key in batch), None)
        labels = next((batch[key] for key in LABEL_KEYS if key in batch), None)
        if inputs is None or labels is None:
            raise ValueError(
                f"a dict batch needs one of {INPUT_KEYS} and one of {LABEL_KEYS}, got keys {sorted(map(str, batch))}"
            )
    elif isinstance(batch, (tuple, list)) and len(batch) >= 2:
        inputs, labels = batch[0], batch[1]
    else:
        raise ValueError(f"a batch must be (inputs, labels) or a dict, got {type(batch).__name__}")
    if not isinstance(inputs, Tensor) or not isinstance(labels, Tensor):
        raise ValueError(f"a batch must hold tensors, got {type(inputs).__name__} and {type(labels).__name__}")
    if len(inputs) != len(labels):
        raise ValueError(f"a batch has {len(inputs)} inputs but {len(labels)} labels")
    return inputs, labels


def read_batches(
    dataloader: Iterable[Any], device: torch.device, num_batches: int | None = None
) -> Iterator[tuple[Tensor, Tensor]]:
    """At most ``num_batches`` batches of a loader, moved to a device.

    Raises:
        ValueError: the loader yields nothing, or ``num_batches`` is below 1.
    """
    if num_batches is not None and num_batches < 1:
        raise ValueError(f"num_batches must be at least 1, got {num_batches}")
    count = 0
    for batch in dataloader:
        inputs, labels = split_batch(batch)
        if len(inputs) == 0:
            continue
        count += 1
        yield inputs.to(device), labels.to(device)
        if count == num_batches:
            return
    if count == 0:
        raise ValueError("the dataloader yields no images; at least one non-empty batch is needed")


def length(dataloader: Iterable[Any]) -> int:
    """Batches of a loader; 0 where it does not say."""
    return len(dataloader) if isinstance(dataloader, Sized) else 0
