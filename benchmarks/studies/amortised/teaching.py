"""Amortised models taught on the training networks; the validation networks choose among them."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from agents.amortised.examples import Examples
from agents.amortised.model import AmortisedModel, KnownNetwork, Sizes
from agents.amortised.training import LINEAR_TRAINING, RewardTraining, train_rewards
from hessian.audit.rank_correlation import spearman

VARIANTS: Mapping[str, tuple[Sizes, RewardTraining]] = {
    "linear": (Sizes(0, 1), LINEAR_TRAINING),
    "attention": (Sizes(), RewardTraining()),
}
"""Models that are taught: a linear map of every layer alone, and attention over layers."""

TRUST = 0.75
"""Weight of what was learned in proposed plans; settled by plans measured on the validation networks."""

DEEP = 0.7
"""Targets from here on decide between models: below, plans differ by less than what they are measured to."""


@dataclass(frozen=True)
class Quality:
    """Knowledge of networks, over all their comparisons on targets of at least :data:`DEEP`.

    Attributes:
        rank_correlation: mean Spearman correlation of its expectations with what plans measured.
        summed: the same of summed predicted losses.
        gain: mean gain over the start plan of the measured plan it expects most of, in units of the best one's, in
            [-1, 1]; comparisons count by what can be gained.
    """

    rank_correlation: float
    summed: float
    gain: float


def quality(model: AmortisedModel, examples: Examples) -> Quality:
    """Knowledge that a model has of the networks of examples."""
    known = [KnownNetwork(model, network.view) for network in examples.networks]
    ours, summed, gains, gaps = [], [], [], []
    for found in examples.comparisons:
        if found.target < DEEP or found.gap <= 0.0:
            continue
        expected = known[found.network].expected(None, found.kept)
        losses = np.logaddexp.reduce(known[found.network].view.log_losses(found.kept), axis=-1)
        ours.append(_ranks(expected, found.soft))
        summed.append(_ranks(-losses, found.soft))
        gains.append(max(-1.0, float(found.soft[expected.argmax()] - found.soft[found.start]) / found.gap))
        gaps.append(found.gap)
    return Quality(float(np.mean(ours)), float(np.mean(summed)), float(np.average(gains, weights=gaps)))


def _ranks(expected: np.ndarray, soft: np.ndarray) -> float:
    return float(np.nan_to_num(spearman(np.stack([expected, soft], axis=-1))))


def teach(name: str, examples: Examples, networks: Sequence[str], seed: int = 0) -> AmortisedModel:
    """A variant trained on examples.

    Args:
        name: a key of :data:`VARIANTS`.
        examples: of the training networks.
        networks: their names, which the model keeps.
        seed: of weights and dropout.
    """
    sizes, settings = VARIANTS[name]
    model = AmortisedModel(sizes, seed)
    started = time.process_time()
    train_rewards(model, examples, settings, seed)
    model.trust = TRUST
    model.trained_on = {
        "networks": sorted(networks),
        "comparisons": len(examples.comparisons),
        "variant": name,
        "settings": asdict(settings),
        "cpu_seconds": round(time.process_time() - started),
    }
    return model


def as_rows(qualities: Mapping[str, Quality]) -> dict[str, dict[str, Any]]:
    """JSON of qualities."""
    return {name: asdict(found) for name, found in qualities.items()}
