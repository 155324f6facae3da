"""README.md, docs/results.md and what H-OBS, surgery and the ablation measured: numbers are those of the files."""

import statistics

import pytest

from benchmarks.studies.evidence import reconstruction
from tests.docs.numbers import ONE_LINE, PAGES, README, compared, percent, result, row_of

STEPS = ("magnitude", "magnitude + BN recal", "magnitude + sequential", "H-OBS + BN recal", "H-OBS + sequential")


def test_one_shot_accuracies_are_those_of_the_file():
    (run,) = result("one_shot_fashion.json")["runs"]
    for budget in run["budgets"]:
        *cells, last = (percent(budget["accuracies"][step]) for step in STEPS)
        row = f"| {budget['target']:.0%} | ".replace("%", " %") + " | ".join([*cells, f"**{last}**"]) + " |"
        assert row in PAGES["results"]


def main_jobs():
    (digits,) = (row for row in result("digits_resnet20.json") if row["method"] == "hobs-rspar")
    return {"digits_resnet20": digits} | {f"fashion_{net}": result(f"fashion_{net}.json")[0] for net in NETWORKS}


NETWORKS = ("resnet20", "vgg11")
README_ROWS = {
    "digits_resnet20": "ResNet-20, scikit-learn's digits",
    "fashion_resnet20": "ResNet-20, Fashion-MNIST",
    "fashion_vgg11": "VGG-11, Fashion-MNIST",
}


def test_the_main_job_is_in_the_results_as_measured():
    for name, job in main_jobs().items():
        _, target, runs, dense, one_shot, final = row_of(PAGES["results"], f"`{name}`")
        assert (target, runs, dense) == (
            f"{100 * job['target_flops_reduction']:.0f} %",
            str(job["runs"]),
            percent(job["dense_mean"]),
        )
        assert one_shot == f"{percent(job['one_shot_mean'])} ± {percent(job['one_shot_std'])}"
        assert final == f"**{percent(job['final_mean'])}** ± {percent(job['final_std'])}"


def test_the_main_job_ends_below_dense_by_what_the_results_say():
    below = {name: percent(job["dense_mean"] - job["final_mean"]) for name, job in main_jobs().items()}
    assert (
        f"ResNet-20 ends {below['fashion_resnet20']} points below dense, VGG-11 {below['fashion_vgg11']}"
        in ONE_LINE["results"]
    )
    assert f"**{below['fashion_resnet20']}** after five epochs" in ONE_LINE["results"]


def test_the_main_job_is_in_the_readme_as_measured():
    for name, job in main_jobs().items():
        _, target, left = row_of(README, README_ROWS[name])
        assert target == f"{100 * job['target_flops_reduction']:.0f} % of the FLOPs"
        dense, one_shot, final = (percent(job[f"{stage}_mean"]) for stage in ("dense", "one_shot", "final"))
        assert left == f"{dense} % → {one_shot} % one-shot, **{final} %** fine-tuned"


def test_the_table_of_the_readme_is_short():
    lines = README.splitlines()
    start = lines.index("| network, data | what goes | what is left |")
    rows = lines[start + 2 : lines.index("", start)]
    assert len(rows) <= 5
    assert all(line.count(" | ") == 2 for line in rows)


def test_methods_are_in_the_readme_as_compared():
    rows = compared("resnet20", 0.76)
    _, _, left = row_of(README, "ResNet-20, Fashion-MNIST: ours and AMC, equal short fine-tuning")
    ours, amc = rows["hobs-rspar"]["accuracy"], rows["amc"]["accuracy"]
    numbers = [100 * stage["mean"] for stage in (ours["refit"], ours["finetuned"], amc["raw"], amc["finetuned"])]
    assert left == "{:.1f} % one-shot, **{:.1f} %** fine-tuned; AMC {:.1f} %, {:.1f} %".format(*numbers)


def test_the_speed_of_a_resnet50_is_that_of_the_files():
    rows = [row for name in ("speed_prune", "speed_prune_1_thread") for row in result(f"{name}.json")["rows"]]

    def speed_ups(kind):
        names = [f"resnet50_speedup_b{batch}{kind}" for batch in (1, 16)]
        values = [row["value"] for row in rows if row["name"] in names]
        return f"{min(values):.1f}x to {max(values):.1f}x"

    _, _, left = row_of(README, "ResNet-50 at 224, on a CPU")
    assert left == f'{speed_ups("")} faster, {speed_ups("_auto")} with `round_to="auto"`'


@pytest.mark.parametrize("part", ["cuts", "networks"])
def test_the_tables_of_the_reconstruction_are_those_of_the_file(part):
    of_part = reconstruction.NETWORKS if part == "networks" else dict(reconstruction.CUTS)
    cells = [cell for cell in result("reconstruction.json")["cells"] if cell["network"] in of_part]
    _, _, table = PAGES["results"].partition(f"<!-- reconstruction: {part} -->\n")
    rows = [line for line in reconstruction.table(cells).markdown().splitlines() if line.startswith("|")]
    assert table.partition("\n<!-- end -->")[0].splitlines() == rows


