"""DepGraph: group-norm importance over everything coupled to a channel (Fang et al., CVPR 2023)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from baselines.workshop.registry import register
from baselines.workshop.removal import TOLERANCE, Selection, everything, remove_lowest, remove_onto
from baselines.workshop.taps import per_unit
from baselines.workshop.workbench import Outcome, Workbench
from hessian.channels.group import ChannelGroup
from hessian.channels.layer_types import CONV_TYPES, TRANSPOSED_TYPES, is_depthwise

SPARSITY = 5e-4
SHARPNESS = 4.0
_NORMS = (nn.modules.batchnorm._BatchNorm, nn.LayerNorm)


@register("dep-graph", "DepGraph: group norm of all coupled parameters, global ranking in small steps")
def dep_graph_prune(
    bench: Workbench,
    *,
    steps: int = 100,
    sparse_epochs: int = 0,
    sparse_lr: float = 0.01,
    sparsity: float = SPARSITY,
) -> Outcome:
    """DepGraph (Fang et al., "DepGraph: Towards Any Structural Pruning", CVPR 2023).

    A channel's importance is the squared norm of the parameters coupled to it, averaged over the members of its
    group: rows of producers, scales of normalisations, columns of consumers. Importances are divided by their layer's
    mean, ranked over the whole network, and the lowest go in many small steps, after each of which norms are taken
    anew on what is left. Optional sparse learning before (``sparse_epochs``) adds ``sparsity * gamma_k * w`` to the
    gradient of channel k's parameters, ``gamma_k = 2^(4 (I_max - I_k) / (I_max - I_min))``, I the root of the
    importance, without weight decay, as the authors' code does.

    The coupling and the cutting are torch-pruning's, the authors' library. Its pruner is not called, because it stops
    at a ratio of channels and keeps no plan in the dense network's numbering; importances equal those of its
    ``GroupMagnitudeImportance(p=2, group_reduction="mean", normalizer="mean")`` on the network as pruned so far
    (tested).

    Deviations: 100 steps to the target, where the authors cut the way to an empty network into 400 and stop at the
    target; sparse learning is off by default, as in the paper's rows without it, and importances are divided by the
    mean after it too, where the authors' CIFAR runs divide by the maximum; the last step passes over units that would
    overshoot the target by more than 1 %.

    Args:
        bench: the workbench.
        steps: in how many equal parts of the target channels are removed.
        sparse_epochs: passes over the images with sparse learning; the authors' CIFAR runs take 100.
        sparse_lr: its peak learning rate; theirs, in steps.
        sparsity: weight of the group regulariser; theirs.

    Raises:
        ValueError: fewer than one step.
    """
    if steps < 1:
        raise ValueError(f"steps is at least 1; got {steps}")
    model = bench.copy_dense()
    if sparse_epochs > 0:
        sparse_learning(bench, model, sparse_epochs, sparse_lr, sparsity)
    selection = everything(bench.groups)
    shrinking = bench.copy_dense()
    shrinking.load_state_dict(model.state_dict())
    for step in range(1, steps + 1):
        goal = bench.target.at(bench.target.ratio * step / steps)
        scores = importances(shrinking, bench.groups, selection)
        selection = remove_lowest(selection, scores, goal, ceiling=bench.target.ratio + TOLERANCE)
        if step == steps:
            selection = remove_onto(selection, scores, bench.target)
        silence(shrinking, bench.groups, selection)
        bench.report("removing channels", step, steps)
    return Outcome(selection, model)


@torch.no_grad()
def importances(model: nn.Module, groups: Sequence[ChannelGroup], selection: Selection) -> list[Tensor]:
    """Group-norm importance of every unit, [num_units] a layer, mean 1 over the units that are still there.

    Args:
        model: network in which removed channels are :func:`silenced <silence>`.
        groups: its layers.
        selection: units still there.
    """
    modules = dict(model.named_modules())
    scores = []
    for group, there in zip(groups, selection, strict=True):
        score = per_unit(group, coupled_squares(group, modules))
        scores.append(score / score[torch.from_numpy(there).to(score.device)].mean())
    return scores


def coupled_squares(group: ChannelGroup, modules: dict[str, Any]) -> Tensor:
    """Squared norm of what is coupled to every channel, mean over the layer's members, [size]; differentiable."""
    return torch.stack(list(_member_squares(group, modules))).mean(dim=0)


def _member_squares(group: ChannelGroup, modules: dict[str, Any]) -> Iterator[Tensor]:
    for member in group.producers:
        module = modules[member.module]
        rows = (module.weight.transpose(0, 1) if isinstance(module, TRANSPOSED_TYPES) else module.weight).flatten(1)
        squares = rows.square().sum(dim=1)
        yield squares[member.indices.to(squares.device) % len(squares)].sum(dim=1)
    for member in group.carriers:
        module = modules[member.module]
        if member.parameter is None and isinstance(module, _NORMS) and module.weight is not None:
            yield module.weight.flatten().square()[member.indices.to(module.weight.device)].sum(dim=1)
    for member in group.consumers:
        module = modules[member.module]
        columns = module.weight if isinstance(module, TRANSPOSED_TYPES) else module.weight.transpose(0, 1)
        squares = columns.flatten(1).square().sum(dim=1)
        yield squares[member.indices.to(squares.device) % len(squares)].sum(dim=1)


@torch.no_grad()
def silence(model: nn.Module, groups: Sequence[ChannelGroup], selection: Selection) -> None:
    """Set everything that belongs to removed units to zero, in place."""
    modules: dict[str, Any] = dict(model.named_modules())
    for group, there in zip(groups, selection, strict=True):
        gone = group.channels((~there).nonzero()[0])
        if not gone:
            continue
        for member in (*group.producers, *group.carriers):
            module = modules[member.module]
            if member.parameter is not None or module.weight is None:
                continue
            transposed = isinstance(module, TRANSPOSED_TYPES) and not is_depthwise(module)
            weight = module.weight.transpose(0, 1) if transposed else module.weight
            rows = member.indices[gone].reshape(-1).to(weight.device)
            weight[rows % len(weight)] = 0
        for member in group.consumers:
            module = modules[member.module]
            weight = module.weight if isinstance(module, TRANSPOSED_TYPES) else module.weight.transpose(0, 1)
            columns = member.indices[gone].reshape(-1).to(weight.device)
            weight[columns % len(weight) if isinstance(module, CONV_TYPES) else columns] = 0


def sparse_learning(bench: Workbench, model: nn.Module, epochs: int, lr: float, sparsity: float) -> None:
    """Train in place while the least important channels are pulled to zero.

    The penalty ``sparsity / 2 * sum_k gamma_k |w_k|^2`` has the gradient the authors' code adds and takes the place of
    weight decay; gamma follows the weights.
    """
    modules = dict(model.named_modules())

    def loss_of(logits: Tensor, labels: Tensor, images: Tensor) -> Tensor:
        penalty = logits.new_zeros(())
        for group in bench.groups:
            members = torch.stack(list(_member_squares(group, modules)))
            importance = members.detach().mean(dim=0).sqrt()
            span = (importance.max() - importance.min()).clamp_min(torch.finfo(importance.dtype).tiny)
            gamma = 2.0 ** (SHARPNESS * (importance.max() - importance) / span)
            penalty = penalty + (gamma * members).sum()
        return cross_entropy(logits, labels) + 0.5 * sparsity * penalty

    bench.train(model, epochs=epochs, lr=lr, loss_of=loss_of, weight_decay=0.0, description="sparse learning")
