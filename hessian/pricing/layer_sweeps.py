"""Elimination order and loss curves of every layer of a network, from the Kronecker factors of its consumers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from hessian.channels.group import ChannelGroup, Member
from hessian.obs.dual import DampedRows
from hessian.obs.factors import Consumer, KroneckerFactors
from hessian.obs.primal import DampedMatrix
from hessian.obs.sweep import greedy_sweep
from hessian.patches.matrices import matrix_columns, num_groups, weight_matrix
from hessian.support.batches import model_device
from hessian.support.distributed import Workers, shares


@dataclass(frozen=True, eq=False)
class LayerCurves:
    """Prices, order and loss curve of one layer, on the CPU.

    Attributes:
        prices: float64 [num_units], price in nats of removing a single unit.
        order: LongTensor [num_units], units in the order of removal.
        repaired: float64 [num_units], predicted loss increase after removing the first k units.
        zeroed: the same without repair.
    """

    prices: Tensor
    order: Tensor
    repaired: Tensor
    zeroed: Tensor

    @classmethod
    def unpack(cls, table: Tensor) -> LayerCurves:
        """From the rows of a float64 tensor [4, num_units]."""
        prices, order, repaired, zeroed = table.cpu().unbind()
        return cls(prices, order.long(), repaired, zeroed)

    def pack(self) -> Tensor:
        """All of it as one float64 tensor [4, num_units]."""
        return torch.stack([self.prices, self.order.double(), self.repaired, self.zeroed])


def sweep_layers(
    model: nn.Module,
    groups: Sequence[ChannelGroup],
    factors: Mapping[str, KroneckerFactors],
    damping: float,
    workers: Workers,
    progress: Callable[[str, int, int], None] | None = None,
) -> dict[str, LayerCurves]:
    """Sweep every layer; several processes share them and all get all results.

    Args:
        model: the dense network.
        groups: its prunable layers.
        factors: Kronecker factors of every consumer.
        damping: relative damping of the input factors.
        workers: the processes.
        progress: called with (description, done, total) after every layer of this process.

    Returns:
        Layer name -> :class:`LayerCurves`, in the order of ``groups``.

    Raises:
        ValueError: an input factor is not positive definite.
    """
    owners = shares([_cost(group, factors) for group in groups], workers.size)
    own = [group for group, owner in zip(groups, owners, strict=True) if owner == workers.rank]
    swept: dict[str, LayerCurves] = {}
    with workers.together():
        consumers = _Consumers(model, own, factors, damping)
        for done, group in enumerate(own, start=1):
            swept[group.name] = sweep_layer(consumers.of(group))
            if progress is not None:
                progress("elimination sweeps", done, len(own))
    if workers.size == 1:
        return swept
    device = model_device(model)
    for group, owner in zip(groups, owners, strict=True):
        mine = owner == workers.rank
        table = swept[group.name].pack() if mine else torch.empty(4, group.num_units, dtype=torch.float64)
        swept[group.name] = LayerCurves.unpack(workers.broadcast(table.to(device), owner))
    return {group.name: swept[group.name] for group in groups}


def sweep_layer(consumers: Sequence[Consumer]) -> LayerCurves:
    """Greedy elimination of one layer, given what its consumers contribute."""
    prices = torch.stack([consumer.single_prices() for consumer in consumers]).sum(dim=0)
    sweep = greedy_sweep(consumers)
    zeroed = torch.stack([consumer.zeroing_curve(sweep.order) for consumer in consumers]).sum(dim=0)
    repaired = torch.cat([torch.zeros(1, dtype=torch.float64), sweep.increments.cumsum(0)[:-1]])
    return LayerCurves(prices.cpu(), sweep.order, repaired, zeroed.cpu().clamp_min(0))


class _Consumers:
    """Consumers of layers; a damped factor is made once and dropped after the last layer that needs it."""

    def __init__(
        self,
        model: nn.Module,
        groups: Sequence[ChannelGroup],
        factors: Mapping[str, KroneckerFactors],
        damping: float,
    ) -> None:
        self._modules: dict[str, Any] = dict(model.named_modules())
        self._factors = factors
        self._damping = damping
        self._uses = Counter(member.module for group in groups for member in group.consumers)
        self._damped: dict[str, DampedMatrix | DampedRows] = {}

    def of(self, group: ChannelGroup) -> list[Consumer]:
        """The layer's consumers, in order; ask for every layer once."""
        return [self._consumer(group, member) for member in group.consumers]

    def _consumer(self, group: ChannelGroup, member: Member) -> Consumer:
        name, module = member.module, self._modules[member.module]
        damped = self._damped.pop(name) if name in self._damped else self._factors[name].damped(self._damping)
        self._uses[name] -= 1
        if self._uses[name]:
            self._damped[name] = damped
        blocks = unit_columns(group, member, module)
        return self._factors[name].consumer(damped, weight_matrix(module, bias=False), blocks)


def unit_columns(group: ChannelGroup, member: Member, module: Any) -> Tensor:
    """Columns of a consumer's weight matrix that belong to each unit, LongTensor [num_units, c] inside one group."""
    positions = group.columns(member)
    groups = num_groups(module)
    if groups > 1:
        period = module.in_channels // groups
        positions = positions[positions < period].view(group.num_units, -1)
    return matrix_columns(module, positions)


def _cost(group: ChannelGroup, factors: Mapping[str, KroneckerFactors]) -> float:
    """Rough time of a layer's sweep: numbers held by its consumers' factors times their width."""
    moments = (factors[member.module].inputs for member in group.consumers)
    return sum(float(moment.values.numel()) * moment.values.shape[-1] for moment in moments)
