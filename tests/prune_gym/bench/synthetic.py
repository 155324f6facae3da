"""A bench of five small networks made from formulas: known damage, no training."""

from __future__ import annotations

import functools

import numpy as np

from prune_gym.allocation.loss_curves import LossCurves
from prune_gym.bench.cost import BenchCost
from prune_gym.bench.description import Description
from prune_gym.bench.networks import BenchNetwork
from prune_gym.bench.plans import NetworkPlans
from prune_gym.bench.problem import BenchProblem
from prune_gym.bench.protocol import best_known, reachable
from prune_gym.bench.surrogate import Surrogate, metrics_of
from prune_gym.cost.quadratic import FormBuilder
from prune_gym.problem.features import FEATURES

NAMES = ("plain-00", "plain-01", "plain-02", "residual-00", "dense-00")
SPLITS = ("train", "train", "validation", "test", "test")


@functools.cache
def network(index: int, surrogate: bool = True) -> BenchNetwork:
    """The network of this index: a chain of layers of 3 to 7 layers, two of the kinds held out."""
    rng = np.random.default_rng(100 + index)
    layers = 3 + index
    units = rng.integers(4, 17, layers)
    positions = np.geomspace(64, 4, layers).round()
    flops, params = FormBuilder(units), FormBuilder(units)
    for layer in range(layers):
        own = np.eye(layers)[layer]
        before = np.eye(layers)[layer - 1] if layer else np.zeros(layers)
        inputs = units[layer - 1] if layer else 3
        for form, weight in ((flops, 2.0 * positions[layer] * 9), (params, 9.0)):
            form.add(weight, float(units[layer]), own, float(inputs), before)
    kind = NAMES[index].split("-")[0]
    built = BenchNetwork(
        description=Description(
            name=NAMES[index],
            kind=kind,
            split=SPLITS[index],
            held_out_kind=kind == "dense",
            seed=index,
            dataset="formulas",
            input_shape=(1, 8, 8),
            layer_names=tuple(f"conv{layer}" for layer in range(layers)),
            default_target=0.7,
            recipe={"epochs": 0},
        ),
        units=units,
        curves=tuple(_curve(rng, int(count)) for count in units),
        features=rng.normal(size=(layers, len(FEATURES))),
        flops_form=flops.form(),
        params_form=params.form(),
        dense=np.array([0.96, 0.93, 0.15, 0.95, 0.92, 0.17]),
    )
    if not surrogate:
        return built
    measured = plans(built, 120)
    fitted = Surrogate.fit(built.curves, measured.kept, measured.metrics, built.dense[:3])
    built = BenchNetwork(**{**vars(built), "surrogate": fitted})
    problem = BenchProblem(built)
    references = {target: best_known(problem, target) for target in reachable(built)}
    return BenchNetwork(**{**vars(built), "references": references})


def _curve(rng: np.random.Generator, units: int) -> np.ndarray:
    removed = np.arange(units)
    curve = np.exp(rng.normal(-4, 1)) * (removed / (units + 1 - removed)) ** rng.uniform(1.0, 2.0)
    return curve.astype(np.float32).astype(np.float64)


def truth(bench: BenchNetwork, kept: np.ndarray) -> np.ndarray:
    """What plans measure here: layers' losses times hidden factors, [..., 3]."""
    rng = np.random.default_rng(len(bench.name) + bench.description.seed)
    factors = np.exp(rng.normal(0, 0.7, bench.num_layers))
    damage = np.log1p(30.0 * (LossCurves(bench.curves).of_layers(kept) * factors).sum(axis=-1))
    log_odds = np.log(bench.dense[:3] / (1 - bench.dense[:3]))
    log_odds[2] = np.log(bench.dense[2])
    return metrics_of(log_odds + damage[..., None] * np.array([-1.2, -1.0, 0.8]))


def plans(bench: BenchNetwork, count: int, seed: int = 0) -> NetworkPlans:
    """Measured plans at random."""
    rng = np.random.default_rng(seed)
    kept = rng.integers(1, bench.units + 1, (count, bench.num_layers))
    cost = BenchCost(bench.description.layer_names, bench.units, bench.flops_form, bench.params_form)
    reduction = cost.reduction(kept)
    metrics = truth(bench, kept)
    errors = rng.uniform(0, 1, kept.shape)
    errors[1::2] = np.nan
    reconstructed = np.full((count, 4), np.nan)
    reconstructed[0] = 0.5
    return NetworkPlans(
        network=bench.name,
        kept=kept,
        source=("random",) * count,
        target=np.full(count, 0.5),
        flops_reduction=reduction,
        params_reduction=cost.params_cost.reduction(kept),
        metrics=metrics,
        test_metrics=metrics,
        layer_errors=errors,
        reconstructed=reconstructed,
    )


def networks() -> list[BenchNetwork]:
    """All five."""
    return [network(index) for index in range(len(NAMES))]
