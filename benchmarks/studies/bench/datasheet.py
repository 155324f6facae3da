"""The datasheet of the bench (Gebru et al., 2021): what is in the table, where it comes from, how good the fits are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from benchmarks.common.columns import Column, Value
from benchmarks.common.table import Table
from benchmarks.studies.engine.study import Result
from prune_gym.bench.networks import BenchNetwork
from prune_gym.bench.plans import SOURCES, NetworkPlans
from prune_gym.bench.protocol import TARGETS
from prune_gym.tasks.family.images import CALIBRATION, DIGITS_SIZES, FASHION_SIZES

Entry = tuple[BenchNetwork, NetworkPlans]

TEXT = """# PruneBench: datasheet

Written by `python -m benchmarks.studies.bench build`; `measure` of the same command makes the numbers.

**What it is.** {networks} small image classifiers and {plans:,} pruning plans measured on them, {megabytes:.1f} MB: to
study how plans of one network foretell good plans of another, and to try out agents without a network or a GPU.

**What a row is.** A network and a plan (kept units a layer), how the plan was found, its FLOPs and parameter reduction,
and after a sequential refit top-1 accuracy, mean probability of the true class and loss on the reward and on the test
split. `layer_errors`: of every layer, the share of variance that the refit misses in the outputs of the modules that
read it. {reconstructed} plans were measured after a short reconstruction too.

**The networks.** Drawn by their names' seeds: widths, depths, kernels, activations, images. Trained from scratch on
scikit-learn's digits at 8x8 ({digits} images that train, reward and test) or on Fashion-MNIST averaged to 8 to 16
pixels ({fashion}). Refits and curvature see {calibration} images of dense-train. Numbers decide the split; kinds marked
`held out` are in test alone.

{kinds}
{found}
{gains}
**The surrogates.** Spearman's rank correlation of soft accuracy on plans left out of the fit: median {median:.3f}, a
tenth of the networks below {tenth:.3f}, lowest {lowest:.3f} ({worst}). Their noise model is fitted to the same plans.

**What to keep in mind.** One training seed a network, one repair, small images: differences between kinds are not
laws. Plans were chosen, and searches led, by the reward split; the test split was only measured. Reward splits are
small, so single accuracies are good to about a percent, while plans of one network share the images and their order is
better known than that.

**Sources and licences.** Fashion-MNIST: Xiao, Rasul, Vollgraf (2017), MIT. Digits: Alpaydin and Kaynak (1998), UCI,
CC BY 4.0, as in scikit-learn. The table has no image of either.

**Made with** {versions}.
"""


def datasheet(
    networks: Sequence[BenchNetwork], plans: Sequence[NetworkPlans], cells: Sequence[Result], size: int
) -> str:
    """The datasheet as Markdown.

    Args:
        networks: with surrogates.
        plans: of the same networks, in the same order.
        cells: the same as they were measured.
        size: of the files together, bytes.
    """
    entries = list(zip(networks, plans, strict=True))
    ranks = {network.name: float(network.surrogate.spearman[1]) for network in networks if network.surrogate}
    worst = min(ranks, key=lambda name: ranks[name])
    versions = {f"{package} {version}" for cell in cells for package, version in cell.get("versions", {}).items()}
    return TEXT.format(
        networks=len(networks),
        plans=sum(map(len, plans)),
        megabytes=size / 1e6,
        reconstructed=sum(int(np.isfinite(entry.reconstructed[:, 0]).sum()) for entry in plans),
        digits="{:,} / {:,} / {:,}".format(*DIGITS_SIZES),
        fashion="{:,} / {:,} / {:,}".format(*FASHION_SIZES),
        calibration=CALIBRATION,
        kinds=kinds_table(entries).markdown(),
        found=sources_table(plans).markdown(),
        gains=gains_table(entries).markdown(),
        median=float(np.median(list(ranks.values()))),
        tenth=float(np.quantile(list(ranks.values()), 0.1)),
        lowest=ranks[worst],
        worst=worst,
        versions=", ".join(sorted(versions)),
    )


def kinds_table(entries: Sequence[Entry]) -> Table:
    """Networks, a row a kind and split."""
    columns: list[Column | str] = [
        "kind",
        "split",
        "networks",
        "layers",
        "MFLOPs",
        "dense test accuracy, %",
        Column("Spearman", ".3f"),
    ]
    groups: dict[tuple[bool, str, str], list[BenchNetwork]] = {}
    order = ("train", "validation", "test")
    for network, _ in entries:
        about = network.description
        groups.setdefault((about.held_out_kind, about.kind, about.split), []).append(network)
    rows: list[list[Value]] = []
    for held_out, kind, split in sorted(groups, key=lambda key: (key[0], key[1], order.index(key[2]))):
        found = groups[held_out, kind, split]
        ranks = [float(network.surrogate.spearman[1]) for network in found if network.surrogate]
        rows.append(
            [
                kind,
                f"{split}, held out" if held_out else split,
                len(found),
                _range([network.num_layers for network in found], ".0f"),
                _range([float(network.flops_form(network.units)) / 1e6 for network in found], ".2f"),
                _range([100 * float(network.dense[3]) for network in found], ".1f"),
                float(np.median(ranks)),
            ]
        )
    return Table("The networks; Spearman: median of the surrogates on plans left out", columns, rows)


def sources_table(plans: Sequence[NetworkPlans]) -> Table:
    """Plans by the way they were found."""
    sources = [source for entry in plans for source in entry.source]
    about = {
        "knapsack": "least summed predicted loss",
        "uniform": "equal ratios",
        "perturbed": "the knapsack's ratios with normal noise of 0.03 to 0.25",
        "random": "ratios uniform in [0, 0.95]",
        "search": "one or two layers of the best plan so far changed, its target kept",
    }
    rows: list[list[Value]] = [[name, sources.count(name), about[name]] for name in SOURCES]
    columns: list[Column | str] = ["source", "plans", Column("how", align="left")]
    return Table("How plans were found; all but the knapsack are then projected onto their target", columns, rows)


def gains_table(entries: Sequence[Entry]) -> Table:
    """Gains over the knapsack, by measured plans."""
    columns: list[Column | str] = [
        Column("FLOPs removed, %", ".0f", 100),
        "networks",
        Column("knapsack, soft %", ".1f", 100),
        Column("best measured", ".1f", 100),
        Column("gain, median", ".1f", 100),
        Column("networks with a gain, %", ".0f", 100),
    ]
    rows: list[list[Value]] = []
    for target in TARGETS:
        pairs = np.array(list(_pairs(entries, target)))
        if len(pairs):
            gain = pairs[:, 1] - pairs[:, 0]
            means = pairs.mean(axis=0).tolist()
            rows.append([target, len(pairs), *means, float(np.median(gain)), float((gain > 0.005).mean())])
    caption = "best: of all plans made for the target, on the reward split; a gain is more than half a percent"
    return Table("What there is to gain", columns, rows, caption)


def _pairs(entries: Sequence[Entry], target: float) -> Iterator[tuple[float, float]]:
    """Soft accuracies of the knapsack and of the best plan made for a target, network by network."""
    for _, plans in entries:
        soft = plans.metrics[:, 1]
        made = np.isclose(plans.target, target)
        own = made & (np.array(plans.source) == "knapsack")
        if own.any():
            yield float(soft[own][0]), float(soft[made].max())


def _range(values: Sequence[float], form: str) -> str:
    low, high = format(min(values), form), format(max(values), form)
    return low if low == high else f"{low} to {high}"
