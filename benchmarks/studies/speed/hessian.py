"""Cost of curvature, against a training step, a peer, and exact computation.

The network is torchvision's ResNet-50 with random weights (time does not depend on them); where trained weights
matter, the row says which network it is.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from statistics import median

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, interpolate

from benchmarks.metrics.memory import peak_rss_bytes
from benchmarks.studies.speed.random_networks import random_images, random_network
from benchmarks.studies.speed.rows import SpeedRow, interleaved, median_ratio, seconds_of
from hessian import HOBSSensitivityAnalyzer, KFACHessianApproximator
from hessian.audit.rank_correlation import spearman
from hessian.obs.factors import KroneckerFactors
from hessian.pricing.exact import dense_hessian, filter_quadratics
from prune_gym.tasks.registry import make_task
from prune_gym.tasks.task import PruningTask

Batches = Sequence[tuple[Tensor, Tensor]]
Report = Callable[[str], None]

SWEEP_ALLOWANCE = 60
"""Seconds for the sweeps of ResNet-50, beside three times the factors."""

SAMPLED_FILTERS = 2
"""Filters a layer whose exact quadratic is timed; all filters of a layer cost the same."""

EXACT_BATCH = 100
"""Images of one Hessian-vector product; forward-mode differentiation holds every activation twice."""


def measure(options: argparse.Namespace, report: Report) -> Iterator[SpeedRow]:
    """Measure row after row.

    Args:
        options: what :func:`benchmarks.studies.speed.options.hessian` added, and ``device``.
        report: told what is going on.
    """
    for name in options.rows or ROWS:
        report(f"measuring {name}")
        yield from ROWS[name](options)


def _network(options: argparse.Namespace, batches: int = 1) -> tuple[nn.Module, Batches]:
    model = random_network(options.network).to(options.device)
    images, labels = random_images(options.batch_size * batches, options.image_size, classes=1000)
    images, labels = images.to(options.device), labels.to(options.device)
    return model, list(zip(images.split(options.batch_size), labels.split(options.batch_size), strict=True))


def _digits(options: argparse.Namespace) -> tuple[PruningTask, Tensor, Tensor]:
    """The embedded task with its network on the device, and some calibration images and labels."""
    task = make_task("digits-resnet20")
    task.model.to(options.device)
    split = task.calibration.subset(slice(options.digits))
    return task, split.images.to(options.device), split.labels.to(options.device)


def _forward_backward(model: nn.Module, batches: Batches) -> None:
    """A plain training step's passes, all weight gradients included."""
    for images, labels in batches:
        model.zero_grad()
        cross_entropy(model(images), labels).backward()


def _factors(model: nn.Module, batches: Batches, stride: int = 1) -> Callable[[], dict[str, KroneckerFactors]]:
    hobs = HOBSSensitivityAnalyzer(model, example_input=batches[0][0][:1], position_stride=stride)
    return partial(hobs.measure_curvature, batches, num_batches=None)


def _factors_vs_forward_backward(options: argparse.Namespace, stride: int = 1) -> Iterator[SpeedRow]:
    model, batches = _network(options)
    factors, passes = interleaved(
        _factors(model, batches, stride), lambda: _forward_backward(model, batches), options.repeats
    )
    name = "factors_vs_forward_backward" + ("_subsampled" if stride > 1 else "")
    what = f"forward + backward, {options.network}, {options.batch_size} images at {options.image_size}"
    yield SpeedRow(name, median(factors), "s", f"{what}: {median(passes):.2f} s", median_ratio(factors, passes))


def _subsampled(options: argparse.Namespace) -> Iterator[SpeedRow]:
    yield from _factors_vs_forward_backward(options, options.stride)


def _subsampling_error(options: argparse.Namespace) -> Iterator[SpeedRow]:
    """On trained weights and real images: noise has no neighbouring positions that resemble each other."""
    task, images, labels = _digits(options)
    batches = [(images, labels)]
    prices, factors = [], []
    for stride in (1, options.stride):
        hobs = HOBSSensitivityAnalyzer(task.model, example_input=images[:1], position_stride=stride)
        hobs.compute_sensitivity(batches)
        prices.append(torch.cat(list(hobs.prices.values())))
        factors.append(hobs.factors)
    errors = [
        float((sampled - exact).norm() / exact.norm())
        for name in factors[0]
        for exact, sampled in (
            (factors[0][name].A, factors[1][name].A),
            (factors[0][name].G, factors[1][name].G),
        )
    ]
    agreement = spearman(torch.stack(prices, dim=1).numpy())
    what = f"all positions, digits ResNet-20, {len(labels)} images, stride {options.stride}"
    yield SpeedRow("subsampling_error", median(errors), "relative (median over factors)", what, None)
    yield SpeedRow("subsampled_price_spearman", agreement, "rank correlation", what, None)


def _factors_vs_curvlinops(options: argparse.Namespace) -> Iterator[SpeedRow]:
    model, batches = _network(options)
    layers = {name: module for name, module in model.named_modules() if isinstance(module, (nn.Conv2d, nn.Linear))}
    ours = KFACHessianApproximator(model, layers=list(layers))
    mine, theirs = interleaved(
        lambda: ours.estimate(batches, None, None, "mc"), lambda: _curvlinops_factors(model, batches), options.repeats
    )
    what = f"curvlinops KFACLinearOperator, MC Fisher, expand, the same layers: {median(theirs):.2f} s"
    yield SpeedRow("factors_vs_curvlinops", median(mine), "s", what, median_ratio(theirs, mine))


