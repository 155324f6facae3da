"""Fine-tuning that cannot end worse than it began: learning rates are raced, and the better network is kept."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import nn

from prune_gym.data.splits import ImageSplit
from prune_gym.training.fitting import EpochRecord
from prune_gym.training.training import EvaluationResult, evaluate_model

FineTune = Callable[[nn.Module, ImageSplit, int, float], list[EpochRecord]]
"""Trains a network in place: ``(network, split, epochs, learning rate) -> records``."""


@dataclass(frozen=True)
class Choice:
    """Learning rate that a fine-tuning chose, and whether it kept the trained network.

    Attributes:
        lr: learning rate.
        raced: learning rate -> accuracy on the deciding split after the short race; empty without one.
        start: accuracy on the deciding split before.
        end: the same after training.
        kept: whether the trained network was kept.
        history: a record an epoch.
    """

    lr: float
    raced: dict[float, float]
    start: float
    end: float
    kept: bool
    history: list[EpochRecord]


def fine_tune_better(
    model: nn.Module,
    train: ImageSplit,
    decide: ImageSplit,
    fine_tune: FineTune,
    *,
    epochs: int,
    learning_rates: Sequence[float],
    race_images: int = 5000,
) -> Choice:
    """Fine-tune a network in place; where it ends worse than it began, it is as it began.

    Networks are compared by top-1, ties by the mean probability of the true class.

    Args:
        model: the pruned network.
        train: what it is trained on.
        decide: images that nothing is trained on, and not the test split.
        fine_tune: how it is trained.
        epochs: passes over ``train``.
        learning_rates: peaks; several are raced, each from the start for one pass over ``race_images`` images.
        race_images: how many of ``train``.

    Raises:
        ValueError: no learning rate.
    """
    if not learning_rates:
        raise ValueError("learning_rates names at least one learning rate")
    begun = evaluate_model(model, decide)
    start = copy.deepcopy(model.state_dict())
    raced = {}
    if len(learning_rates) > 1:
        images = train.subset(slice(race_images))
        for lr in learning_rates:
            fine_tune(model, images, 1, lr)
            raced[lr] = evaluate_model(model, decide)
            model.load_state_dict(start)
    lr = max(raced, key=lambda rate: _rank(raced[rate])) if raced else learning_rates[0]
    history = fine_tune(model, train, epochs, lr)
    ended = evaluate_model(model, decide)
    kept = _rank(ended) >= _rank(begun)
    if not kept:
        model.load_state_dict(start)
    found = {rate: score.accuracy for rate, score in raced.items()}
    return Choice(lr, found, begun.accuracy, ended.accuracy, kept, history)


def _rank(score: EvaluationResult) -> tuple[float, float]:
    return score.accuracy, score.soft_accuracy
