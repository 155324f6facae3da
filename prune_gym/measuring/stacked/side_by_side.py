"""Repaired networks of several plans, run side by side in one pass.

A small network leaves an accelerator idle: launching its kernels takes longer than running them, and every plan
launches them all again. Stacked, one launch serves all plans. A large network fills the device alone, and stacking it
only adds the channels that narrow plans lend from wide ones. The bound on memory tells them apart.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any, Protocol, cast

import numpy as np
import torch
from torch import Tensor, nn

from hessian.channels.slicing import Cut, installed
from prune_gym.measuring.stacked import passes
from prune_gym.measuring.stacked.shapes import Stacked, stack
from prune_gym.tasks.outputs import tensors_of

Kept = Sequence[int]
State = Mapping[str, Tensor]

STACK_BYTES = 1 << 30
"""Memory for the maps and weights of plans that are run together, by :attr:`SideBySide.plans_at_once`."""

LIVE_MAPS = 2
"""Copies of a pass's largest inputs and outputs that are counted: a shortcut or a concatenation is kept beside them."""

LIVE_WEIGHTS = 3
"""Copies of the stacked weights that are counted: repaired, folded, and as the kernels want them."""

TRIED_ON = 8
"""Images that both ways are compared on."""

_TOLERANCE = 1e-3
"""Largest difference between both ways, relative to the largest output."""


class Repair(Protocol):
    """Weights of a pruned network; one that has ``stacked(cuts, wide)`` too repairs several plans together."""

    def state(self, cut: Cut) -> dict[str, Tensor]:
        """Repaired state dict at the pruned shapes."""
        ...


class Folded(Protocol):
    """The network that runs: the dense one, perhaps without its batch norms.

    Attributes:
        model: in evaluation mode, on its device.
    """

    model: nn.Module

    def fold(self, state: State) -> dict[str, Tensor]:
        """State dict of :attr:`model` from one of the dense network, at any shapes."""
        ...

    def attributes(self, values: Mapping[str, Mapping[str, Any]]) -> Mapping[str, Mapping[str, Any]]:
        """Those attributes of the dense network's modules that :attr:`model` has too."""
        ...


class SideBySide:
    """Runs several plans of one network together, where that computes what running them one by one does.

    Args:
        folded: the network that runs.
        cut: kept units a layer -> the plan applied to the dense network. Plans of fewer units keep a part of what plans
            of more units keep.
        repair: of the weights.
        units: units of every layer.
        images: what it is tried on, where the network is; a few are taken.
    """

    def __init__(
        self,
        folded: Folded,
        cut: Callable[[Kept], Cut],
        repair: Repair,
        units: Kept,
        images: Tensor,
    ) -> None:
        self._folded, self._cut, self._repair, self._units = folded, cut, repair, units
        self._images = images[:TRIED_ON]

    def plans_at_once(self, images: int) -> int:
        """Plans that :data:`STACK_BYTES` are enough for, at least 1.

        Counted are :data:`LIVE_MAPS` times the largest inputs and outputs of a module of the dense network, and
        :data:`LIVE_WEIGHTS` times its weights.

        Args:
            images: of a pass.
        """
        weights = sum(tensor.nbytes for tensor in self._folded.model.state_dict().values())
        return max(1, int(STACK_BYTES / (LIVE_MAPS * images * self._bytes_of_maps + LIVE_WEIGHTS * weights)))

    @cached_property
    def _bytes_of_maps(self) -> float:
        return passes.bytes_of_maps(self._folded.model, self._images)

    @contextmanager
    def installed(self, plans: Sequence[Kept]) -> Iterator[Callable[[Tensor], Any]]:
        """Repair plans and make ready to run them; gives a function from images [N, ...] to outputs [plans, N, ...].

        Args:
            plans: kept units a layer.
        """
        cuts, wide = [self._cut(plan) for plan in plans], self._cut(np.max(plans, axis=0).tolist())
        stacked = self._repaired(cuts, wide)
        with self._running(stacked, wide) as run:
            yield run

    def _repaired(self, cuts: Sequence[Cut], wide: Cut) -> Stacked:
        together = getattr(self._repair, "stacked", None)
        if together is not None:
            return cast("Stacked", together(cuts, wide))
        return stack(wide, cuts, [self._repair.state(cut) for cut in cuts])

    @contextmanager
    def _running(self, stacked: Stacked, wide: Cut) -> Iterator[Callable[[Tensor], Any]]:
        state, model = torch.func.vmap(self._folded.fold)(stacked), self._folded.model
        with installed(model, {}, self._folded.attributes(wide.attributes)):
            yield lambda images: passes.outputs(model, state, images)

    @cached_property
    def problem(self) -> str | None:
        """Reason for which plans cannot be run together, found by running some both ways; None where they can."""
        units = np.array(self._units)
        even = np.arange(len(units)) % 2 == 0
        narrow, wide = np.maximum(units // 2, 1), np.maximum(units - units // 4, 1)
        # Every layer is the narrow one in one of the plans.
        plans = [np.where(which, narrow, wide).tolist() for which in (even, ~even)]
        cuts = [self._cut(plan) for plan in plans]
        try:
            expected = [self._alone(cut) for cut in cuts]
            with self._running(self._tried(cuts, self._cut(wide.tolist())), self._cut(wide.tolist())) as run:
                found = torch.cat([output.flatten(2) for output in tensors_of(run(self._images))], dim=2)
        except Exception as error:  # a network's own code may be anything, and die of a stack in any way
            return f"the network does not run on stacked weights ({type(error).__name__}: {_first_line(error)})"
        difference = (found - torch.stack(expected)).abs().max()
        largest = torch.stack(expected).abs().max().clamp_min(torch.finfo(found.dtype).tiny)
        if not bool(difference <= _TOLERANCE * largest):
            return "the network's outputs change with channels that read as zero: it mixes channels on the way"
        return None

    @torch.no_grad()
    def _alone(self, cut: Cut) -> Tensor:
        state = self._repair.state(cut) if hasattr(self._repair, "stacked") else cut.state()
        folded, model = self._folded, self._folded.model
        with installed(model, folded.fold(state), folded.attributes(cut.attributes)):
            return torch.cat([output.flatten(1) for output in tensors_of(model(self._images.clone()))], dim=1)

    def _tried(self, cuts: Sequence[Cut], wide: Cut) -> Stacked:
        """Weights the plans are tried with: repaired where that is done together, else as cut, which is faster."""
        if hasattr(self._repair, "stacked"):
            return self._repaired(cuts, wide)
        return stack(wide, cuts, [cut.state() for cut in cuts])


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), "no message")
