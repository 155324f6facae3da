"""A family of networks made from formulas: predicted losses are off by a factor that a feature of the layer tells."""

import functools

import numpy as np

from agents.amortised.examples import Examples, MeasuredNetwork
from agents.amortised.model import AmortisedModel, Sizes
from agents.amortised.training import LINEAR_TRAINING, RewardTraining, train_rewards
from prune_gym.allocation.loss_curves import LossCurves
from prune_gym.bench.description import Description
from prune_gym.bench.networks import BenchNetwork
from prune_gym.bench.problem import BenchProblem
from prune_gym.bench.surrogate import Surrogate, metrics_of
from prune_gym.cost.quadratic import FormBuilder
from prune_gym.problem.features import FEATURES, standardised
from prune_gym.problem.view import NetworkView

TARGETS = (0.6, 0.8)
DENSE = np.array([0.96, 0.93, 0.15])


def network(seed):
    """A chain of 4 to 8 layers, without a surrogate."""
    rng = np.random.default_rng(seed)
    layers = int(rng.integers(4, 9))
    units = rng.integers(8, 25, layers)
    flops, params = FormBuilder(units), FormBuilder(units)
    for layer in range(layers):
        own = np.eye(layers)[layer]
        before = np.eye(layers)[layer - 1] if layer else np.zeros(layers)
        inputs = float(units[layer - 1]) if layer else 3.0
        for form, weight in ((flops, 2.0 * 9 * (64 >> layer // 2)), (params, 9.0)):
            form.add(weight, float(units[layer]), own, inputs, before)
    return BenchNetwork(
        description=Description(
            name=f"made-{seed}",
            kind="made",
            split="train",
            seed=seed,
            dataset="formulas",
            input_shape=(1, 8, 8),
            layer_names=tuple(f"conv{layer}" for layer in range(layers)),
            default_target=0.6,
        ),
        units=units,
        curves=tuple(_curve(rng, int(count)) for count in units),
        features=rng.normal(size=(layers, len(FEATURES))),
        flops_form=flops.form(),
        params_form=params.form(),
        dense=np.tile(DENSE, 2),
    )


def _curve(rng, units):
    removed = np.arange(units)
    return np.exp(rng.normal(-4, 0.5)) * (removed / (units + 1 - removed)) ** rng.uniform(1.0, 2.0)


def truth(bench, kept):
    """What plans measure, [..., 3]: the first feature says how far a layer's predicted loss is off."""
    factors = np.exp(1.5 * standardised(bench.features)[:, 0])
    lost = np.log1p(60.0 * (LossCurves(bench.curves).of_layers(kept) * factors).sum(axis=-1))
    latent = np.log(DENSE / (1 - DENSE))
    latent[2] = np.log(DENSE[2])
    return metrics_of(latent + lost[..., None] * np.array([-1.2, -1.0, 0.8]))


def plans(bench, count=30, seed=0):
    """Plans around the knapsack's on every target: kept and target."""
    rng, problem = np.random.default_rng(seed), BenchProblem(bench)
    limits, kept, targets = problem.cost.limits(), [], []
    for target in TARGETS:
        start = problem.start_plan("knapsack", target)
        noise = rng.normal(0, 0.6, (count, len(start)))
        noise[0] = 0.0
        kept.append(problem.cost.project_logits(limits.logits(start) + noise, target, limits))
        targets += [target] * count
    return np.concatenate(kept), np.array(targets)


def measured(bench):
    kept, targets = plans(bench)
    return MeasuredNetwork(NetworkView(BenchProblem(bench)), kept, targets, truth(bench, kept)[:, 1])


@functools.cache
def examples(count=12):
    return Examples([measured(network(seed)) for seed in range(count)])


@functools.cache
def trained(width=0):
    """A model that has learned from the family, linear or with attention."""
    model = AmortisedModel(Sizes(width, 2 if width else 1))
    settings = RewardTraining(steps=120, lr=5e-3) if width else LINEAR_TRAINING
    train_rewards(model, examples(), settings)
    model.trained_on = {"networks": ["made"]}
    return model


@functools.cache
def problem(seed=100):
    """A network the model never saw, with a surrogate."""
    bare = network(seed)
    kept = np.concatenate([plans(bare, 60, seed=1)[0], plans(bare, 60, seed=2)[0]])
    fitted = Surrogate.fit(bare.curves, kept, truth(bare, kept), DENSE)
    return BenchProblem(BenchNetwork(**{**vars(bare), "surrogate": fitted}))
