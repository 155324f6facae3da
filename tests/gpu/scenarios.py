"""Everything that runs on a device, as functions of the device: the same numbers have to come out on every one.

A scenario builds small networks from fixed seeds, computes on the device, and returns what it found on the CPU. Three
tests use the list: :mod:`tests.gpu.test_accelerators` on the GPUs present, :mod:`tests.gpu.test_one_device` on a GPU
that is not there, and the same on one without float64.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor

import prune_gym
from agents import RSPARAgent
from agents.ppo.networks import ActorCritic
from agents.ppo.rollout import Batch
from agents.ppo.update import PPOSettings, ppo_update
from agents.rspar.state import ImaginationSettings
from benchmarks.gpu_profiler import GPUProfiler
from hessian import HOBSSensitivityAnalyzer, KFACHessianApproximator
from hessian.audit.audit import audit_prices
from hessian.refit.sequential import SequentialRefitter
from prune_gym.cost import latency
from prune_gym.measuring.evaluator import Evaluator
from prune_gym.measuring.repair import REPAIRS
from prune_gym.problem import PruningProblem
from prune_gym.reconstruction import Reconstruction, reconstruct
from prune_gym.saving.checkpoint import load_pruned, save_pruned
from prune_gym.saving.export import export_program
from prune_gym.surgery.pruner import PhysicalPruner
from prune_gym.tasks import PruningTask
from prune_gym.training import Loop, fine_tune, train_dense
from prune_gym.training.batchnorm import recalibrate_bn
from tests.baselines import fast
from tests.conftest import TinyResNet, blob_split
from tests.hessian import networks

Found = Mapping[str, Tensor]


@dataclass(frozen=True)
class Scenario:
    """One thing to compute.

    Attributes:
        compute: its results, given the device.
        tolerance: largest difference between devices, relative to a tensor's largest entry: 1e-3 where sums of float32
            come in another order, more where such differences are trained on, or forward passes are in 16 bits.
    """

    compute: Callable[[torch.device], Found]
    tolerance: float


SCENARIOS: dict[str, Scenario] = {}


def scenario(tolerance: float = 1e-3) -> Callable[[Callable[[torch.device], Found]], Callable[[torch.device], Found]]:
    """Decorator that puts a function into :data:`SCENARIOS`."""

    def register(compute: Callable[[torch.device], Found]) -> Callable[[torch.device], Found]:
        SCENARIOS[compute.__name__] = Scenario(compute, tolerance)
        return compute

    return register


def scenario_of_each(names: Any, tolerance: float = 1e-3) -> Any:
    """Decorator that puts a function of a name and a device into :data:`SCENARIOS`, once a name."""

    def register(compute: Callable[[str, torch.device], Found]) -> Callable[[str, torch.device], Found]:
        for name in names:
            SCENARIOS[f"{compute.__name__}-{name}"] = Scenario(functools.partial(compute, name), tolerance)
        return compute

    return register


@functools.cache
def trained_task() -> PruningTask:
    """Four prunable layers on 8x8 images, trained for a second on the CPU."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = TinyResNet()
    train = blob_split(256, seed=1)
    train_dense(model, train, epochs=3, lr=0.05, batch_size=32, seed=0)
    return PruningTask(
        name="small",
        model=model.eval(),
        example_input=torch.zeros(1, 1, 8, 8),
        calibration=train.subset(slice(96)),
        reward=blob_split(96, seed=2),
        test=blob_split(64, seed=3),
        train=train,
    )


def task_on(device: torch.device) -> PruningTask:
    return trained_task().to(device)


def network_on(kind: str, device: torch.device) -> torch.nn.Module:
    return networks.make(getattr(networks, kind)).to(device)


def batches(count: int = 24) -> list[tuple[Tensor, Tensor]]:
    images, labels = networks.images(count)
    return list(zip(images.split(16), labels.split(16), strict=True))


def analysed(model: torch.nn.Module, **options: Any) -> HOBSSensitivityAnalyzer:
    # Exact, as random signs of two devices differ.
    hobs = HOBSSensitivityAnalyzer(model, fisher="type-2", **options)
    hobs.compute_sensitivity(batches(), num_batches=None)
    return hobs


