"""Taylor pruning: squared first-order terms of gates, interleaved with training (Molchanov et al., CVPR 2019)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from baselines.workshop.registry import register
from baselines.workshop.removal import TOLERANCE, Selection, counts, everything, remove_lowest, remove_onto
from baselines.workshop.taps import gated, per_unit
from baselines.workshop.workbench import Outcome, Workbench
from hessian.channels.group import ChannelGroup


@register("taylor", "Taylor: squared gate gradients, channels removed while training")
def taylor_prune(
    bench: Workbench,
    *,
    removals: int = 25,
    frequency: int = 30,
    momentum: float = 0.9,
    lr: float = 1e-3,
    channels_per_removal: int | None = None,
) -> Outcome:
    """Taylor-FO-BN (Molchanov et al., "Importance Estimation for Neural Network Pruning", CVPR 2019).

    Every channel has a gate z = 1 behind its batch norm. A minibatch scores it with ``(z dL/dz)^2``, the squared
    first-order change of the loss if it went. Scores are averaged over ``frequency`` minibatches of ordinary training
    (SGD at 1e-3, momentum 0.9, no weight decay, as the authors' ImageNet runs) and over removals with momentum 0.9;
    then the lowest of the whole network are gated off for good, and training goes on. The gate of a residual stream
    is one gate in all its blocks; its score is divided by the number of convolutions that write to it, so that long
    streams do not look important for their length.

    Deviations: the authors' ImageNet runs remove 100 channels every 30 minibatches of 256, which is more than a small
    network has to spare; by default the way to the target is cut into ``removals`` equal parts
    (``channels_per_removal=100`` is theirs). Gates act where consumers read a channel, which in networks of ReLUs is
    the same function as behind its batch norms (:mod:`baselines.workshop.taps`): the gate of a stream counts every
    channel once, where the authors', behind every block's sum, counts the early blocks again in the later ones. The
    authors divide by the blocks of a stage, without the convolution that opens it, and their code for ResNets on
    ImageNet divides the scores inside blocks by 3 as well; the stem of these ResNets has no gate and stays whole. Their
    group lasso of 1e-8 is left out. The long fine-tuning that follows is the caller's.

    Args:
        bench: the workbench.
        removals: parts the way to the target is cut into.
        frequency: minibatches of training before each removal.
        momentum: weight of the scores so far.
        lr: learning rate, constant.
        channels_per_removal: remove that many units at a time instead, until the target is reached.

    Raises:
        ValueError: removals, frequency or momentum out of range.
    """
    if removals < 1 or frequency < 1 or not 0 <= momentum < 1:
        raise ValueError("removals and frequency are at least 1 and momentum in [0, 1)")
    model = bench.copy_dense()
    gates = {group.name: torch.ones(group.size, device=bench.device, requires_grad=True) for group in bench.groups}
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9)
    batches = bench.minibatches()
    selection = everything(bench.groups)
    scores: list[Tensor] | None = None
    step = 0
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.manual_seed(bench.seed)
        model.train()
        while not bench.target.reached(counts(selection)):
            step += 1
            fresh = [torch.zeros(group.num_units, device=bench.device) for group in bench.groups]
            for _ in range(frequency):
                images, labels = next(batches)
                terms = squared_terms(model, bench.groups, gates, images, labels, optimizer)
                fresh = [total + term / frequency for total, term in zip(fresh, terms, strict=True)]
                optimizer.step()
                bench.spent.images += len(labels)
                bench.spent.backward_passes += 1
            scores = fresh if scores is None else _averaged(scores, fresh, momentum)
            smaller = _smaller(bench, selection, scores, step / removals, channels_per_removal)
            if channels_per_removal and (counts(smaller) == counts(selection)).all():
                break
            selection = smaller
            _close(gates, bench.groups, selection)
            bench.report("removing channels", step, removals)
    return Outcome(selection, model)


def squared_terms(
    model: nn.Module,
    groups: list[ChannelGroup],
    gates: dict[str, Tensor],
    images: Tensor,
    labels: Tensor,
    optimizer: torch.optim.Optimizer | None = None,
) -> list[Tensor]:
    """``(z dL/dz)^2`` of every unit for one minibatch, over the number of its layer's writers, [num_units] a layer.

    Leaves the weights' gradients of the same backward pass for an optimizer's step.
    """
    if optimizer is not None:
        optimizer.zero_grad()
    for gate in gates.values():
        gate.grad = None
    with gated(model, groups, gates):
        cross_entropy(model(images), labels).backward()
    terms = []
    for group in groups:
        gate = gates[group.name]
        assert gate.grad is not None
        terms.append(per_unit(group, gate.detach() * gate.grad).square() / len(group.producers))
    return terms


def _smaller(
    bench: Workbench, selection: Selection, scores: list[Tensor], progress: float, fixed: int | None
) -> Selection:
    """One removal: a fixed number of units, or up to a share of the target; the last one lands on it."""
    if fixed is not None:
        return remove_lowest(selection, scores, bench.target, max_units=fixed)
    if progress >= 1:
        return remove_onto(selection, scores, bench.target)
    goal = bench.target.at(bench.target.ratio * progress)
    return remove_lowest(selection, scores, goal, ceiling=bench.target.ratio + TOLERANCE)


def _averaged(old: list[Tensor], new: list[Tensor], momentum: float) -> list[Tensor]:
    return [momentum * before + (1 - momentum) * after for before, after in zip(old, new, strict=True)]


@torch.no_grad()
def _close(gates: dict[str, Tensor], groups: list[ChannelGroup], selection: Selection) -> None:
    for group, there in zip(groups, selection, strict=True):
        gates[group.name][group.channels((~there).nonzero()[0])] = 0.0
