"""Reading calibration data: whatever a user has becomes calls of the network, on its device, with labels or without.

==============================================  =====================================================
what a loader (or list) yields                  what the network is called with
==============================================  =====================================================
a tensor, or ``[tensor]``                       ``model(images)``; no labels
``(images, labels)``, ``(images, labels, ..)``  ``model(images)``; further entries are left alone
``((a, b), labels)``                            ``model(a, b)``
``({"a": .., "b": ..}, labels)``                ``model(a=.., b=..)``
``{"image": .., "label": ..}``                  ``model(images)``; the usual names of images and labels
``{"a": .., "b": .., "labels": ..}``            ``model(a=.., b=..)``, where the network's forward has these names
==============================================  =====================================================

In place of a loader stand a tensor of images ``[N, ...]`` and a dataset, which is batched here.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Mapping, Sized
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree
from torch.utils.data import DataLoader, Dataset

from hessian.support.calling import call_model

INPUT_KEYS = ("images", "image", "inputs", "input", "pixel_values", "x")
LABEL_KEYS = ("labels", "label", "targets", "target", "y")

BATCH_SIZE = 100
"""Images a batch of tensors and datasets, which do not say."""


@dataclass(frozen=True, eq=False)
class Batch:
    """One call of a network, and what its outputs are compared with.

    Attributes:
        args: Arguments by position.
        kwargs: Arguments by name.
        labels: A tensor ``[N, ...]``, or any container of tensors a criterion of the user's understands; None where
            there are none.
    """

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    labels: Any = None

    def __len__(self) -> int:
        """Samples: entries of the first tensor, or of the first list of tensors."""
        first = next((value for value in (*self.args, *self.kwargs.values()) if isinstance(value, Sized)), ())
        leaves = [leaf for leaf in _pytree.tree_leaves(first) if isinstance(leaf, Tensor)]
        if isinstance(first, list) and leaves and all(map(_is_image, leaves)):
            return len(first)  # images of several sizes, as detection networks take them
        return len(leaves[0]) if leaves and leaves[0].ndim else 0

    @property
    def images(self) -> Tensor | None:
        """The one tensor the network is called with, or None where it is called with more."""
        alone = len(self.args) == 1 and not self.kwargs and isinstance(self.args[0], Tensor)
        return self.args[0] if alone else None

    @property
    def example(self) -> Any:
        """One sample in the form of an ``example_input``: a tensor, a tuple of tensors, or a dict of keywords."""
        first = self.first_sample()
        if first.kwargs and not first.args:
            return dict(first.kwargs)
        return first.args[0] if len(first.args) == 1 and not first.kwargs else first.args

    def first_sample(self) -> Batch:
        """The batch of its first sample alone, without labels."""
        count = len(self)

        def first(value: Any) -> Any:
            ragged = isinstance(value, list) and value and all(_is_image(item) for item in value)
            if ragged or (isinstance(value, Tensor) and value.ndim and len(value) == count):
                return value[:1]
            return value if isinstance(value, Tensor) else _pytree.tree_map(_first_of(count), value)

        return Batch(tuple(map(first, self.args)), {name: first(value) for name, value in self.kwargs.items()})

    def run(self, model: nn.Module) -> Any:
        """The network's outputs."""
        return model(*self.args, **self.kwargs)

    def to(self, device: torch.device) -> Batch:
        """The batch on a device; inference tensors become ordinary ones, which gradients may need."""

        def move(tensor: Tensor) -> Tensor:
            return tensor.to(device).clone() if tensor.is_inference() else tensor.to(device)

        parts = _pytree.tree_map_only(Tensor, move, (self.args, dict(self.kwargs), self.labels))
        return Batch(*parts)


def model_device(model: nn.Module) -> torch.device:
    """The one device a model lives on.

    Raises:
        ValueError: the model's parameters are spread over several devices, or it has none.
    """
    devices = {parameter.device for parameter in model.parameters()}
    if len(devices) != 1:
        raise ValueError(f"the model's parameters must live on one device, found {sorted(map(str, devices)) or 'none'}")
    return devices.pop()