def _curvlinops_factors(model: nn.Module, batches: Batches) -> None:
    from curvlinops import KFACLinearOperator

    layers = (module for module in model.modules() if isinstance(module, (nn.Conv2d, nn.Linear)))
    parameters = [parameter for module in layers for parameter in module.parameters()]
    operator = KFACLinearOperator(
        model,
        nn.CrossEntropyLoss(),
        parameters,
        batches,
        fisher_type="mc",
        mc_samples=1,
        num_data=sum(len(labels) for _, labels in batches),
        num_per_example_loss_terms=1,
        check_deterministic=False,
    )
    operator.compute_kronecker_factors()


def _analysis_vs_factors(options: argparse.Namespace) -> Iterator[SpeedRow]:
    model, batches = _network(options, options.batches)
    hobs = HOBSSensitivityAnalyzer(model, example_input=batches[0][0][:1])
    factors = seconds_of(lambda: hobs.measure_curvature(batches, num_batches=None))
    analysis = seconds_of(lambda: hobs.compute_sensitivity(batches, num_batches=None))
    images = sum(len(labels) for _, labels in batches)
    limit = 3 * factors + SWEEP_ALLOWANCE
    what = f"factors of {images} images: {factors:.1f} s (3x and {SWEEP_ALLOWANCE} s of sweeps: {limit:.0f} s)"
    yield SpeedRow("analysis_vs_factors", analysis, "s", what, analysis / factors)


def _kfac_vs_exact_per_filter(options: argparse.Namespace) -> Iterator[SpeedRow]:
    task, images, labels = _digits(options)
    model = task.model
    hobs = HOBSSensitivityAnalyzer(model, example_input=images[:1])
    layers = {name: module for name, module in model.named_modules() if isinstance(module, nn.Conv2d)}
    batches = list(zip(images.split(EXACT_BATCH), labels.split(EXACT_BATCH), strict=True))

    def exact_quadratics() -> None:
        for name in layers:
            for x, y in batches:
                filter_quadratics(model, x, y, None, name, filters=range(SAMPLED_FILTERS))

    kfac, exact = interleaved(
        lambda: hobs.compute_sensitivity(batches, num_batches=None), exact_quadratics, max(1, options.repeats // 2)
    )
    filters = sum(module.out_channels for module in layers.values())
    scale = filters / (SAMPLED_FILTERS * len(layers))
    what = (
        f"exact w'Hw of all {filters} filters, a Hessian-vector product each: {scale * median(exact):.0f} s, from "
        f"{SAMPLED_FILTERS} filters a layer; digits ResNet-20, {len(labels)} images"
    )
    yield SpeedRow("kfac_vs_exact_per_filter", median(kfac), "s", what, scale * median_ratio(exact, kfac))


def _kfac_vs_dense_hessian(options: argparse.Namespace) -> Iterator[SpeedRow]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 16, 3, padding=1), nn.ReLU(),
            nn.MaxPool2d(2), nn.Flatten(), nn.Linear(64, 10),
        )  # fmt: skip
    _, images, labels = _digits(options)
    images, model = interpolate(images[:, :1], (8, 8)), model.eval().to(options.device)
    names = [name for name, _ in model.named_parameters() if name.endswith("weight")]
    approximator = KFACHessianApproximator(model)
    kfac, dense = interleaved(
        lambda: approximator.estimate([(images, labels)]),
        lambda: [dense_hessian(model, images, labels, None, name) for name in names],
        options.repeats,
    )
    weights = " + ".join(str(model.get_parameter(name).numel()) for name in names)
    what = f"dense Hessian blocks of {weights} weights (torch.func), {len(labels)} images: {median(dense):.2f} s"
    yield SpeedRow("kfac_vs_dense_hessian", median(kfac), "s", what, median_ratio(dense, kfac))


def _peak_memory_mib(options: argparse.Namespace) -> Iterator[SpeedRow]:
    """Of the process during an analysis, beyond what it held with the model and the images loaded.

    Raises:
        ValueError: the system does not tell the peak memory of a process.
    """
    model, batches = _network(options)
    before = peak_rss_bytes(lambda: None)
    hobs = HOBSSensitivityAnalyzer(model, example_input=batches[0][0][:1])
    peak = peak_rss_bytes(lambda: hobs.compute_sensitivity(batches, num_batches=None))
    if before is None or peak is None:
        raise ValueError("this system does not tell the peak memory of a process")
    weights = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
    mib = 1 << 20
    what = f"process with model ({weights / mib:.0f} MiB) and images loaded: {before / mib:.0f} MiB"
    yield SpeedRow("peak_memory_mib", (peak - before) / mib, "MiB more", what, peak / before)


ROWS: dict[str, Callable[[argparse.Namespace], Iterator[SpeedRow]]] = {
    "peak_memory_mib": _peak_memory_mib,
    "factors_vs_forward_backward": _factors_vs_forward_backward,
    "factors_vs_forward_backward_subsampled": _subsampled,
    "subsampling_error": _subsampling_error,
    "factors_vs_curvlinops": _factors_vs_curvlinops,
    "analysis_vs_factors": _analysis_vs_factors,
    "kfac_vs_exact_per_filter": _kfac_vs_exact_per_filter,
    "kfac_vs_dense_hessian": _kfac_vs_dense_hessian,
}
"""In this order: memory first, while nothing else has left its mark on the process."""
