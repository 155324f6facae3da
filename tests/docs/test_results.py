"""README.md and docs/results.md: every number is one of a result file, or a setting."""

import statistics

import pytest

from benchmarks.studies.evidence import reconstruction
from benchmarks.studies.manifest.parts import PARTS
from tests.docs.numbers import compared, percent, result
from tests.docs.stated import Page
from tests.pages import DOCS, ROOT

RESULTS = Page(
    DOCS / "results.md",
    *(
        "Intervals are 95 %.",
        "(digits, 94 %, five seeds)",
        "curvature 28x faster",
        "error 40.5 % below",
        "13.3 % fewer",
    ),
    *("76 % of the FLOPs at a loss of 0.17 points", "3.1x faster with 76 % of the FLOPs gone"),
)
README = Page(ROOT / "README.md", "ResNet-50 at 224, on a CPU | 76 % of the FLOPs")
STEPS = ("magnitude", "magnitude + BN recal", "magnitude + sequential", "H-OBS + BN recal", "H-OBS + sequential")
DENSE = "kfac_vs_dense_hessian"
FEATURE_ERRORS = ("hobs", "magnitude", "magnitude_refit")
CONFIGURATIONS = ("digits_resnet20", "fashion_resnet20", "fashion_vgg11")


def main_job(name):
    (row,) = (row for row in result(f"{name}.json")["rows"] if row["method"] == "hobs-rspar")
    return row


def below_dense(name):
    return percent(main_job(name)["dense_mean"] - main_job(name)["final_mean"])


def cells_of(network, removed):
    cells = result("reconstruction.json")["cells"]
    return [cell["accuracy"] for cell in cells if (cell["network"], cell["removed"]) == (network, removed)]


def mean_of(network, removed, stage):
    return statistics.fmean(accuracy[stage] for accuracy in cells_of(network, removed))


def speed_ups(kind):
    rows = [row for name in ("speed_prune", "speed_prune_1_thread") for row in result(f"{name}.json")["rows"]]
    names = [f"resnet50_speedup_b{batch}{kind}" for batch in (1, 16)]
    return [row["value"] for row in rows if row["name"] in names]


def from_to(kind):
    return f"{min(speed_ups(kind)):.1f}x to {max(speed_ups(kind)):.1f}x"


@RESULTS.says
def claim_of_the_curvature():
    ratio = {row["name"]: row["ratio"] for row in result("speed_hessian.json")["rows"]}
    filters, blocks = (round(ratio[name], -1) for name in ("kfac_vs_exact_per_filter", DENSE))
    yield f"**{filters:.0f}x** against one Hessian-vector product a filter"
    yield f"**{blocks:.0f}x** against dense Hessian blocks"
    assert min(filters, blocks) >= 28


@RESULTS.says
def claim_of_the_features():
    falls, spread = {key: [] for key in FEATURE_ERRORS[1:]}, []
    for name in ("audit_digits", "audit_fashion"):
        runs = [run for run in result(f"{name}.json")["runs"] if run["split"] == "calibration" and not run["weights"]]
        error = {key: statistics.fmean(run["mean_features"][key] for run in runs) for key in FEATURE_ERRORS}
        for key, values in falls.items():
            values.append(100 * (1 - error["hobs"] / error[key]))
        single = [100 * (1 - run["mean_features"]["hobs"] / run["mean_features"]["magnitude"]) for run in runs]
        spread.append(max(single) - min(single))
    yield "**{:.0f} % / {:.0f} %** below unrepaired magnitude".format(*falls["magnitude"])
    yield "**{:.0f} % / {:.0f} %** below magnitude with the same refit".format(*falls["magnitude_refit"])
    yield f"seeds agree to {max(spread):.1f})"
    assert min(falls["magnitude"]) > 40.5 > max(falls["magnitude_refit"])


@RESULTS.says
def claim_of_the_adaptive_lambda():
    rows = {row["agent"]: row for row in result("compare_digits_lambda/comparison.json")["rows"]}
    caught = rows["rspar-fixed"]["caught_up"]
    assert caught["high"] > 64
    saved = [100 * (1 - caught[bound] / 64) for bound in ("value", "low")]
    yield "{:.0f} % fewer, with an interval from {:.0f} % fewer to never there".format(*saved)


@RESULTS.says
def claim_of_the_accuracy():
    job = main_job("fashion_resnet20")
    free = percent(job["dense_mean"] - mean_of("fashion-resnet20", 0.76, "reconstructed"))
    yield f"Fashion-MNIST ResNet-20, of {percent(job['dense_mean'])}: **{free}** lost without labels"
    yield f"**{below_dense('fashion_resnet20')}** ± {percent(job['final_std'])} after five epochs"
    assert min(float(free), float(below_dense("fashion_resnet20"))) > 0.17


@RESULTS.says
def claim_of_the_speed():
    yield f'four conditions: {from_to("")} as is, **{from_to("_auto")}** with `round_to="auto"`'
    assert min(speed_ups("_auto")) > 3.1 > min(speed_ups(""))
    assert len(speed_ups("")) == 4


