"""Sizes of filters: the criterion that needs no data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from hessian.channels.group import ChannelGroup
from hessian.patches.matrices import weight_matrix
from hessian.support.layout import in_float64


def filter_norms(group: ChannelGroup, modules: Mapping[str, Any]) -> Tensor:
    """L2 norm of every unit's filters over all producers of a layer, float64 [num_units]."""
    total = torch.zeros(group.num_units, dtype=torch.float64)
    for member in group.producers:
        rows = in_float64(weight_matrix(modules[member.module], bias=False).flatten(0, 1)).square().sum(dim=1).cpu()
        total += torch.stack([rows[member.indices[list(unit)].reshape(-1)].sum() for unit in group.units])
    return total.sqrt()
