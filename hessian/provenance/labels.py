"""Index maps of tensors: for every element, the id of the channel it belongs to.

A map is a list of *planes*. An activation has one plane; a parameter has one for each of its axes (an element of a
convolution's weight belongs to a row and to a column). A plane is an int64 tensor that broadcasts to the shape of its
tensor: dimensions along which the ids do not change have size one, so that a map of a feature map
[1, C, H, W] is held as [1, C, 1, 1].

Maps belong to *storages*, not to tensor objects: a view is looked up by its offset and strides, so that every view
PyTorch knows (or will know) is followed exactly and without a rule, and a write through a view reaches its base.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef

from hessian.provenance.classes import FIXED

Planes = list[Tensor]


class MisfitError(ValueError):
    """A map has another shape than the tensor it is given to: the operator did something else than its rule says."""


@dataclass
class _Record:
    """Map of a storage: planes over the geometry of the tensor it was given for."""

    storage: StorageWeakRef
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int
    planes: Planes
    activation: bool


@dataclass(frozen=True)
class Map:
    """Index map of one tensor.

    Attributes:
        planes: int64 tensors that broadcast to the tensor's shape; none where nothing is known.
        activation: computed from the network's input, rather than from parameters alone.
    """

    planes: Planes
    activation: bool

    @property
    def plane(self) -> Tensor | None:
        """The only plane of an activation."""
        return self.planes[0] if self.planes else None


class Labels:
    """Index maps of all live tensors.

    Attributes:
        lost: planes of tensors without elements, of which a view cannot be followed.
    """

    def __init__(self) -> None:
        self.lost: Planes = []
        self._records: dict[int, _Record] = {}
        self._sweep_at = 4096

    def of(self, tensor: Tensor) -> Map | None:
        """The map of a tensor, or None where nothing is known of it."""
        record = self._record(tensor)
        if record is None:
            return None
        geometry = tuple(tensor.shape), tensor.stride(), tensor.storage_offset()
        if geometry == (record.shape, record.strides, record.offset):
            return Map(record.planes, record.activation)
        planes = [compressed(plane) for plane in _viewed(record, tensor)]
        if any(not plane.numel() for plane in planes):
            self.lost += record.planes
            planes = [torch.full((1,) * tensor.ndim, FIXED)]
        return Map(planes, record.activation)

    def set(self, tensor: Tensor, planes: Sequence[Tensor], activation: bool) -> None:
        """Give a tensor a map; a tensor that shares another one's storage writes into that one's map.

        Raises:
            MisfitError: a plane does not broadcast to the tensor's shape, or says nothing; nothing was changed.
        """
        planes = [_broadcast(plane, tensor) for plane in planes]
        record = self._record(tensor)
        if record is not None and not self._covers(record, tensor):
            self._write(record, tensor, planes, activation)
            return
        self._sweep()
        storage = tensor.untyped_storage()
        self._records[storage._cdata] = _Record(
            StorageWeakRef(storage),
            tuple(tensor.shape),
            tensor.stride(),
            int(tensor.storage_offset()),
            planes,
            activation,
        )

    def settle(self, tensor: Tensor) -> None:
        """Say that nothing in a tensor's storage can go, whatever views of it will look like."""
        storage = tensor.untyped_storage()
        self._records[storage._cdata] = _Record(StorageWeakRef(storage), (), (), 0, [torch.tensor(FIXED)], True)

    def forget(self, tensor: Tensor) -> None:
        """Drop what is known of a tensor that is new."""
        self._records.pop(tensor.untyped_storage()._cdata, None)

    def _record(self, tensor: Tensor) -> _Record | None:
        record = self._records.get(tensor.untyped_storage()._cdata)
        return None if record is None or record.storage.expired() else record

    @staticmethod
    def _covers(record: _Record, tensor: Tensor) -> bool:
        """Return whether a tensor takes all elements of its storage that a record tells of."""
        if not record.shape or not math.prod(record.shape):
            return True
        first, last = _span(tensor.shape, tensor.stride(), int(tensor.storage_offset()))
        low, high = _span(record.shape, record.strides, record.offset)
        same = (tuple(tensor.shape), tensor.stride(), tensor.storage_offset())
        dense = tensor.numel() == last + 1 - first and first <= low and high <= last
        return dense or same == (record.shape, record.strides, record.offset)

    @staticmethod
    def _write(record: _Record, tensor: Tensor, planes: Planes, activation: bool) -> None:
        now = [compressed(plane) for plane in _viewed(record, tensor)]
        if len(now) == len(planes) and all(
            torch.equal(*torch.broadcast_tensors(one, other)) for one, other in zip(now, planes, strict=True)
        ):
            return
        count = max(len(record.planes), len(planes))
        neutral = [torch.full((1,) * len(record.shape), -1)] * (count - len(record.planes))
        full = [_flat(record, plane, tensor) for plane in (*record.planes, *neutral)]
        for index, plane in enumerate(full):
            new = planes[index] if index < len(planes) else torch.tensor(-1)
            torch.as_strided(plane, tensor.shape, tensor.stride(), tensor.storage_offset()).copy_(new)
        record.shape, record.strides, record.offset = (len(full[0]),), (1,), 0
        record.planes, record.activation = full, record.activation or activation

    def _sweep(self) -> None:
        """Forget storages that are gone."""
        if len(self._records) >= self._sweep_at:
            self._records = {key: record for key, record in self._records.items() if not record.storage.expired()}
            self._sweep_at = 2 * len(self._records) + 4096


