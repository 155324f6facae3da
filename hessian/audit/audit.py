"""Audit of the prices on a network: predictions against what removing channels really does.

Two samples of removals are priced and carried out: single units, and cuts of whole fractions of a layer. Each is
described by

* ``predicted``: the H-OBS price,
* ``exact``: the exact Gauss-Newton quadratic of the same weight change (:func:`hessian.pricing.exact.ggn_quadratic`),
  which shows what the Kronecker factors lose,
* ``kl``: the true divergence between the outputs of the dense and of the pruned and repaired network, which shows what
  any quadratic loses,
* ``loss_change``: what the loss itself does.

Only the order matters when a plan is chosen, so the verdict is Spearman's rank correlation with ``kl``. Where the loss
hangs on a few uncertain images even the true value varies from one set of images to the next: ``reliability`` is the
correlation of ``kl`` on one half of the images with ``kl`` on the other, and no prediction can be expected to beat it
by much.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor

from hessian.audit.feature_error import FeatureAudit
from hessian.audit.report import AuditReport, Removal, agreement, both_halves, exact_and_truth, price_and_truth
from hessian.channels.group import ChannelGroup
from hessian.channels.slicing import Plan, installed
from hessian.kfac.approximator import KFACHessianApproximator
from hessian.kfac.loss_curvature import Criterion, check_criterion
from hessian.obs.factors import KroneckerFactors
from hessian.pricing.analysis import Analysis
from hessian.pricing.exact import ggn_quadratic, removal_deltas, sample_losses
from hessian.support.batches import model_device, read_pairs
from hessian.support.layout import in_float64
from hessian.support.progress import Progress

Item = TypeVar("Item")

FRACTIONS = (0.25, 0.5, 0.75)
FEATURE_FRACTION = 0.5


def audit_prices(
    analysis: Analysis,
    dataloader: Iterable[Any],
    criterion: Criterion | None = None,
    *,
    channels_per_layer: int = 16,
    fractions: Sequence[float] = FRACTIONS,
    num_batches: int | None = 10,
    confidence: float = 0.95,
    seed: int = 0,
    progress: Progress | None = None,
) -> AuditReport:
    """Compare the prices of a network with what removing channels really does.

    Pruned networks are repaired in closed form (:meth:`HOBSSensitivityAnalyzer.compensate`), as the prices assume.
    Held-out images judge the prices most honestly; the images of the analysis judge the model of the loss alone.

    Args:
        analysis: a finished analysis.
        dataloader: yields (inputs, labels) or dict batches; the images are held in memory.
        criterion: scalar loss of (outputs, labels); None is cross-entropy.
        channels_per_layer: single units sampled a layer, without replacement.
        fractions: shares of a layer's units to cut, each in (0, 1).
        num_batches: batches to read; None reads all.
        confidence: level of the intervals.
        seed: seed of the sample and of the intervals.
        progress: called with (description, done, total).

    Returns:
        The :class:`AuditReport`: ``price`` has Spearman's rank correlations with confidence intervals, and
        ``benchmarks.studies.audit.plot.plot_audit`` draws it.

    Raises:
        ValueError: no analysis yet, an empty loader, no layer that can lose a unit, or an argument out of range.
    """
    groups = _check(analysis, channels_per_layer, fractions, confidence)
    batches = list(read_pairs(dataloader, model_device(analysis.model), num_batches))
    sampled = _sample_units(groups, channels_per_layer, seed)
    prefixes = [(group, fraction) for group in groups for fraction in fractions]
    steps = _Steps(progress, len(sampled) + len(prefixes) + len(groups))
    trial = _Trial(analysis, batches, criterion)
    channels = []
    for group, unit in steps.over("single channels", sampled):
        channels.append(trial.remove(group, None, (unit,), float(analysis.prices[group.name][unit])))
    cuts = []
    for group, fraction in steps.over("cuts", prefixes):
        units = tuple(analysis.orders[group.name][: _count(group, fraction)].tolist())
        cuts.append(trial.remove(group, fraction, units, float(analysis.curves[group.name][len(units)])))
    feature_audit = FeatureAudit(
        analysis, [inputs for inputs, _ in batches], _producer_factors(analysis, batches, criterion)
    )
    features = [feature_audit.measure(group, FEATURE_FRACTION) for group in steps.over("feature errors", groups)]
    agree = partial(agreement, channels, cuts, confidence=confidence, seed=seed)
    return AuditReport(
        images=sum(len(inputs) for inputs, _ in batches),
        channels=tuple(channels),
        cuts=tuple(cuts),
        price=agree(price_and_truth),
        exact=agree(exact_and_truth),
        reliability=agree(both_halves),
        features=tuple(features),
    )


def _check(
    analysis: Analysis, channels_per_layer: int, fractions: Sequence[float], confidence: float
) -> list[ChannelGroup]:
    """The layers that can lose a unit, after checking everything that can be wrong before work is spent.

    Raises:
        ValueError: nothing is analysed yet, an argument is out of range, or no layer can lose a unit.
    """
    if not analysis.curves:
        raise ValueError("nothing is analysed yet; call compute_sensitivity(dataloader) or load(path) first")
    if channels_per_layer < 1:
        raise ValueError(f"channels_per_layer must be at least 1, got {channels_per_layer}")
    if not fractions or not all(0 < fraction < 1 for fraction in fractions):
        raise ValueError(f"fractions must be shares of a layer in (0, 1), at least one; got {list(fractions)}")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie in (0, 1), got {confidence}; for 95 % write 0.95")
    groups = [group for group in analysis.groups if group.num_units > 1]
    if not groups:
        raise ValueError("no layer can lose a unit: each has only one")
    return groups


def _sample_units(groups: Sequence[ChannelGroup], count: int, seed: int) -> list[tuple[ChannelGroup, int]]:
    generator = torch.Generator().manual_seed(seed)
    return [
        (group, unit)
        for group in groups
        for unit in sorted(torch.randperm(group.num_units, generator=generator)[:count].tolist())
    ]


def _count(group: ChannelGroup, fraction: float) -> int:
    """Units in a fraction of a layer: at least one goes, at least one stays."""
    return min(max(1, round(fraction * group.num_units)), group.num_units - 1)


def _producer_factors(
    analysis: Analysis, batches: Sequence[tuple[Tensor, Tensor]], criterion: Criterion | None
) -> dict[str, KroneckerFactors]:
    """Factors of the producers, which the analysis of the consumers need not have."""
    names = dict.fromkeys(member.module for group in analysis.groups for member in group.producers)
    approximator = KFACHessianApproximator(analysis.model, analysis.damping, layers=list(names), seed=analysis.seed)
    return approximator.estimate(batches, criterion, None, analysis.fisher)


class _Steps:
    """Progress over several lists of work."""

    def __init__(self, progress: Progress | None, total: int) -> None:
        self._progress = progress
        self._total = total
        self._done = 0

    def over(self, description: str, items: Iterable[Item]) -> Iterator[Item]:
        for item in items:
            yield item
            self._done += 1
            if self._progress is not None:
                self._progress(description, self._done, self._total)


class _Trial:
    """Carries removals out on a private copy of the network and measures them."""

    def __init__(
        self, analysis: Analysis, batches: Sequence[tuple[Tensor, Tensor]], criterion: Criterion | None
    ) -> None:
        self._analysis = analysis
        self._criterion = criterion
        self._private = copy.deepcopy(analysis.model).eval().requires_grad_(False)
        with torch.no_grad():
            self._dense = [in_float64(self._private(inputs)) for inputs, _ in batches]
            # Where the outputs are in float64, the labels go too.
            pairs = zip(self._dense, batches, strict=True)
            self._batches = batches = [(inputs, labels.to(dense.device)) for dense, (inputs, labels) in pairs]
            check_criterion(criterion, self._dense[0], batches[0][1])
        self._gradients = [
            torch.func.grad(lambda z, y=labels: sample_losses(z, y, criterion).sum())(dense)
            for dense, (_, labels) in zip(self._dense, batches, strict=True)
        ]

    def remove(self, group: ChannelGroup, fraction: float | None, units: tuple[int, ...], predicted: float) -> Removal:
        """Remove units of a layer, repair, and measure."""
        plan = {group.name: group.channels(units)}
        divergence, change = self._truth(plan)
        halves = (float(divergence[::2].mean()), float(divergence[1::2].mean()))
        return Removal(
            group.name,
            fraction,
            units,
            predicted,
            self._exact(plan),
            float(divergence.mean()),
            float(change.mean()),
            halves,
        )

    def _exact(self, plan: Plan) -> float:
        deltas = removal_deltas(self._analysis, plan, repaired=True)
        values = [
            float(ggn_quadratic(self._analysis.model, inputs, labels, self._criterion, deltas)) * len(inputs)
            for inputs, labels in self._batches
        ]
        return sum(values) / sum(len(inputs) for inputs, _ in self._batches)

    @torch.no_grad()
    def _truth(self, plan: Plan) -> tuple[Tensor, Tensor]:
        """Divergence and loss change of every image, float64 [N].

        The divergence is the Bregman divergence of the loss in the outputs, ``l(z') - l(z) - l'(z) (z' - z)``; for
        cross-entropy it equals the KL divergence of the softmax outputs whatever the label.
        """
        divergences, changes = [], []
        compensator = self._analysis.compensator
        cut = compensator.slicer.cut(plan)
        with installed(self._private, compensator.state(cut), cut.attributes):
            for (inputs, labels), dense, gradient in zip(self._batches, self._dense, self._gradients, strict=True):
                outputs = in_float64(self._private(inputs))
                change = sample_losses(outputs, labels, self._criterion) - sample_losses(dense, labels, self._criterion)
                linear = (gradient * (outputs - dense)).flatten(1).sum(dim=1)
                changes.append(change)
                divergences.append(change - linear)
        return torch.cat(divergences), torch.cat(changes)