def test_a_reconstruction_never_leaves_a_network_further_from_the_dense_one():
    cells = result("reconstruction.json")["cells"]
    assert len({(cell["network"], cell["removed"]) for cell in cells}) >= 12
    for cell in cells:
        assert cell["held_out"]["after"] <= cell["held_out"]["before"]
        assert cell["divergence"]["reconstructed"] <= cell["divergence"]["refit"]


def audits(split):
    """Digits' runs of a split with the weights of the package, and Fashion-MNIST's."""
    for name in ("audit_digits", "audit_fashion"):
        yield [run for run in result(f"{name}.json")["runs"] if run["split"] == split and run["weights"] is None]


@pytest.mark.parametrize(
    ("row", "key"),
    [("single channels of all layers", "single_channels"), ("cuts of 25, 50, 75 % across layers", "across_layers")],
)
def test_prices_agree_with_the_truth_as_the_audits_say(row, key):
    _, *cells = (cell for cell in row_of(PAGES["hobs"], row))
    expected = {}
    for column, split in enumerate(("calibration", "reward")):
        digits, (fashion,) = audits(split)
        values = [run["price"][key]["value"] for run in digits]
        expected[column] = f"{statistics.fmean(values):.3f} [{min(values):.2f}, {max(values):.2f}]"
        expected[column + 2] = "{value:.3f} [{low:.2f}, {high:.2f}]".format(**fashion["price"][key])
    assert cells == [expected[column] for column in range(4)]


def test_feature_errors_fall_by_what_the_audits_say():
    falls = []
    for runs in audits("calibration"):
        error = {key: statistics.fmean(run["mean_features"][key] for run in runs) for key in FEATURE_ERRORS}
        falls.append([100 * (1 - error["hobs"] / error[key]) for key in FEATURE_ERRORS[1:]])
    (digits, digits_refit), (fashion, fashion_refit) = falls
    assert f"is {digits:.0f} % (digits) and {fashion:.0f} % (Fashion-MNIST) lower" in ONE_LINE["hobs"]
    assert f"and {digits_refit:.0f} % lower on both" in ONE_LINE["hobs"]
    assert f"{digits_refit:.0f}" == f"{fashion_refit:.0f}"
    claimed = f"**{digits:.0f} % / {fashion:.0f} %** below unrepaired magnitude, **{digits_refit:.0f} %"
    assert claimed in ONE_LINE["results"]


FEATURE_ERRORS = ("hobs", "magnitude", "magnitude_refit")


def test_what_prices_cost_is_what_was_measured():
    ratio = {row["name"]: row["ratio"] for row in result("speed_hessian.json")["rows"]}
    page = PAGES["hobs"]
    assert f"| **{ratio['factors_vs_forward_backward']:.2f}x** |" in page
    assert f"| **{ratio['factors_vs_forward_backward_subsampled']:.2f}x** |" in page
    assert f"| **{ratio['factors_vs_curvlinops']:.1f}x** faster |" in page
    assert f"| {ratio['analysis_vs_factors']:.1f}x |" in page
    filters, blocks = (f"**{round(ratio[name], -1):.0f}x**" for name in ("kfac_vs_exact_per_filter", DENSE))
    assert f"{filters} against one Hessian-vector product a filter; {blocks} against dense" in ONE_LINE["results"]
    assert f"| {filters} |" in page
    assert f"| {blocks} |" in page


DENSE = "kfac_vs_dense_hessian"


def test_what_rounding_gives_is_what_was_measured():
    page = PAGES["surgery"]
    for file, threads in (("speed_prune_1_thread", "1 thread"), ("speed_prune", "2 threads")):
        value = {row["name"]: row["value"] for row in result(f"{file}.json")["rows"]}
        for batch in (1, 16):
            speeds = (f"{value[f'resnet50_speedup_b{batch}{kind}']:.2f}x" for kind in ("", "_auto"))
            seconds = value[f"choose_auto_resnet50_b{batch}_s"]
            assert f"| {threads}, batch {batch} | {' | '.join(speeds)} | {seconds:.0f} s |" in page


def test_the_adaptive_lambda_saves_what_the_study_says():
    rows = {row["agent"]: row for row in result("compare_digits_lambda/comparison.json")["rows"]}
    caught = rows["rspar-fixed"]["caught_up"]
    saved = [100 * (1 - caught[bound] / 64) for bound in ("value", "low")]
    assert caught["high"] > 64
    assert "{:.0f} % fewer, with an interval from {:.0f} % fewer to never there".format(*saved) in ONE_LINE["results"]


def test_the_parts_are_worth_what_the_ablation_says():
    rows = {row["variant"]: row["accuracy"] for row in result("ablation_fashion.json")["rows"]}
    lost = {
        (name, stage): -100 * rows[name][stage]["comparison"]["mean_difference"]
        for name in ("no_hessian", "no_refit", "no_rl", "no_kd")
        for stage in ("one_shot", "final")
    }
    page = ONE_LINE["benchmarks"]
    order = lost["no_hessian", "one_shot"] - lost["no_refit", "one_shot"]
    assert (
        f"the refit is worth {lost['no_refit', 'one_shot']:.0f} points, H-OBS' order and curvature another "
        f"{order:.0f}, the search {lost['no_rl', 'one_shot']:.1f}."
    ) in page
    assert (
        f"the refit is still worth {lost['no_refit', 'final']:.1f} and distillation {lost['no_kd', 'final']:.1f}"
    ) in page
