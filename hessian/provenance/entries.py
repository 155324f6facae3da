"""Ids of every position along every axis of a network's parameters and buffers."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from hessian.provenance.classes import FIXED, Classes
from hessian.provenance.labels import Labels


@dataclass(frozen=True, eq=False)
class Entry:
    """One axis of one tensor (or what stands for it).

    Attributes:
        names: qualified names of the parameter or buffer, all of them where it is registered several times; the name of
            the module for channels of a normalisation without tensors.
        axis: the axis; None for a normalisation without tensors.
        ids: int64 [size].
        grouped: positions of a grouped convolution counted over all groups: inputs, or outputs if it is transposed.
    """

    names: tuple[str, ...]
    axis: int | None
    ids: Tensor
    grouped: bool = False


class Entries:
    """All entries of a network; registers its tensors with their maps.

    Args:
        model: the network.
        classes: where ids come from.
        labels: where maps go.
    """

    def __init__(self, model: nn.Module, classes: Classes, labels: Labels) -> None:
        self._classes = classes
        self.all: list[Entry] = []
        self._grouped: dict[tuple[int, int], Entry] = {}
        self._features: dict[str, Entry] = {}
        names: dict[int, list[str]] = {}
        tensors: dict[int, Tensor] = {}
        every = (*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False))
        for name, tensor in every:
            names.setdefault(id(tensor), []).append(name)
            tensors[id(tensor)] = tensor
        for key, tensor in tensors.items():
            self._register(tuple(names[key]), tensor, labels)
        self._axes = torch.zeros(classes.count, 2, dtype=torch.long)
        for index, entry in enumerate(self.all):
            self._axes[entry.ids, 0] = index

    def _register(self, names: tuple[str, ...], tensor: Tensor, labels: Labels) -> None:
        planes = []
        for axis, size in enumerate(tensor.shape):
            if size > 1:
                entry = Entry(names, axis, self._classes.block(size))
                self.all.append(entry)
                shape = [1] * tensor.ndim
                shape[axis] = size
                planes.append(entry.ids.reshape(shape))
        if planes and tensor.layout is torch.strided:
            labels.set(tensor, planes, activation=False)

    def grouped(self, ids: Tensor, count: int) -> Tensor:
        """Ids of a grouped convolution's positions counted over all groups, int64 [count].

        Args:
            ids: of the weight's axis that counts them inside one group.
            count: how many there are over all groups.
        """
        if int(ids[0]) == FIXED:
            return torch.full((count,), FIXED)
        key = (int(ids[0]), count)
        if key not in self._grouped:
            axis = self.all[int(self._axes[ids[0], 0])]
            self._grouped[key] = Entry(axis.names, axis.axis, self._classes.block(count), grouped=True)
            self.all.append(self._grouped[key])
        return self._grouped[key].ids

    def features(self, module: str, count: int) -> Tensor:
        """Ids of the channels of a normalisation that holds no tensors, int64 [count]."""
        if module not in self._features:
            self._features[module] = Entry((module,), None, self._classes.block(count))
            self.all.append(self._features[module])
        return self._features[module].ids