@RESULTS.says
def table_of_the_reconstruction():
    cells = result("reconstruction.json")["cells"]
    yield from (line for line in reconstruction.table(cells).markdown().splitlines() if line.startswith("|"))
    yield f"outputs on {reconstruction.IMAGES:,} images"


@RESULTS.says
def reconstruction_of_small_networks():
    """Never further from the dense network, and never fewer images right."""
    cells = result("reconstruction_networks.json")["cells"]
    assert len(cells) == len(reconstruction.NETWORKS) * len(reconstruction.RATIOS)
    for cell in [*cells, *result("reconstruction.json")["cells"]]:
        assert cell["held_out"]["after"] <= cell["held_out"]["before"]
        assert cell["divergence"]["reconstructed"] <= cell["divergence"]["refit"]
        assert cell["accuracy"]["reconstructed"] >= cell["accuracy"]["refit"]
    yield f"falls and top-1 rises in all {len(cells)} cuts"


@RESULTS.says
def table_of_the_main_job():
    for name in CONFIGURATIONS:
        job = main_job(name)
        dense, one_shot, final = (percent(job[f"{stage}_mean"]) for stage in ("dense", "one_shot", "final"))
        yield (
            f"| `{name}` | {100 * job['target_flops_reduction']:.0f} % | {job['runs']} | {dense} | "
            f"{one_shot} ± {percent(job['one_shot_std'])} | **{final}** ± {percent(job['final_std'])} |"
        )
        assert max(job["measured_evaluations"]) <= 101
    yield "R-SPAR with 101 measured plans"
    yield f"ResNet-20 ends {below_dense('fashion_resnet20')} points below dense, VGG-11 {below_dense('fashion_vgg11')},"


@RESULTS.says
def table_of_one_shot_accuracies():
    (run,) = result("one_shot_fashion.json")["runs"]
    yield f"dense {percent(run['dense_accuracy'])} %, every layer pruned by the same ratio"
    for budget in run["budgets"]:
        *cells, last = (percent(budget["accuracies"][step]) for step in STEPS)
        yield f"| {budget['target']:.0%} | ".replace("%", " %") + " | ".join([*cells, f"**{last}**"]) + " |"
    error = statistics.fmean((p * (1 - p) / 10_000) ** 0.5 for p in (run["dense_accuracy"], 0.88))
    yield f"(standard error {100 * error:.1f};"


@README.says
def digits_in_the_readme():
    job = main_job("digits_resnet20")
    dense, one_shot, final = (percent(job[f"{stage}_mean"]) for stage in ("dense", "one_shot", "final"))
    removed = f"{100 * job['target_flops_reduction']:.0f} % of the FLOPs"
    yield f"| {removed} | {dense} % → {one_shot} % one-shot, **{final} %** fine-tuned |"


@README.says
def fashion_in_the_readme():
    for network, title in (("resnet20", "ResNet-20"), ("vgg11", "VGG-11")):
        job = main_job(f"fashion_{network}")
        stages = (percent(mean_of(f"fashion-{network}", 0.76, stage)) for stage in ("dense", "refit", "reconstructed"))
        yield (
            "| {}, Fashion-MNIST | 76 % of the FLOPs | {} % → {} % one-shot, **{} %** reconstructed; {} % fine-tuned |"
        ).format(title, *stages, percent(job["final_mean"]))


@README.says
def methods_in_the_readme():
    rows = compared("resnet20", 0.76)
    ours, amc = rows["hobs-rspar"]["accuracy"], rows["amc"]["accuracy"]
    numbers = [100 * stage["mean"] for stage in (ours["refit"], ours["finetuned"], amc["raw"], amc["finetuned"])]
    yield "| 76 % of the FLOPs | {:.1f} % one-shot, **{:.1f} %** fine-tuned; AMC {:.1f} %, {:.1f} % |".format(*numbers)


@README.says
def speed_in_the_readme():
    yield f'{from_to("")} faster, {from_to("_auto")} with `round_to="auto"`'


@pytest.mark.parametrize("source", RESULTS.sources, ids=lambda source: source.__name__)
def test_the_results_say_what_the_files_say(source):
    assert not RESULTS.missing(source)


@pytest.mark.parametrize("source", README.sources, ids=lambda source: source.__name__)
def test_the_readme_says_what_the_files_say(source):
    assert not README.missing(source)


@pytest.mark.parametrize("page", [RESULTS, README], ids=["results", "readme"])
def test_no_number_is_unchecked(page):
    assert not page.unchecked()


def test_tables_are_short():
    for page in (DOCS / "results.md", DOCS / "comparison.md", ROOT / "README.md"):
        for table in page.read_text().split("\n\n"):
            rows = [line for line in table.splitlines() if line.startswith("|")]
            assert len(rows) - 2 <= 8
    table = (ROOT / "README.md").read_text().partition("| network, data | what goes | what is left |")[2]
    rows = table.partition("\n\n")[0].splitlines()[2:]
    assert len(rows) <= 5
    assert all(line.count(" | ") == 2 for line in rows)


def test_the_page_names_the_command_of_the_evidence():
    assert "python -m benchmarks.studies.evidence --list" in (DOCS / "results.md").read_text()
    assert {"reconstruction", "reconstruction_networks", "one_shot_fashion", *CONFIGURATIONS} <= PARTS.keys()
