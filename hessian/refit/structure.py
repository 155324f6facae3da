"""Layers as one pass of a network shows them: where they are called, and which can be refitted how."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from hessian.channels.layer_types import MIXING_TYPES
from hessian.patches.layer_view import why_not_refitted
from hessian.refit.lockstep import HaltingNetwork, Place
from hessian.refit.standardised import Standardised, standardisation
from hessian.refit.surroundings import Rectifier, surroundings
from hessian.support.batches import Batch

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Structure:
    """Everything one pass of the dense network shows.

    Attributes:
        order: places in the order in which the walk comes to them.
        closing: layers that close a residual sum -> batch norm in between, or None.
        rectifiers: layers in front of a ReLU -> the ReLU.
        repeated: layers that run more than once in a pass, in the order of their first calls.
        left_out: layers whose weight cannot be replaced -> why.
        standardised: layers that standardise their weight -> how.
    """

    order: Mapping[Place, int]
    closing: Mapping[str, str | None]
    rectifiers: Mapping[str, Rectifier]
    repeated: tuple[str, ...]
    left_out: Mapping[str, str]
    standardised: Mapping[str, Standardised]


def read_structure(model: nn.Module, example: Batch) -> Structure:
    """Run one sample through a copy of the dense network and see what is called."""
    modules: dict[str, Any] = dict(model.named_modules())
    around = surroundings(model, example)
    closing = around.closing
    names = [name for name, module in modules.items() if isinstance(module, MIXING_TYPES)]
    order: dict[Place, int] = {}
    left_out: dict[str, str] = {}
    standardised: dict[str, Standardised] = {}
    network = HaltingNetwork(model, names, closing, outputs=False)
    with network.passes([example]) as (one,):
        one.advance()
        while (stop := one.stop) is not None:
            order[stop.place] = len(order)
            name, module = stop.place.layer, modules[stop.place.layer]
            reason = why_not_refitted(module, stop.value)
            rule = None if reason is None else standardisation(module, stop.value)
            if rule is not None:
                standardised[name] = rule
            elif reason is not None:
                left_out[name] = reason
            one.advance()
    for name, reason in left_out.items():
        logger.warning("layer %s is not refitted: %s", name, reason)
    again = {place.layer for place in order if place.call > 0}
    repeated = tuple(place.layer for place in order if place.call == 0 and place.layer in again)
    return Structure(order, closing, around.rectifiers, repeated, left_out, standardised)
