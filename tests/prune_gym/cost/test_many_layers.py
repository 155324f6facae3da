"""Networks of many layers: forms by their entries, and projections in bulk, against the same without either."""

import numpy as np
import pytest

from prune_gym.cost import projection, quadratic
from prune_gym.cost.limits import CountLimits
from prune_gym.cost.projection import project
from prune_gym.cost.quadratic import FormBuilder, QuadraticCost, weighted_sum

LAYERS = 100


def stream(seed: int) -> tuple[QuadraticCost, CountLimits]:
    """Blocks that read from and write to one shared layer, the first, and a few that follow one another."""
    rng = np.random.default_rng(seed)
    units, own = rng.integers(8, 33, LAYERS), np.eye(LAYERS)
    builder = FormBuilder(units)
    for layer in range(1, LAYERS):
        builder.add(18.0 * 16, units[layer], own[layer], units[0], own[0])
        builder.add(18.0 * 16, units[0], own[0], units[layer], own[layer])
        if layer % 5 == 0:
            builder.add(18.0 * 64, units[layer], own[layer], units[layer - 1], own[layer - 1])
    step = np.full(LAYERS, 1 + seed % 3)
    return builder.form(), CountLimits(units, np.minimum(step, units), step)


def test_a_form_by_its_entries_is_the_form_with_all_pairs(monkeypatch):
    form, limits = stream(0)
    monkeypatch.setattr(quadratic, "FEW_LAYERS", LAYERS)
    dense, _ = stream(0)
    assert isinstance(dense.pairwise, np.ndarray)
    assert not isinstance(form.pairwise, np.ndarray)
    plans = limits.round(limits.units * np.random.default_rng(1).uniform(0.1, 1.0, (7, LAYERS)))
    others = limits.one_fewer(plans)
    np.testing.assert_array_equal(form(plans), dense(plans))
    np.testing.assert_array_equal(form(plans[0]), dense(plans[0]))
    np.testing.assert_array_equal(form.change(plans, others), dense.change(plans, others))
    np.testing.assert_array_equal(weighted_sum([(2.0, form), (3.0, form)])(plans), 5.0 * dense(plans))
    for layer in (0, 5, 7):
        counts = limits.choices(layer)
        np.testing.assert_array_equal(form.along(plans[0], layer, counts), dense.along(plans[0], layer, counts))
        np.testing.assert_array_equal(form.row(layer), dense.pairwise[layer])
    for mine, theirs in zip(form.neighbours, dense.neighbours, strict=True):
        np.testing.assert_array_equal(mine, theirs)
    assert len(form.neighbours[0]) < 2 * LAYERS


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("target", [0.15, 0.5, 0.8])
def test_projection_in_bulk_ends_where_single_steps_end(seed, target, monkeypatch):
    form, limits = stream(seed)
    odds = np.exp(np.random.default_rng(seed).normal(0.0, 2.0, (12, LAYERS)))
    plans = {}
    for steps in (0, 10**9):
        monkeypatch.setattr(projection, "_SINGLE_STEPS", steps)
        plans[steps] = project(odds, np.full(len(odds), target), form, float(form(limits.units)), limits)
    np.testing.assert_array_equal(plans[0], plans[10**9])
    assert (1.0 - form(plans[0]) / form(limits.units) >= target).all()