def compressed(plane: Tensor) -> Tensor:
    """The plane with size one in every dimension along which it does not change."""
    for dim, size in enumerate(plane.shape):
        if size > 1:
            first = plane.narrow(dim, 0, 1)
            if plane.stride(dim) == 0 or bool((plane == first).all()):
                plane = first
    return plane


def varying(plane: Tensor) -> tuple[int, ...]:
    """Dimensions along which a compressed plane changes."""
    return tuple(dim for dim, size in enumerate(plane.shape) if size > 1)


def _span(shape: Sequence[int], strides: Sequence[int], offset: int) -> tuple[int, int]:
    """First and last element of a storage that a geometry reaches."""
    return offset, offset + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))


def _broadcast(plane: Tensor, tensor: Tensor) -> Tensor:
    missing = tensor.ndim - plane.ndim
    if (
        not plane.numel()
        or missing < 0
        or any(size not in (1, whole) for size, whole in zip(plane.shape, tensor.shape[missing:], strict=True))
    ):
        raise MisfitError(f"a map {tuple(plane.shape)} does not fit a tensor {tuple(tensor.shape)}")
    return plane.reshape((1,) * missing + tuple(plane.shape))


def _viewed(record: _Record, view: Tensor) -> Planes:
    """Planes of a view of a storage; not compressed."""
    if not record.shape:
        return [plane.reshape((1,) * view.ndim) for plane in record.planes]
    indices = _decoded(record, view)
    if indices is None:
        flat = [_flat(record, plane, view) for plane in record.planes]
        return [torch.as_strided(plane, view.shape, view.stride(), view.storage_offset()) for plane in flat]
    planes = []
    for plane in record.planes:
        zero = torch.zeros((1,) * view.ndim, dtype=torch.long)
        picks = tuple(zero if size == 1 else index for size, index in zip(plane.shape, indices, strict=True))
        planes.append(plane[picks])
    return planes


def _flat(record: _Record, plane: Tensor, view: Tensor) -> Tensor:
    """A plane as one entry an element of the storage, int64 [elements]."""
    elements = view.untyped_storage().nbytes() // view.element_size()
    flat = torch.full((elements,), -1, dtype=torch.long)
    torch.as_strided(flat, record.shape, record.strides, record.offset).copy_(plane.expand(record.shape))
    return flat


def _decoded(record: _Record, view: Tensor) -> list[Tensor] | None:
    """For each dimension of the record, the coordinate each element of the view has there; None if that is unclear.

    Returned tensors have the view's number of dimensions, with size one where the coordinate does not change.
    """
    dims = sorted((dim for dim, size in enumerate(record.shape) if size > 1), key=lambda dim: -record.strides[dim])
    zero = torch.zeros((1,) * view.ndim, dtype=torch.long)
    indices, reach = [zero] * len(record.shape), [0] * len(record.shape)
    left = int(view.storage_offset()) - record.offset
    for dim in dims:
        if record.strides[dim] == 0:
            return None
        reach[dim], left = divmod(left, record.strides[dim])
        indices[dim] = zero + reach[dim]
    if left:
        return None
    for axis, (size, stride) in enumerate(zip(view.shape, view.stride(), strict=True)):
        if size == 1 or stride == 0:
            continue
        shape = [1] * view.ndim
        shape[axis] = size
        if not _spread(record, dims, torch.arange(size).reshape(shape), size, stride, indices, reach):
            return None
    fits = all(0 <= reach[dim] < record.shape[dim] for dim in dims)
    return indices if fits else None


def _spread(
    record: _Record, dims: list[int], steps: Tensor, size: int, stride: int, indices: list[Tensor], reach: list[int]
) -> bool:
    """Add one dimension of a view to the coordinates; False where it does not run along dimensions of the record."""
    while size > 1:
        dim = next((dim for dim in dims if record.strides[dim] <= stride and stride % record.strides[dim] == 0), None)
        if dim is None:
            return False
        step, extent = stride // record.strides[dim], record.shape[dim]
        if reach[dim] + (size - 1) * step < extent:
            indices[dim] = indices[dim] + steps * step
            reach[dim] += (size - 1) * step
            return True
        if extent % step or reach[dim] or size % (extent // step):
            return False
        turns = extent // step  # the view runs through this dimension and goes on in the next outer one
        indices[dim] = indices[dim] + steps % turns * step
        reach[dim] += (turns - 1) * step
        steps, size, stride = steps // turns, size // turns, stride * turns
    return True
