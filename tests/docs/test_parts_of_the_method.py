"""The pages of H-OBS, surgery and the ablation: their numbers are those of the result files they name."""

import re
import statistics

import pytest

from tests.docs.numbers import ONE_LINE, PAGES, result, row_of


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


FEATURE_ERRORS = ("hobs", "magnitude", "magnitude_refit")


def cost_rows():
    """Rows of the page's table of costs: here, there, ratio; times of the baselines are in their descriptions."""
    rows = {row["name"]: row for row in result("speed_hessian.json")["rows"]}

    def of(name, unit="s", digits=1):
        row = rows[name]
        there = re.search(r"([\d.]+) s", row["baseline"])[1]
        here = 1e3 * row["value"] if unit == "ms" else row["value"]
        return f"{here:.{digits}f} {unit}", float(there), row["ratio"]

    here, there, ratio = of("factors_vs_forward_backward")
    yield f"| {here} | plain forward + backward: {there:.1f} s | **{ratio:.2f}x** |"
    here, _, ratio = of("factors_vs_forward_backward_subsampled")
    yield f"| {here} | the same | **{ratio:.2f}x** |"
    here, there, ratio = of("factors_vs_curvlinops")
    yield f"| {here} | curvlinops 3.0.1, the same statistics: {there:.1f} s | **{ratio:.1f}x** faster |"
    here, there, ratio = of("analysis_vs_factors", digits=0)
    yield f"| {here} | its factors: {there:.0f} s | {ratio:.1f}x |"
    here, there, ratio = of("kfac_vs_exact_per_filter", digits=2)
    yield f"| {here} | exact w'Hw, a Hessian-vector product each of 784 filters (timed on 2 a layer): {there:.0f} s |"
    yield f"(timed on 2 a layer): {there:.0f} s | **{round(ratio, -1):.0f}x** |"
    here, there, ratio = of("kfac_vs_dense_hessian", unit="ms", digits=0)
    yield f"| {here} | its dense Hessian blocks by `torch.func` (72, 1152, 640 weights): {there:.1f} s | "
    yield f"(72, 1152, 640 weights): {there:.1f} s | **{round(ratio, -1):.0f}x** |"
    yield f"| {rows['peak_memory_mib']['value']:,.0f} MiB more |"
    yield f"rank correlation of {rows['subsampled_price_spearman']['value']:.2f}: cheap"


def test_what_prices_cost_is_what_was_measured():
    assert [row for row in cost_rows() if row not in ONE_LINE["hobs"]] == []


def test_what_rounding_gives_is_what_was_measured():
    page = PAGES["surgery"]
    for file, threads in (("speed_prune_1_thread", "1 thread"), ("speed_prune", "2 threads")):
        value = {row["name"]: row["value"] for row in result(f"{file}.json")["rows"]}
        for batch in (1, 16):
            speeds = (f"{value[f'resnet50_speedup_b{batch}{kind}']:.2f}x" for kind in ("", "_auto"))
            seconds = value[f"choose_auto_resnet50_b{batch}_s"]
            assert f"| {threads}, batch {batch} | {' | '.join(speeds)} | {seconds:.0f} s |" in page


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
