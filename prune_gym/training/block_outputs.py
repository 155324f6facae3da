"""Distillation of what happens inside: outputs of named modules of a pruned network against the dense one's."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from hessian.channels.group import ChannelGroup
from hessian.channels.norms import shift_absorbing_norms
from hessian.channels.slicing import NetworkSlicer, Plan
from hessian.support.names import unknown

Blocks = Mapping[str, Tensor | None]
"""Module name -> the channels (dimension 1) of the dense output that the pruned module still has; None for all."""


class BlockOutputs:
    """Squared error of module outputs relative to the dense outputs' mean square, averaged over the modules.

    Args:
        model: the pruned network.
        teacher: the dense network.
        blocks: modules that both have.

    Raises:
        ValueError: a network has no such module; the nearest is named.
    """

    def __init__(self, model: nn.Module, teacher: nn.Module, blocks: Blocks) -> None:
        self._blocks = dict(blocks)
        self._networks = (model, teacher)
        self._seen: tuple[dict[str, Tensor], dict[str, Tensor]] = ({}, {})
        for network in self._networks:
            names = [name for name, _ in network.named_modules() if name]
            for name in self._blocks:
                if name not in names:
                    raise ValueError(unknown("module", name, names))

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Inside, forward passes of both networks leave their modules' outputs for :meth:`loss`."""
        handles = [
            network.get_submodule(name).register_forward_hook(_keep(seen, name))
            for network, seen in zip(self._networks, self._seen, strict=True)
            for name in self._blocks
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()
            for seen in self._seen:
                seen.clear()

    def loss(self) -> Tensor:
        """Of the last forward passes of the two networks, a scalar.

        Raises:
            ValueError: a module's outputs differ in shape after the choice of channels.
        """
        own, dense = self._seen
        errors = []
        for name, kept in self._blocks.items():
            target = dense[name].detach()
            target = target if kept is None else target.index_select(1, kept.to(target.device))
            if own[name].shape != target.shape:
                raise ValueError(
                    f"module {name!r} gives {list(own[name].shape)}, the dense one {list(target.shape)}; say in blocks "
                    "which channels it keeps"
                )
            target = target.to(own[name].dtype)
            errors.append((own[name] - target).square().mean() / target.square().mean().clamp_min(1e-12))
        return torch.stack(errors).mean()


def blocks_of_plan(
    model: nn.Module, groups: Sequence[ChannelGroup], plan: Plan, example_input: Any
) -> dict[str, Tensor | None]:
    """One module a prunable layer whose outputs a pruned network can be held to: its last producer, or the norm behind.

    Args:
        model: the dense network.
        groups: its prunable layers.
        plan: layer name -> removed channel indices.
        example_input: what the network accepts.

    Returns:
        Module name -> channels it keeps, None for all.
    """
    norms = shift_absorbing_norms(model, example_input)
    slices = NetworkSlicer(model, groups).cut(plan).slices
    names = [norms.get(group.producers[-1].module, group.producers[-1].module) for group in groups]
    return {name: slices[name].rows if name in slices else None for name in names}


def _keep(seen: dict[str, Tensor], name: str) -> Callable[[nn.Module, Any, Tensor], None]:
    def hook(module: nn.Module, args: Any, output: Tensor) -> None:
        seen[name] = output

    return hook
