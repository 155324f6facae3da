"""AutoCompress: annealed layer rates, ADMM, shrink, purify, in rounds (Liu et al., AAAI 2020)."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from baselines.methods.dep_graph import silence
from baselines.workshop.registry import register
from baselines.workshop.removal import TOLERANCE, Selection, Target, counts, everything, keep_best
from baselines.workshop.taps import gated
from baselines.workshop.workbench import Outcome, Scorer, Workbench
from hessian.channels.group import ChannelGroup
from hessian.patches.filter_norms import filter_norms
from prune_gym.cost.limits import FloatArray, IntArray

Energy = Callable[[IntArray], float]
"""Energy that annealing minimises: minus the accuracy of kept counts, in percent."""


@dataclass(frozen=True)
class Cooling:
    """Temperatures of simulated annealing, in percentage points of accuracy.

    Attributes:
        start: first temperature.
        stop: annealing ends below it.
        rate: factor between two temperatures, in (0, 1).
        perturbation: largest change of a layer's ratio at the first temperature; it shrinks with the temperature.
        tries: proposals a temperature.
    """

    start: float = 10.0
    stop: float = 0.2
    rate: float = 0.9
    perturbation: float = 0.35
    tries: int = 1

    def __post_init__(self) -> None:
        if not (0 < self.stop < self.start and 0 < self.rate < 1 and self.perturbation > 0 and self.tries >= 1):
            raise ValueError(f"cooling runs from start down to stop by a rate in (0, 1); got {self}")


@dataclass(eq=False)
class Residuals:
    """ADMM's primal residual ``|W - Z| / |W|`` after every iteration, and the constraint set's last point.

    Attributes:
        primal: one number an iteration.
        structured: name of a producer -> Z, weights with exactly the kept rows non-zero.
    """

    primal: list[float] = field(default_factory=list)
    structured: dict[str, Tensor] = field(default_factory=dict)


@register("autocompress", "AutoCompress: simulated annealing over layer rates, ADMM, shrink, purify, in rounds")
def autocompress_prune(
    bench: Workbench,
    *,
    rounds: int = 2,
    cooling: Cooling | None = None,
    admm_iterations: int = 4,
    admm_epochs: int = 1,
    rho: float = 1e-4,
    rho_growth: float = 10.0,
    admm_lr: float = 0.01,
    retrain_epochs: int = 1,
    purification: float = 0.05,
) -> Outcome:
    """AutoCompress (Liu et al., AAAI 2020): an automatic structured pruning framework for ultra-high compression.

    The authors released models; no code of theirs was found, and the settings in their paper could not be checked. What
    is called the port below is NNI's (``nni.algorithms.compression.pytorch.pruning``, version 2.9).

    N rounds, each removing ``1 - (1 - s)^(1/N)`` of what is left. A round: (1) simulated annealing over layer rates,
    every candidate pruned by magnitude and scored on the validation images without training, accepted with
    probability ``exp(-dE / T)``; (2) ADMM pulls the weights into the set of exactly so many non-zero filters a layer
    (W-step: train on the loss plus ``rho / 2 |W - Z + U|^2``; Z: projection; ``U += W - Z``); (3) the zero filters
    are cut out, with the channels of their consumers; (4) purification also removes channels that training left
    redundant, whose norm is below a fraction of their layer's mean; then the survivors are retrained.

    Deviations:

    - Energies are accuracies in percent and T runs from 10 to 0.2: at the port's 100 to 20 a loss of ten points is
      accepted at least 60 % of the time to the very end, close to a random walk (and more so in the port, whose example
      measures fractions). A temperature is left after one proposal, where the port tries until one is accepted. The
      best plan visited is returned, as in the port.
    - Layers with more weights need not have the larger rates, as the port demands after the paper's guided search: the
      rule is made for a target of weights, and with one of FLOPs it costs much (docs/baselines.md has the numbers).
    - Two rounds of four ADMM iterations of one epoch, where the port takes three of thirty of five.
    - rho starts at the port's 1e-4 and grows tenfold an iteration, because a small network gets a few epochs instead of
      hundreds; the port's stays. W-steps are SGD, the port's Adam. Z starts as the projection of the weights, the
      port's as the weights.
    - Filters are ranked by the L2 norm, whose projection is the Euclidean one; the port's default is L1.
    - The port has neither purification nor retraining. Summaries of the paper have purification as a second phase;
      here it ends every round, by one threshold of our choosing, and stops at 1 % beyond the target.
    - Only filters (and what they feed) are pruned, not columns of a filter's kernel: those do not make a network
      smaller without a special library.

    Args:
        bench: the workbench.
        rounds: N.
        cooling: temperatures; 38 candidates a round by default.
        admm_iterations: Z-updates a round.
        admm_epochs: passes over the images between two of them.
        rho: first penalty weight.
        rho_growth: factor between two iterations.
        admm_lr: peak learning rate of W-steps and retraining.
        retrain_epochs: passes over the images after each cut.
        purification: share of its layer's mean norm below which a channel is redundant; 0 turns it off.

    Raises:
        ValueError: rounds, iterations, ``rho`` or ``rho_growth`` out of range.
    """
    if rounds < 1 or admm_iterations < 1 or rho <= 0 or rho_growth < 1:
        raise ValueError("rounds and admm_iterations are at least 1, rho is positive and rho_growth at least 1")
    cooling = cooling or Cooling()
    generator = np.random.default_rng(bench.seed)
    model, selection = bench.copy_dense(), everything(bench.groups)
    residuals, energies = [], []
    for number in range(1, rounds + 1):
        goal = bench.target.at(1.0 - (1.0 - bench.target.ratio) ** (number / rounds))
        kept, energy = _annealed_rates(bench, model, selection, goal, cooling, generator)
        chosen, found = admm(bench, model, selection, kept, admm_iterations, admm_epochs, admm_lr, rho, rho_growth)
        selection = purify(bench, model, chosen, goal, purification)
        silence(model, bench.groups, selection)
        with gated(model, bench.groups, bench.gates(selection)):
            bench.train(model, epochs=retrain_epochs, lr=admm_lr, description=f"retraining, round {number}")
        residuals.append(found.primal)
        energies.append(energy)
    return Outcome(
        selection, model, details={"primal_residuals": residuals, "annealed_accuracy": [-e for e in energies]}
    )


# Simulated annealing


def _annealed_rates(
    bench: Workbench,
    model: nn.Module,
    selection: Selection,
    goal: Target,
    cooling: Cooling,
    generator: np.random.Generator,
) -> tuple[IntArray, float]:
    """The best kept counts annealing visits, and their energy."""
    goal = _no_growth(goal, selection)
    scorer, scores = Scorer(bench, model), _filter_norms(model, bench.groups, selection)

    def energy(kept: IntArray) -> float:
        bench.report("annealing", bench.spent.evaluations, bench.spent.evaluations + 1)
        return -100.0 * scorer.accuracy(keep_best(scores, kept))

    start = generator.uniform(0.0, 1.0, len(bench.groups))
    return anneal(energy, goal, start, cooling, generator)


def anneal(
    energy: Energy, target: Target, start: FloatArray, cooling: Cooling, generator: np.random.Generator
) -> tuple[IntArray, float]:
    """Simulated annealing over layer ratios on the target.

    Args:
        energy: of kept counts [L].
        target: every candidate is projected onto it.
        start: [L] ratios to begin at.
        cooling: temperatures.
        generator: of proposals and acceptances.

    Returns:
        The best counts visited and their energy.
    """
    kept = target.project(start)
    current = best = energy(kept)
    best_kept, temperature = kept, cooling.start
    units = target.limits.units
    while temperature > cooling.stop:
        for _ in range(cooling.tries):
            width = cooling.perturbation * temperature / cooling.start
            width = max(width, 1.0 / float(units.max()))
            ratios = np.clip(1.0 - kept / units + generator.uniform(-width, width, len(units)), 0.0, 1.0)
            candidate = target.project(ratios)
            proposed = energy(candidate)
            if proposed <= current or generator.random() < math.exp(-(proposed - current) / temperature):
                kept, current = candidate, proposed
            if current < best:
                best_kept, best = kept, current
        temperature *= cooling.rate
    return best_kept, best


def _no_growth(goal: Target, selection: Selection) -> Target:
    """The goal with layers no wider than they are left, where those of an earlier round are gone for good."""
    left = counts(selection)
    limits = replace(goal.limits, units=left, minimum=np.minimum(goal.limits.minimum, left))
    return replace(goal, limits=limits)


# ADMM


def admm(
    bench: Workbench,
    model: nn.Module,
    selection: Selection,
    kept: IntArray,
    iterations: int,
    epochs: int,
    lr: float,
    rho: float,
    rho_growth: float,
) -> tuple[Selection, Residuals]:
    """Train in place towards exactly ``kept`` non-zero filters a layer.

    Returns:
        The filters that stay, and how far the weights were from the structured set.
    """
    producers = {
        member.module: dict(model.named_modules())[member.module]
        for group in bench.groups
        for member in group.producers
    }
    found = Residuals()
    duals = {name: torch.zeros_like(module.weight) for name, module in producers.items()}
    chosen, found.structured = _project(model, bench.groups, selection, kept, duals)
    masks = bench.gates(selection)
    for iteration in range(iterations):
        weight = rho * rho_growth**iteration

        def loss_of(logits: Tensor, labels: Tensor, images: Tensor, weight: float = weight) -> Tensor:
            gaps = ((module.weight - found.structured[name] + duals[name]) for name, module in producers.items())
            return cross_entropy(logits, labels) + 0.5 * weight * sum(gap.square().sum() for gap in gaps)

        with gated(model, bench.groups, masks):
            bench.train(model, epochs=epochs, lr=lr, loss_of=loss_of, description=f"ADMM {iteration + 1}/{iterations}")
        chosen, found.structured = _project(model, bench.groups, selection, kept, duals)
        with torch.no_grad():
            gaps = {name: module.weight - found.structured[name] for name, module in producers.items()}
            for name, gap in gaps.items():
                # U is the multiplier over rho, so it shrinks when rho grows (Boyd et al., 2011, section 3.4.1).
                duals[name].add_(gap).div_(rho_growth)
            total = sum(float(module.weight.square().sum()) for module in producers.values())
            found.primal.append(math.sqrt(sum(float(gap.square().sum()) for gap in gaps.values()) / total))
    return chosen, found


@torch.no_grad()
def _project(
    model: nn.Module, groups: Sequence[ChannelGroup], selection: Selection, kept: IntArray, duals: dict[str, Tensor]
) -> tuple[Selection, dict[str, Tensor]]:
    """Euclidean projection of W + U onto the weights with ``kept`` non-zero filters a layer."""
    shifted = _shifted_copy(model, duals)
    chosen = keep_best(_filter_norms(shifted, groups, selection), kept)
    modules = dict(shifted.named_modules())
    for group, there in zip(groups, chosen, strict=True):
        gone = group.channels(np.flatnonzero(~there))
        for member in group.producers if gone else ():
            weight = modules[member.module].weight
            transposed = getattr(modules[member.module], "transposed", False)
            rows = member.indices[gone].reshape(-1).to(weight.device)
            (weight.transpose(0, 1) if transposed else weight)[rows] = 0
    return chosen, {name: modules[name].weight.detach().clone() for name in duals}


def _shifted_copy(model: nn.Module, duals: dict[str, Tensor]) -> nn.Module:
    shifted = copy.deepcopy(model)
    modules = dict(shifted.named_modules())
    for name, dual in duals.items():
        modules[name].weight.data += dual
    return shifted


def _filter_norms(model: nn.Module, groups: Sequence[ChannelGroup], selection: Selection) -> list[Tensor]:
    """Norm of every unit's filters; minus infinity for units that are gone."""
    modules = dict(model.named_modules())
    norms = []
    for group, there in zip(groups, selection, strict=True):
        norm = filter_norms(group, modules)
        norm[~torch.from_numpy(there)] = -math.inf
        norms.append(norm)
    return norms


# Purification


def purify(bench: Workbench, model: nn.Module, selection: Selection, goal: Target, share: float) -> Selection:
    """Also remove units whose filters are below a share of their layer's mean norm, weakest first, up to the goal."""
    selection = [mask.copy() for mask in selection]
    norms = _filter_norms(model, bench.groups, selection)
    relative = [norm / norm[torch.from_numpy(there)].mean() for norm, there in zip(norms, selection, strict=True)]
    weak = [
        (float(score[unit]), layer, int(unit))
        for layer, (score, there) in enumerate(zip(relative, selection, strict=True))
        for unit in np.flatnonzero(there)
        if float(score[unit]) < share
    ]
    kept = counts(selection)
    for _, layer, unit in sorted(weak):
        kept[layer] -= 1
        allowed = kept[layer] >= goal.limits.minimum[layer] and goal.reduction(kept) <= goal.ratio + TOLERANCE
        if allowed:
            selection[layer][unit] = False
        else:
            kept[layer] += 1
    return selection