def half(groups: Any) -> dict[str, list[int]]:
    return {group.name: group.channels(range(group.num_units // 2)) for group in groups if group.num_units > 1}


def found(**values: Any) -> Found:
    """Results on the CPU, in float64."""
    return {name: torch.as_tensor(value).detach().cpu().double() for name, value in values.items()}


def state_of(model: torch.nn.Module) -> Found:
    return found(**{name: tensor for name, tensor in model.state_dict().items() if tensor.is_floating_point()})


# ---------------------------------------------------------------- curvature


@scenario_of_each(["Residual", "Grouped", "MobileBlock", "Upsampling", "ByPosition"])
def curvature(kind: str, device: torch.device) -> Found:
    kfac = KFACHessianApproximator(network_on(kind, device))
    factors = kfac.estimate(batches(), num_batches=None, fisher="sketch" if kind == "ByPosition" else "type-2")
    own = {} if kind == "ByPosition" else {f"G/{name}": each.G for name, each in factors.items()}
    return found(**own, **{f"A/{name}": each.A for name, each in factors.items()})


@scenario()
def curvature_of_sampled_positions(device: torch.device) -> Found:
    options: dict[str, Any] = {"approximation": "reduce", "position_stride": 2, "trace_calibration": True}
    kfac = KFACHessianApproximator(network_on("Residual", device), **options)
    factors = kfac.estimate(batches(), num_batches=None, fisher="type-2")
    return found(**{name: each.G for name, each in factors.items()})


@scenario_of_each(["cross_entropy", "mse", "bce", "own"])
def curvature_of_losses(name: str, device: torch.device) -> Found:
    F = torch.nn.functional
    losses: dict[str, Any] = {
        "cross_entropy": F.cross_entropy,
        "mse": lambda z, y: F.mse_loss(z, F.one_hot(y, 4).to(z.dtype)),
        "bce": lambda z, y: F.binary_cross_entropy_with_logits(z, F.one_hot(y, 4).to(z.dtype)),
        "own": lambda z, y: F.cross_entropy(z, y) + 0.1 * z.square().sum(dim=1).mean(),
    }
    kfac = KFACHessianApproximator(network_on("Concat", device))
    factors = kfac.estimate(batches(), losses[name], num_batches=None, fisher="type-2")
    return found(**{layer: each.G for layer, each in factors.items()})


@scenario_of_each(["sketch", "mc"])
def curvature_by_chance(fisher: str, device: torch.device) -> Found:
    """Only that it runs and has the right size: every kind of device draws other numbers."""
    kfac = KFACHessianApproximator(network_on("Residual", device))
    factors = kfac.estimate(batches(), num_batches=None, fisher=fisher)
    return found(finite=all(bool(each.G.isfinite().all()) for each in factors.values()))


# ---------------------------------------------------------------- prices


@scenario_of_each(["Residual", "Concat", "Grouped", "MobileBlock"])
def prices(kind: str, device: torch.device) -> Found:
    hobs = analysed(network_on(kind, device))
    return found(**{f"prices/{name}": each for name, each in hobs.prices.items()}) | found(
        **{f"curve/{name}": each for name, each in hobs.curves.items()}
    )


@scenario()
def prices_of_panels(device: torch.device) -> Found:
    """A layer whose sweep takes several panels, with a factor as a matrix and one as rows behind it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = torch.nn.Sequential(
            *(torch.nn.Conv2d(3, 60, 3, padding=1), torch.nn.ReLU(), torch.nn.Conv2d(60, 8, 3, padding=1)),
            *(torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(8 * 64, 4)),
        )
    hobs = analysed(model.eval().to(device))
    return found(**hobs.curves, total=sum(map(torch.sum, hobs.prices.values())))


@scenario()
def exact_prices(device: torch.device) -> Found:
    hobs = analysed(network_on("Concat", device), use_kfac=False)
    return found(**hobs.prices)


@scenario()
def audit(device: torch.device) -> Found:
    hobs = analysed(network_on("Residual", device))
    report = audit_prices(hobs.analysis, batches(), channels_per_layer=2, fractions=(0.5,))
    return found(divergences=[each.kl for each in report.cuts], magnitude=report.mean_features.magnitude)


# ---------------------------------------------------------------- refits


@scenario_of_each(["Residual", "Concat", "Grouped", "MobileBlock", "Upsampling"])
def closed_form_refit(kind: str, device: torch.device) -> Found:
    hobs = analysed(network_on(kind, device))
    return found(**hobs.compensate(half(hobs.groups)))


@scenario_of_each(["Residual", "Concat", "Grouped", "MobileBlock", "Upsampling"])
def sequential_refit(kind: str, device: torch.device) -> Found:
    model = network_on(kind, device)
    groups = HOBSSensitivityAnalyzer(model, example_input=batches()[0][0].to(device)).groups
    refitter = SequentialRefitter(model, groups, batches(64), samples_per_input=20)
    return found(**refitter.state(half(groups)))


@scenario()
def sequential_refit_without_store(device: torch.device) -> Found:
    model = network_on("Residual", device)
    groups = HOBSSensitivityAnalyzer(model, example_input=batches()[0][0].to(device)).groups
    return found(**SequentialRefitter(model, groups, batches(64), store_bytes=0).state(half(groups)))


# ---------------------------------------------------------------- plans


@scenario_of_each(REPAIRS, tolerance=2e-2)
def evaluator(repair: str, device: torch.device) -> Found:
    task = task_on(device)
    hobs = HOBSSensitivityAnalyzer(task.model, fisher="type-2")
    hobs.compute_sensitivity([(task.calibration.images, task.calibration.labels)])
    judge = Evaluator(task, hobs, repair)
    kept = [max(1, group.num_units - 2) for group in hobs.groups]
    with torch.no_grad():
        small = judge.export(kept)(task.reward.images[:8].to(device))
    score = judge.evaluate(kept)
    raced = judge.race([count - 1 for count in kept], 0.0)
    assert raced is not None
    return found(
        logits=judge.logits(kept, task.reward.images[:8]), small=small, scores=[score.soft_accuracy, score.loss]
    ) | found(raced=raced.soft_accuracy)


@scenario_of_each(["closed_form", "sequential"], tolerance=2e-2)
def plans_together(repair: str, device: torch.device) -> Found:
    """Several plans in one pass, which is how an accelerator measures them; on the CPU because it is asked to."""
    task = task_on(device)
    hobs = HOBSSensitivityAnalyzer(task.model, fisher="type-2")
    hobs.compute_sensitivity([(task.calibration.images, task.calibration.labels)])
    judge = Evaluator(task, hobs, repair, together=True)
    assert judge.one_by_one is None
    plans = [[max(1, group.num_units - less) for group in hobs.groups] for less in (1, 2, 4)]
    scores = judge.evaluate_many(plans)
    return found(scores=[[score.soft_accuracy, score.loss] for score in scores])


def problem_on(device: torch.device, **options: Any) -> PruningProblem:
    folder = tempfile.mkdtemp(prefix="scenario")
    return PruningProblem(task_on(device), cache_dir=folder, curvature=None, repair="closed_form", **options)


@scenario(tolerance=5e-2)
def environment(device: torch.device) -> Found:
    env = gym.make("HOBSPrune-v0", problem=problem_on(device), target_flops_reduction=0.5)
    observation, _ = env.reset(seed=0)
    _, reward, *_ = env.step(np.zeros(env.action_space.shape, np.float32))
    return found(shape=observation.shape, reward=float(reward))


@scenario(tolerance=5e-2)
def vector_environment(device: torch.device) -> Found:
    env = gym.make_vec("HOBSPrune-v0", num_envs=2, problem=problem_on(device), target_flops_reduction=0.5)
    env.reset(seed=0)
    _, rewards, *_ = env.step(np.zeros(env.action_space.shape, np.float32))
    return found(rewards=rewards)


@scenario(tolerance=5e-2)
def judged_by_the_dense_network(device: torch.device) -> Found:
    problem = problem_on(device, judge="dense")
    return found(score=problem.evaluator.evaluate((problem.cost.units // 2).tolist()).soft_accuracy)


# ---------------------------------------------------------------- agents


@scenario()
def ppo(device: torch.device) -> Found:
    generator = torch.Generator().manual_seed(0)
    network = ActorCritic(4, 8, 0.5, generator).to(device)
    count, layers = 32, 3
    size = network_observation_size(layers)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator).to(device)

    rows = torch.arange(count, device=device)
    batch = Batch(random(count, size), rows, random(count, layers), *(random(count) for _ in range(4)))
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    settings = PPOSettings(ent_coef=0.01)
    report = ppo_update(network, optimizer, batch, settings, batch_size=16, epochs=2, generator=generator)
    return state_of(network) | found(loss=report["train/loss"])


def network_observation_size(layers: int) -> int:
    from agents.ppo.networks import observation_size

    return observation_size(layers, 4)


@scenario()
def rspar(device: torch.device) -> Found:
    """That it learns there; two devices' rewards differ by rounding, and so may the plans that follow."""
    env = gym.make("HOBSPrune-v0", problem=problem_on(device), target_flops_reduction=0.5)
    layout = env.unwrapped.layout  # type: ignore[attr-defined]
    small = ImaginationSettings(moves=16, batch_size=16, epochs=1, proposals=16)
    agent = RSPARAgent(layout.num_layers, layout.feature_dim, hidden_dim=8, imagination=small, seed=0, device=device)
    agent.learn(env, 4)
    return found(measured=len(env.unwrapped.archive))  # type: ignore[attr-defined]


# ---------------------------------------------------------------- surgery, training, reconstruction


@scenario_of_each(["none", "closed_form", "sequential"], tolerance=5e-3)
def surgery(refit: str, device: torch.device) -> Found:
    task = task_on(device)
    pruner = PhysicalPruner(task.model, task.example_input)
    small = pruner.prune(half(pruner.groups), refit=refit, calibration=task.calibration)  # type: ignore[arg-type]
    with torch.no_grad():
        return found(logits=small.eval()(task.test.images.to(device)))


@scenario(tolerance=2e-2)
def reconstruction(device: torch.device) -> Found:
    task = task_on(device)
    small = PhysicalPruner(task.model, task.example_input).prune(
        half(PhysicalPruner(task.model, task.example_input).groups)
    )
    settings = Reconstruction(steps=12, batch_size=16)
    outcome = reconstruct(small, task.model, task.calibration.images, settings)
    return found(before=outcome.before, after=outcome.after)


@scenario(tolerance=1e-1)
def reconstruction_in_16_bits(device: torch.device) -> Found:
    task = task_on(device)
    pruner = PhysicalPruner(task.model, task.example_input)
    small = pruner.prune(half(pruner.groups))
    settings = Reconstruction(steps=12, batch_size=16, mixed_precision=True)
    outcome = reconstruct(small, task.model, task.calibration.images.to(device), settings)
    return found(before=outcome.before, after=outcome.after)


@scenario_of_each(["float32", "mixed"], tolerance=5e-2)
def fine_tuning(precision: str, device: torch.device) -> Found:
    task = task_on(device)
    model = copy.deepcopy(task.model)
    loop = Loop(mixed_precision=precision == "mixed", accumulation=2)
    history = fine_tune(model, task.model, task.calibration, epochs=1, batch_size=32, lr=1e-3, seed=0, loop=loop)
    return found(loss=history[-1].loss) | ({} if precision == "mixed" else state_of(model))


@scenario()
def resumed_training(device: torch.device) -> Found:
    """A training halted after an epoch and gone on with ends where an uninterrupted one does."""
    folder = Path(tempfile.mkdtemp(prefix="scenario"))
    task = task_on(device)

    def halted(description: str, done: int, total: int) -> None:
        if done == 4:
            raise KeyboardInterrupt

    options: dict[str, Any] = {"epochs": 2, "batch_size": 32, "lr": 1e-3, "seed": 0}
    whole, first = (copy.deepcopy(task.model) for _ in range(2))
    fine_tune(whole, None, task.calibration, **options)
    loop = Loop(checkpoint=folder / "state.safetensors")
    with contextlib.suppress(KeyboardInterrupt):
        fine_tune(first, None, task.calibration, **options, loop=loop, progress=halted)
    resumed = copy.deepcopy(task.model)
    fine_tune(resumed, None, task.calibration, **options, loop=loop)
    same = all(torch.allclose(a, b, atol=1e-6) for a, b in zip(whole.parameters(), resumed.parameters(), strict=True))
    return found(same=same)


@scenario()
def batch_norm_statistics(device: torch.device) -> Found:
    task = task_on(device)
    model = copy.deepcopy(task.model)
    recalibrate_bn(model, task.calibration)
    return state_of(model)


@scenario(tolerance=1e-1)
def one_call(device: torch.device) -> Found:
    task = task_on(device)
    result = prune_gym.prune(
        task.model,
        task.train.images[:128],
        flops=0.4,
        reconstruct=Reconstruction(steps=8, batch_size=16),
        device=device,
        progress=False,
    )
    with torch.no_grad():
        return found(logits=result.model(task.test.images.to(device)))


@scenario_of_each([name for name in fast.FAST if name not in ("gnn", "amc")])  # agents on the CPU, elsewhere tested
def baseline(name: str, device: torch.device) -> Found:
    task = task_on(device)
    pruned = fast.prune(name, copy.deepcopy(task.model), task.calibration)
    return found(parameters=sum(each.numel() for each in pruned.parameters()))


# ---------------------------------------------------------------- files, clocks


@scenario()
def saved_and_loaded(device: torch.device) -> Found:
    task = task_on(device)
    pruner = PhysicalPruner(task.model, task.example_input)
    plan = half(pruner.groups)
    small = pruner.prune(plan).eval()
    path = Path(tempfile.mkdtemp(prefix="scenario")) / "small.safetensors"
    save_pruned(path, small, factory=TinyResNet)
    again = load_pruned(path, TinyResNet).to(device).eval()
    with torch.no_grad():
        return found(logits=again(task.test.images.to(device)))


@scenario()
def exported(device: torch.device) -> Found:
    task = task_on(device)
    path = Path(tempfile.mkdtemp(prefix="scenario")) / "network.pt2"
    parity = export_program(task.model, task.test.images[:1].to(device), path)
    return found(agrees=parity.max_error <= 1e-4)


@scenario()
def clocks(device: torch.device) -> Found:
    """Latency tables and the profiler: times are no two alike, so only that there are some."""
    task = task_on(device)
    problem = problem_on(device)
    table = latency.measure(task.model, task.example_input, problem.cost, batch_size=4)
    profiler = GPUProfiler(device=device, memory=True)
    with profiler.section("forward"), torch.no_grad():
        task.model(task.test.images.to(device))
    milliseconds = profiler.get_summary()["forward"]["total_ms"]
    return found(layers=len(table.layers), ran=milliseconds > 0)