def as_batch(batch: Any, model: nn.Module | None = None) -> Batch:
    """Return what a loader yields as a call of a network; see the table above.

    Args:
        batch: one of the forms of the table.
        model: whose forward says what its arguments are called; None knows the usual names only.

    Raises:
        ValueError: none of the forms, or inputs and labels of different length.
    """
    if isinstance(batch, Batch):
        return batch
    if isinstance(batch, Mapping):
        return _from_mapping(batch, model)
    if isinstance(batch, (tuple, list)) and batch:
        inputs, labels = batch[0], batch[1] if len(batch) > 1 else None
    elif isinstance(batch, Tensor):
        inputs, labels = batch, None
    else:
        raise ValueError(
            f"a batch is images, (images, labels) or a dict of both, of tensors; got {type(batch).__name__}"
        )
    call = _as_call(inputs, model)
    return _checked(Batch(call.args, call.kwargs, labels))


def run_example(model: nn.Module, example_input: Any) -> Any:
    """A network's outputs for an example in any form (:mod:`hessian.support.calling`), or for a batch."""
    return example_input.run(model) if isinstance(example_input, Batch) else call_model(model, example_input)


def split_batch(batch: Any) -> tuple[Tensor, Tensor]:
    """Inputs and labels of a batch given as a pair or as a dict with the usual keys.

    Raises:
        ValueError: neither form fits, there are no labels, or the two differ in length.
    """
    found = as_batch(batch)
    if found.images is None or not isinstance(found.labels, Tensor):
        kind = f"a dict with keys {sorted(map(str, batch))}" if isinstance(batch, Mapping) else type(batch).__name__
        if found.images is not None and found.labels is None:
            kind = "images alone"
        raise ValueError(
            f"a batch must hold tensors (images, labels), or a dict with one of {INPUT_KEYS} and one of {LABEL_KEYS}; "
            f"got {kind}"
        )
    return found.images, found.labels


def read_batches(
    data: Any, device: torch.device, num_batches: int | None = None, *, model: nn.Module | None = None
) -> Iterator[Batch]:
    """At most ``num_batches`` batches of calibration data, moved to a device; empty ones are passed over.

    Args:
        data: a tensor of images, a dataset, or an iterable of batches.
        device: where the network is.
        num_batches: None reads all.
        model: whose forward says what its arguments are called.

    Raises:
        ValueError: nothing is yielded, a batch has no known form, or ``num_batches`` is below 1.
    """
    if num_batches is not None and num_batches < 1:
        raise ValueError(f"num_batches must be at least 1, got {num_batches}")
    count = 0
    for item in as_batches(data):
        batch = as_batch(item, model)
        if len(batch) == 0:
            continue
        count += 1
        yield batch.to(device)
        if count == num_batches:
            return
    if count == 0:
        raise ValueError("the dataloader yields no images; at least one non-empty batch is needed")


def read_pairs(data: Any, device: torch.device, num_batches: int | None = None) -> Iterator[tuple[Tensor, Tensor]]:
    """:func:`read_batches` where every batch has to be one tensor of inputs and one of labels.

    Raises:
        ValueError: it is not.
    """
    for batch in read_batches(data, device, num_batches):
        yield split_batch(batch)


def as_batches(data: Any, batch_size: int = BATCH_SIZE) -> Iterable[Any]:
    """Calibration data as an iterable of batches: tensors of images and datasets are batched, the rest is given back.

    Raises:
        TypeError: it cannot be iterated.
    """
    if isinstance(data, Tensor):
        return data.split(batch_size)
    if isinstance(data, Dataset):
        # A generator of its own: a loader draws a seed, and would disturb the caller's random stream.
        return DataLoader(data, batch_size, generator=torch.Generator().manual_seed(0))
    if not isinstance(data, Iterable) or isinstance(data, Mapping):
        raise TypeError(
            "calibration data is a tensor of images, a dataset, or a loader or list of batches; "
            f"got {type(data).__name__}"
        )
    return data


