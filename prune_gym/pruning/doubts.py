"""Doubts about the numbers of a pruning: images the network was trained on, or does not know at all."""

from __future__ import annotations

import numpy as np
from scipy.optimize import linear_sum_assignment

from prune_gym.pruning.numbers import Score, in_memory, score_of
from prune_gym.tasks.outputs import outputs_of
from prune_gym.tasks.task import PruningTask

GAP_ERRORS = 3.0
"""A gap of so many standard errors, and of :data:`GAP` at least, is no chance."""

GAP = 0.01

ORDER_GAIN = 0.2
"""Share of the images more that another order of the classes has to explain."""

GUESSING = 2.0
"""A network that is right no more than so many times as often as guessing has been given something wrong."""


def warnings_of(task: PruningTask, held_out: Score) -> tuple[str, ...]:
    """Suspicious facts about the images of a classifier, a sentence each.

    Args:
        task: the dense network and its images.
        held_out: its score on the reward split.
    """
    if task.metric is not None:
        return ()
    found = other_order(task)
    if held_out.value < GUESSING / task.num_classes and not found:
        found.append(
            f"the dense network gets {held_out} of the held-out images right, hardly more than guessing among "
            f"{task.num_classes} classes would: check image size, normalisation, weights and the classes' order"
        )
    if task.test is not None and task.test is not task.reward:
        found += trained_on(held_out, score_of(task.model, task, in_memory(task.test)))
    return tuple(found)


def other_order(task: PruningTask) -> list[str]:
    """A warning where the dense network's outputs stand for the classes in another order than the labels do."""
    labels = task.reward.labels.cpu().numpy()
    found = outputs_of(task.model, task.reward.images)[0].argmax(dim=1).cpu().numpy()
    counts = np.zeros((task.num_classes, task.num_classes), dtype=np.int64)
    np.add.at(counts, (labels, found), 1)
    classes, outputs = linear_sum_assignment(counts, maximize=True)
    right, could = np.trace(counts) / len(labels), counts[classes, outputs].sum() / len(labels)
    if could - right < ORDER_GAIN:
        return []
    moved = [f"{label} is output {output}" for label, output in zip(classes, outputs, strict=True) if label != output]
    more = ", ..." if len(moved) > 3 else ""
    return [
        f"the dense network gets {100 * right:.1f} % of the held-out images right, but {100 * could:.1f} % if its "
        f"outputs stand for the classes in another order (class {', '.join(moved[:3])}{more}): give the classes in the "
        "order of the outputs"
    ]


def trained_on(held_out: Score, test: Score) -> list[str]:
    """A warning where a dense network knows the held-out images too well to be new to them, else nothing."""
    if held_out.error is None or test.error is None:
        return []
    gap, doubt = held_out.value - test.value, GAP_ERRORS * (held_out.error**2 + test.error**2) ** 0.5
    if gap <= max(doubt, GAP):
        return []
    return [
        f"the dense network gets {held_out} of the held-out images right but {test} of the test images: it was "
        "probably trained on the former, which then say little about a pruned one; hold out images it has not seen"
    ]
