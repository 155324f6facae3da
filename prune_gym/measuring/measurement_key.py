"""The key under which what plans of a task measured may be kept: everything that decides it."""

from __future__ import annotations

import importlib

from prune_gym.measuring import magnitude
from prune_gym.measuring.curvature_cache import CurvatureSettings, analysis_key
from prune_gym.support.cache import code_digest
from prune_gym.support.files import sha256_of
from prune_gym.support.fingerprint import fingerprint_of
from prune_gym.tasks.task import PruningTask

MEASURING_CODE = (
    "measuring.evaluation",
    "measuring.evaluator",
    "measuring.folding",
    "measuring.grading",
    "measuring.monotone",
    "measuring.repair",
    "measuring.predicted",
    "measuring.short_reconstruction",
    "measuring.stacked.passes",
    "measuring.stacked.shapes",
    "measuring.stacked.side_by_side",
    "reconstruction.images",
    "reconstruction.outputs",
    "reconstruction.settings",
    "reconstruction.trials",
    "training.batchnorm",
    "training.one_cycle",
    "training.strided_pointwise",
    "data.loader_split",
    "data.splits",
    "tasks.outputs",
    "allocation.knapsack",
    "allocation.exchange",
    "allocation.loss_curves",
    "cost.budgeted",
    "cost.model",
    "cost.quadratic",
    "cost.limits",
    "cost.projection",
)
"""Modules of this package that decide what a plan measures or is predicted to; the analysis key covers ``hessian``."""


def measurement_key(task: PruningTask, curvature: CurvatureSettings, repair: str, selection: str) -> str:
    """Digest of all that decides what a plan measures: network, data, selection, repair and code.

    Args:
        task: network and splits.
        curvature: how curvature is measured.
        repair: name of the repair.
        selection: what orders the units of a layer; ``"magnitude"`` adds the code that does it.
    """
    own_code = [code_digest(magnitude)] if selection == "magnitude" else []
    return sha256_of(
        analysis_key(task, curvature),
        task.reward.images,
        task.reward.labels,
        task.metric if isinstance(task.metric, str) else fingerprint_of(task.metric),
        repair,
        code_digest(*(importlib.import_module(f"prune_gym.{name}") for name in MEASURING_CODE)),
        *own_code,
    )