def length(data: Any) -> int:
    """Batches of calibration data; 0 where it does not say."""
    batches = as_batches(data)
    if isinstance(batches, DataLoader) and isinstance(batches.dataset, torch.utils.data.IterableDataset):
        return 0  # its length, if it has one, is a promise of the user's that may be wrong
    return len(batches) if isinstance(batches, Sized) else 0


def regrouped(batches: Iterable[Batch], smallest: int) -> list[Batch]:
    """Batches of at least so many samples, where neighbours are images of one shape; labels are dropped.

    Args:
        batches: calibration data.
        smallest: samples a batch should have.
    """
    merged: list[Batch] = []
    for batch in batches:
        last = merged[-1].images if merged else None
        images = batch.images
        fits = last is not None and images is not None and last.shape[1:] == images.shape[1:]
        if fits and len(last) < smallest and last.dtype == images.dtype:  # type: ignore[arg-type, union-attr]
            merged[-1] = Batch((torch.cat([last, images]),))  # type: ignore[list-item]
        else:
            merged.append(Batch(batch.args, batch.kwargs))
    return merged


def _from_mapping(batch: Mapping[Any, Any], model: nn.Module | None) -> Batch:
    labels = next((batch[key] for key in LABEL_KEYS if key in batch), None)
    names, required = _arguments(model)
    given = {str(key): value for key, value in batch.items() if key in names and key not in LABEL_KEYS}
    usual = next((batch[key] for key in INPUT_KEYS if key in batch), None)
    if given and required <= given.keys() and not (usual is not None and len(given) == 1):
        return _checked(Batch((), given, labels))
    if usual is None:
        hint = f", or what the network's forward takes ({', '.join(names)})" if names else ""
        raise ValueError(
            f"a dict batch needs one of {INPUT_KEYS} and, for labels, one of {LABEL_KEYS}{hint}; got keys "
            f"{sorted(map(str, batch))}"
        )
    call = _as_call(usual, model)
    return _checked(Batch(call.args, call.kwargs, labels))


def _as_call(inputs: Any, model: nn.Module | None) -> Batch:
    if isinstance(inputs, Mapping):
        return Batch((), {str(key): value for key, value in inputs.items()})
    if hasattr(inputs, "__array__") and not isinstance(inputs, Tensor):
        inputs = torch.as_tensor(inputs)
    # Loaders make lists of tuples. A list is one argument (images of several sizes) unless forward asks for more.
    several = isinstance(inputs, tuple) or (isinstance(inputs, list) and len(_arguments(model)[1]) > 1)
    call = Batch(tuple(inputs)) if several else Batch((inputs,))
    if not any(isinstance(leaf, Tensor) for leaf in _pytree.tree_leaves(call.args)):
        raise ValueError(f"a batch must hold tensors, got {type(inputs).__name__}")
    return call


def _arguments(model: nn.Module | None) -> tuple[list[str], set[str]]:
    """Names of what a network's forward takes, and those it cannot do without."""
    if model is None:
        return [], set()
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    try:
        signature = inspect.signature(model.forward)
    except (TypeError, ValueError):  # written in C
        return [], set()
    found = {name: parameter for name, parameter in signature.parameters.items() if parameter.kind in kinds}
    return list(found), {name for name, parameter in found.items() if parameter.default is parameter.empty}


def _checked(batch: Batch) -> Batch:
    images = batch.images
    if (
        images is not None
        and isinstance(batch.labels, Tensor)
        and batch.labels.ndim
        and len(images) != len(batch.labels)
    ):
        raise ValueError(f"a batch has {len(images)} inputs but {len(batch.labels)} labels")
    return batch


def _first_of(count: int) -> Any:
    return lambda leaf: leaf[:1] if isinstance(leaf, Tensor) and leaf.ndim and len(leaf) == count else leaf


def _is_image(value: Any) -> bool:
    return isinstance(value, Tensor) and value.ndim == 3
