"""AdaPrune made physical: equal keeps in every block of channels; as a variant, adaptive activation thresholds."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from torch import Tensor

from baselines.workshop.registry import register
from baselines.workshop.removal import TOLERANCE, Selection, Target, counts, everything, keep_best, remove_onto
from baselines.workshop.taps import gated, per_unit, watched
from baselines.workshop.workbench import Outcome, Workbench
from hessian.channels.group import ChannelGroup
from hessian.channels.layer_types import CONV_TYPES, is_depthwise
from prune_gym.cost.limits import CountLimits

Grouping = Literal["auto", "input", "output"]
SMALLEST_STEP = 1e-4


@register("adaprune", "AdaPrune, adapted: equal keeps a channel block, or adaptive activation thresholds")
def adaprune_prune(
    bench: Workbench,
    *,
    variant: Literal["block", "activation"] = "block",
    block_size: int = 8,
    grouping: Grouping = "auto",
    power: float = 1.0,
    threshold_step: float = 0.05,
    round_epochs: int = 1,
    lr: float = 0.01,
) -> Outcome:
    """Accelerator-aware AdaPrune (IEEE Transactions on Sustainable Computing), adapted to removing whole channels.

    *What is published.* "AdaPrune: An Accelerator-Aware Pruning Technique for Sustainable CNN Accelerators" prunes in
    input channel groups or in output channel groups and switches between the two by the fetching pattern of a sparse
    accelerator, so that zeros are evenly distributed in every fetching group. This is what its abstract says; the
    paper's details could not be checked, and no code of the authors was found.

    *What is adapted.* The rule is kept and the grain is changed: instead of zeros for an accelerator that skips them,
    whole channels go. The units of a layer are cut into blocks of ``block_size`` neighbours (the channels one fetch
    brings), and **every block keeps the same number**. A channel's worth is the L1 norm of the weights fetched with it:
    under input grouping the columns of its consumers, under output grouping the rows of its producers.
    ``grouping="auto"`` stands in for the analysis of an accelerator: along the input channels where every consumer has
    at least one full block of them a group, else (narrow inputs, grouped convolutions) along the output channels. All
    layers share one rate, moved onto the target; counts are whole blocks, so a target may be missed by more than 1 %,
    which is reported. Nothing is trained. The norm, the block size, the stand-in and the equal rates are choices made
    here, not the paper's: a result of this method is one of balanced blocks, not of the published AdaPrune.

    ``variant="activation"`` is adaptive activation-based structured pruning (Zhao, Jain & Zhao, arXiv:2201.10520,
    2022), another method, which removes channels: scores are ``mean |ReLU(x)|^p`` of a channel's feature maps; each
    round the threshold rises by a step and everything below it goes, with training after; a round that overshoots the
    target is rolled back and the step halved. Its deviations, from the code of the authors' successor (Automatic
    Attention Pruning, AISTATS 2023):

    - Scores are divided by their layer's mean, as activations of different layers have no common scale, where the
      authors scale the threshold by every layer's share of the parameters, or of the FLOPs, left.
    - Powers are averaged over images and positions; their code averages over images before it takes the power, which
      is the same at p = 1. Their images are the last batch of the validation, here all the loader's.
    - Survivors are fine-tuned for ``round_epochs``, where the authors start the whole schedule again every round (182
      epochs for ResNet-56).
    - A residual stream has one score; their code masks each of its convolutions by maps of its own.
    - A last round ranks the few channels that single thresholds cannot tell apart.

    Args:
        bench: the workbench.
        variant: ``"block"`` or ``"activation"``.
        block_size: channels a block; a layer uses the largest divisor of its width up to this.
        grouping: ``"input"``, ``"output"``, or ``"auto"``.
        power: p of the activation variant.
        threshold_step: first step of its threshold.
        round_epochs: passes over the images after each of its rounds.
        lr: peak learning rate there.

    Raises:
        ValueError: unknown variant.
    """
    if variant == "activation":
        return _by_activation(bench, power, threshold_step, round_epochs, lr)
    if variant != "block":
        raise ValueError(f"variant is 'block' or 'activation'; got {variant!r}")
    return _by_block(bench, block_size, grouping)


# Balanced blocks


def _by_block(bench: Workbench, block_size: int, grouping: Grouping) -> Outcome:
    if block_size < 2 or grouping not in ("auto", "input", "output"):
        raise ValueError(
            f"block_size is at least 2 and grouping 'auto', 'input' or 'output'; got {block_size!r} and {grouping!r}"
        )
    blocks = [num_blocks(group.num_units, block_size) for group in bench.groups]
    groupings = [fetch_grouping(bench, group, block_size) if grouping == "auto" else grouping for group in bench.groups]
    kept = _balanced(bench.target, np.array(blocks)).uniform()
    selection = []
    for group, count, along, rows in zip(bench.groups, kept, groupings, blocks, strict=True):
        score = fetched_weight(bench, group, along).reshape(rows, -1)
        selection.append(np.concatenate(keep_best(list(score), [int(count) // rows] * rows)))
    names = [group.name for group in bench.groups]
    return Outcome(selection, details={"grouping": dict(zip(names, groupings, strict=True)), "blocks": blocks})


def num_blocks(units: int, block_size: int) -> int:
    """Blocks of a layer: its width over the largest divisor up to ``block_size``; one block where that would be 1."""
    divisor = max(size for size in range(1, min(block_size, units) + 1) if units % size == 0)
    return units // divisor if divisor > 1 else 1


def _balanced(target: Target, blocks: np.ndarray) -> Target:
    """The target with counts that are the same in every block."""
    fewest = -(-target.limits.minimum // blocks) * blocks
    limits = CountLimits(target.limits.units, np.minimum(fewest, target.limits.units), blocks.astype(np.int64))
    reachable = target.measure.largest_reduction(limits)
    ratio = min(target.ratio, reachable)
    return Target(ratio, target.ratio_of, target.measure, limits)


def fetch_grouping(bench: Workbench, group: ChannelGroup, block_size: int) -> Grouping:
    """Along which channels weights are taken to be fetched, ``block_size`` words at a time."""
    readers = [bench.modules[member.module] for member in group.consumers]
    inputs = [
        module.in_channels // module.groups if isinstance(module, CONV_TYPES) else module.in_features
        for module in readers
    ]
    return "input" if min(inputs) >= block_size else "output"


@torch.no_grad()
def fetched_weight(bench: Workbench, group: ChannelGroup, along: Grouping) -> Tensor:
    """L1 norm of the weights read with every unit, [num_units]."""
    members = group.consumers if along == "input" else group.producers
    total = torch.zeros(group.size, dtype=torch.float64)
    for member in members:
        module = bench.modules[member.module]
        weight = module.weight.detach().cpu().double()
        own_axis = (1 if along == "input" else 0) if not getattr(module, "transposed", False) else int(along != "input")
        axis = 0 if is_depthwise(module) else own_axis
        norms = weight.abs().sum(dim=[other for other in range(weight.ndim) if other != axis])
        total += norms[member.indices % len(norms)].sum(dim=1)
    return per_unit(group, total)


# Adaptive activation thresholds


def _by_activation(bench: Workbench, power: float, step: float, round_epochs: int, lr: float) -> Outcome:
    if power <= 0 or step <= 0:
        raise ValueError(f"power and threshold_step are positive; got {power} and {step}")
    target, model = bench.target, bench.copy_dense()
    selection, threshold, rounds = everything(bench.groups), 0.0, 0
    scores = activation_scores(bench, model, selection, power)
    while target.ratio - target.reduction(counts(selection)) > TOLERANCE and step > SMALLEST_STEP:
        rounds += 1
        smaller = below_threshold(selection, scores, threshold + step, target.limits)
        if target.reduction(counts(smaller)) > target.ratio + TOLERANCE:
            step /= 2  # rolled back: the round is tried again from where it began
            continue
        threshold += step
        if (counts(smaller) == counts(selection)).all():
            if threshold > max(float(score.max()) for score in scores):
                break
            continue
        selection = smaller
        _fine_tune(bench, model, selection, round_epochs, lr)
        scores = activation_scores(bench, model, selection, power)
        bench.report("raising the threshold", int(1e3 * target.reduction(counts(selection))), int(1e3 * target.ratio))
    if not target.reached(counts(selection)):
        selection = remove_onto(selection, scores, target)
    return Outcome(selection, model, details={"rounds": rounds, "threshold": threshold})


def below_threshold(selection: Selection, scores: list[Tensor], threshold: float, limits: CountLimits) -> Selection:
    """Remove every unit that scores below the threshold; layers keep at least their legal minimum."""
    smaller = []
    for there, score, fewest in zip(selection, scores, limits.minimum, strict=True):
        values = np.where(there, score.cpu().numpy(), -np.inf)
        stay = there & (values >= threshold)
        best = np.zeros_like(there)
        best[np.argsort(-values, kind="stable")[:fewest]] = True
        smaller.append(stay | (best & there))
    return smaller


@torch.no_grad()
def activation_scores(bench: Workbench, model: torch.nn.Module, selection: Selection, power: float) -> list[Tensor]:
    """``mean |ReLU(x)|^p`` of every unit's feature maps, over its layer's mean, [num_units] a layer."""
    sums = {group.name: torch.zeros(group.size, dtype=torch.float64) for group in bench.groups}

    def visit(group: ChannelGroup, maps: Tensor) -> None:
        sums[group.name] += maps.relu().pow(power).mean(dim=(2, 3)).sum(dim=0).cpu().double()

    with gated(model, bench.groups, bench.gates(selection)), watched(model, bench.groups, visit):
        model.eval()
        for images, _ in bench.data.batches(bench.batch_size):
            model(images)
    bench.spent.images += len(bench.data)
    scores = []
    for group, there in zip(bench.groups, selection, strict=True):
        score = per_unit(group, sums[group.name])
        scores.append(score / score[torch.from_numpy(there)].mean().clamp_min(1e-300))
    return scores


def _fine_tune(bench: Workbench, model: torch.nn.Module, selection: Selection, epochs: int, lr: float) -> None:
    with gated(model, bench.groups, bench.gates(selection)):
        bench.train(model, epochs=epochs, lr=lr)
