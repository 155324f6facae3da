"""docs/results.md and README.md: their numbers are those of the result files they name."""

import csv
import json
import statistics

import pytest

from benchmarks.stat_tests.aggregates import hypervolume
from benchmarks.studies.evidence import reconstruction
from tests.pages import DOCS, ROOT

RESULTS = ROOT / "benchmarks" / "results"
PAGE = (DOCS / "results.md").read_text()
README = (ROOT / "README.md").read_text()
STEPS = ("magnitude", "magnitude + BN recal", "magnitude + sequential", "H-OBS + BN recal", "H-OBS + sequential")


def result(name):
    return json.loads((RESULTS / name).read_text())


def percent(fraction):
    return f"{100 * fraction:.2f}"


def test_one_shot_accuracies_are_those_of_the_file():
    (run,) = result("one_shot_fashion.json")["runs"]
    for budget in run["budgets"]:
        *cells, last = (percent(budget["accuracies"][step]) for step in STEPS)
        assert f"| {budget['target']:.0%} | ".replace("%", " %") + " | ".join([*cells, f"**{last}**"]) + " |" in PAGE


def test_the_budgets_on_digits_are_those_of_the_file():
    for row in result("digits_resnet20.json"):
        (line,) = (line for line in PAGE.splitlines() if line.startswith("| 94 %") and f"`{row['method']}`" in line)
        assert f"| {row['runs']} |" in line
        for stage in ("one_shot", "final"):
            assert percent(row[f"{stage}_mean"]) in line
            assert row["runs"] == 1 or f"± {percent(row[f'{stage}_std'])}" in line


def test_the_parts_are_worth_what_the_file_says():
    names = {"no_hessian": "H-OBS", "no_refit": "the refit", "no_rl": "the search", "no_adaptive": "adaptive lambda"}
    for row in result("ablation_digits.json")["rows"]:
        if row["variant"] in names:
            (line,) = (line for line in PAGE.splitlines() if line.startswith(f"| {names[row['variant']]}"))
            for stage in ("one_shot", "final"):
                assert percent(row["accuracy"][stage]["mean"]) in line


@pytest.mark.parametrize(("name", "network"), [("ablation_fashion", "ResNet-20"), ("ablation_fashion_vgg11", "VGG-11")])
def test_the_ablations_on_fashion_are_those_of_the_files(name, network):
    page = (DOCS / "benchmarks.md").read_text()
    chapter = page[page.index(f"Fashion-MNIST, {network}, 76 %") : page.index("## Statistics")]
    rows = result(f"{name}.json")["rows"]
    lines = [line for line in chapter.splitlines() if line.startswith("| ")][: len(rows) + 2]
    for row in rows:
        (line,) = (line for line in lines if line.startswith(f"| {row['variant']} | "))
        for stage in ("one_shot", "final"):
            accuracy = row["accuracy"][stage]
            assert f"{percent(accuracy['mean'])} ± {percent(accuracy['std'])}" in line
            if accuracy["comparison"] is not None:
                assert f"{100 * accuracy['comparison']['mean_difference']:+.2f} [" in line


def test_the_readme_rounds_what_the_files_say():
    (run,) = result("one_shot_fashion.json")["runs"]
    deepest = run["budgets"][-1]["accuracies"]
    (line,) = (line for line in README.splitlines() if line.startswith("| Fashion-MNIST ResNet-20"))
    for step in STEPS[:3]:
        assert f"{100 * deepest[step]:.1f} %" in line
    speed = {row["name"]: row for row in result("speed_env.json")["rows"]}
    assert round(speed["predicted_steps_per_s_soft"]["value"], -2) == 12800
    assert round(speed["predicted_batched_per_s_soft"]["value"] / 1e6, 1) == 4.1
    repaired = [row for name, row in speed.items() if name.startswith("measured_vs_masked") and "without" not in name]
    passes = [1 / row["ratio"] for row in repaired]
    assert f"{min(passes):.1f} to {max(passes):.0f} passes" in README
    assert "12,800 steps/s" in README
    assert "4.1 million candidates/s" in README


@pytest.mark.parametrize("network", ["resnet20", "vgg11"])
def test_every_run_of_the_main_job_is_on_the_page(network):
    (job,) = result(f"fashion_{network}.json")
    for seed, *accuracies in zip(
        *(job[key] for key in ("seeds", "one_shot_accuracies", "final_accuracies")), strict=True
    ):
        one_shot, final = map(percent, accuracies)
        assert f"| seed {seed} | {percent(job['dense_mean'])} | {one_shot} | **{final}** |" in PAGE
    below = percent(job["dense_mean"] - job["one_shot_mean"])
    assert f"ends {below} points below dense" in PAGE
    means = "{} ± {} | **{}** ± {} |".format(
        *(percent(job[key]) for key in ("one_shot_mean", "one_shot_std", "final_mean", "final_std"))
    )
    assert means in PAGE


def test_the_main_job_and_the_methods_are_in_the_readme_as_measured():
    (job,) = result("fashion_vgg11.json")
    (line,) = (line for line in README.splitlines() if line.startswith("| the whole job"))
    assert f"one-shot {percent(job['one_shot_mean'])} %, fine-tuned **{percent(job['final_mean'])} %**" in line
    assert f"{percent(job['dense_mean'] - job['final_mean'])} below |" in line
    (job,) = result("fashion_resnet20.json")
    (line,) = (line for line in README.splitlines() if line.startswith("| the whole job"))
    assert f"one-shot {percent(job['one_shot_mean'])} %" in line
    assert f"**{percent(job['final_mean'])} %**" in line
    assert f"{percent(job['dense_mean'] - job['final_mean'])} points below dense" in line
    (line,) = (line for line in README.splitlines() if line.startswith("| published methods"))
    rows = result("compare_fashion_resnet20/comparison.json")["rows"]
    rows = {row["method"]: row["accuracy"] for row in rows if row["target"] == 0.76}
    shown = {"hobs-rspar": ("R-SPAR", "refit"), "amc": ("AMC, which refits too,", "raw"), "taylor": ("Taylor", "bn")}
    shown |= {"hrank": ("HRank", "bn"), "autocompress": ("AutoCompress", "bn"), "magnitude": ("magnitude", "bn")}
    for method, (name, stage) in shown.items():
        assert f"{name} {100 * rows[method][stage]['mean']:.1f} %" in line
    assert f"**{100 * rows['hobs-rspar']['finetuned']['mean']:.1f} %**" in line
    for method, name in (("amc", "AMC"), ("taylor", "Taylor")):
        assert f"{name} {100 * rows[method]['finetuned']['mean']:.1f} %" in line


AGENTS = {
    "rspar": "**R-SPAR**",
    "gp": "Gaussian process",
    "cmaes": "CMA-ES",
    "ppo": "SB3's PPO",
    "annealing": "annealing",
    "random": "random",
    "rspar-digits": "R-SPAR, trained on digits",
    "gp-quadratic": "Gaussian process, quadratic trend",
    "knapsack": "knapsack",
}
AGENTS_PAGE = (DOCS / "agents.md").read_text().splitlines()


def study_rows(network):
    return result(f"compare_agents_fashion{network}/comparison.json")["rows"]


def cells_of_agent(row):
    metric = row["metrics"]["test_accuracy"]
    value, *bounds = (percent(metric["iqm"][key]) for key in ("value", "low", "high"))
    one_plan = row["question"] != "front" and row["agent"] in ("knapsack", "uniform")
    cells = [value if one_plan else "{} [{}, {}]".format(value, *bounds)]
    if metric["improvement"] is not None:
        cells.append("{value:.2f} [{low:.2f}, {high:.2f}]".format(**metric["improvement"]))
    return cells


@pytest.mark.parametrize("study", ["_refit", "_package"])
def test_the_agents_are_worth_what_the_studies_of_the_package_network_say(study):
    for row in study_rows(study):
        if row["agent"] in AGENTS:
            (line,) = (line for line in PAGE.splitlines() if line.startswith(f"| {AGENTS[row['agent']]} |"))
            assert all(cell in line for cell in cells_of_agent(row)), row["agent"]


def test_the_readme_says_of_agents_what_the_studies_say():
    rows = {(row["question"], row["agent"]): row for row in (*study_rows("_package"), *study_rows("_refit"))}

    def seen(question, agent):
        return 100 * rows[question, agent]["metrics"]["test_accuracy"]["iqm"]["value"]

    (line,) = (line for line in README.splitlines() if line.startswith("| whose budgets are best"))
    for agent, title in (("gp", "Gaussian process"), ("rspar", "**R-SPAR"), ("cmaes", "CMA-ES"), ("ppo", "SB3's PPO")):
        assert f"{title} {seen('0.91', agent):.1f} %" in line
    (line,) = (line for line in README.splitlines() if line.startswith("| one training run"))
    assert f"**R-SPAR {seen('front', 'rspar'):.2f}**, Gaussian process {seen('front', 'gp'):.2f}" in line
    (budget,) = (row for row in study_rows("_budget") if row["agent"] == "ppo-500")
    (line,) = (line for line in README.splitlines() if line.startswith("| how many plans"))
    assert f"with {budget['caught_up']['value']:.0f} " in line
    carried = result("transfer_digits/transfer.json")["rows"][0]["test_accuracy"]
    (line,) = (line for line in README.splitlines() if line.startswith("| does an agent carry over"))
    assert f"{100 * carried['zero_shot']['value']:.1f} % (knapsack {100 * carried['start']['value']:.1f} %)" in line


@pytest.mark.parametrize("network", ["_refit", "_refit_084", "_package", "_084", "_budget", "_vgg11"])
def test_the_agents_page_holds_every_row_of_the_studies(network):
    for row in study_rows(network):
        cells = [*cells_of_agent(row), percent(row["metrics"]["soft_accuracy"]["iqm"]["value"])]
        assert any(all(cell in line for cell in cells) for line in AGENTS_PAGE), (row["question"], row["agent"])


@pytest.mark.parametrize("study", ["_refit", "_refit_084", "_package", "_084", "_vgg11"])
def test_what_a_point_of_the_reward_is_worth_on_test_is_what_the_study_says(study):
    page = " ".join(AGENTS_PAGE)
    for found in result(f"compare_agents_fashion{study}/comparison.json")["signal"]:
        assert f"{found['slope']:.2f} ± {found['slope_error']:.2f}" in page
        assert percent(found["residual_std"]) in page
        assert percent(found["lead_needed"]) in page


@pytest.mark.parametrize(
    ("study", "question", "agent"),
    [
        ("_package", "0.91", "gp"),
        ("_package", "front", "gp"),
        ("_084", "0.84", "cmaes"),
        ("_refit_084", "0.84", "cmaes"),
    ],
)
def test_scores_that_would_be_ahead_on_test_are_what_the_studies_say(study, question, agent):
    found = result(f"compare_agents_fashion{study}/comparison.json")
    (behind,) = (row for row in found["rows"] if (row["question"], row["agent"]) == (question, agent))
    (top,) = (row for row in found["signal"] if (row["question"], row["metric"]) == (question, "test_accuracy"))
    needed = behind["metrics"]["soft_accuracy"]["iqm"]["value"] + top["lead_needed"]
    assert percent(needed) in " ".join(AGENTS_PAGE)


def test_what_limits_the_reward_is_what_was_measured():
    study, page = result("signal_limits_fashion.json"), " ".join(" ".join(AGENTS_PAGE).split())
    found = {
        (row["repair"], row["where"], row["images"]): row for row in study["rows"] if row["metric"] == "test_accuracy"
    }
    as_it_was, refitted = (found[repair, "reward split", 2000] for repair in ("sequential_fast", "sequential"))
    more, tested = (
        found["sequential_fast", where, images] for where, images in (("training images", 8000), ("test split", 10000))
    )
    assert f"These {study['plans']} final plans were measured once more" in page
    lucks = [percent(row["residual_std"]) for row in (as_it_was, more, tested)]
    assert "falls from {} to {} points with 8,000 images, and {} would be left".format(*lucks) in page
    leads = [percent(row["lead_needed"]) for row in (as_it_was, refitted)]
    assert "shrinks from {} to {} points".format(*leads) in page
    assert f"And {percent(found['sequential', 'test split', 10000]['residual_std'])} points of luck" in page


def measured_plans(*studies):
    """Kept vector -> (FLOPs reduction, soft accuracy) of all plans that studies of one network measured."""
    plans = {}
    for study in studies:
        with open(RESULTS / f"compare_agents_fashion{study}" / "evaluations.csv", newline="") as file:
            for row in csv.DictReader(file):
                plans[row["kept"]] = float(row["flops_reduction"]), float(row["soft_accuracy"])
    return plans


@pytest.mark.parametrize(("study", "target"), [("_package", 0.91), ("_084", 0.84), ("_refit_084", 0.84)])
def test_the_best_of_all_measured_plans_is_that_of_the_table(study, target):
    scores = [score for reduction, score in measured_plans(study).values() if target <= reduction <= target + 0.02]
    page = " ".join(" ".join(AGENTS_PAGE).split())
    assert f"The best of {len(scores):,} different plans" in page
    assert f"measured at {100 * target:g} % scores {percent(max(scores))}." in page


def test_the_front_of_all_measured_plans_is_that_of_the_table():
    plans = measured_plans("_package", "_084", "_budget")
    page = " ".join(" ".join(AGENTS_PAGE).split())
    area = hypervolume(*zip(*plans.values(), strict=True))
    assert f"The front of all {len(plans):,} different plans" in page
    assert f"at any target, has {percent(area)}." in page


def test_what_was_tried_on_models_of_the_reward_is_what_the_files_say():
    page = " ".join(" ".join(AGENTS_PAGE).split())
    rows = result("reward_models_fashion.json")["rows"]
    last = {
        model: statistics.fmean(row["spearman"] for row in rows if (row["model"], row["learned"]) == (model, 112))
        for model in ("linear trend (R-SPAR)", "quadratic trend")
    }
    linear, quadratic = (f"{value:.2f}" for value in last.values())
    assert f"({linear} after 112 plans with the linear trend that R-SPAR has, {quadratic} with a quadratic one)" in page
    swapped = {row["variant"]: row["truth"]["value"] for row in result("alternatives_fashion.json")["rows"]}
    assert f"({percent(swapped['R-SPAR'])} against {percent(swapped[PLAIN_PPO])})" in page
    assert f"worst of all ({percent(min(swapped.values()))})" in page


PLAIN_PPO = "no reward model (plain PPO, 16 steps an update)"


def test_what_carries_over_is_what_was_measured():
    rows = result("transfer_digits/transfer.json")["rows"]
    lines = (DOCS / "agents.md").read_text().splitlines()
    plans = {"start": "knapsack start", "zero_shot": "zero-shot"}
    plans |= {f"{key} {count}": f"{title}, {count} plans" for key, title in CARRIED for count in (8, 32)}
    for key, title in plans.items():
        (line,) = (line for line in lines if line.startswith(f"| {title} | "))
        for row in rows:
            seen = row["soft_accuracy"][key]
            cell = "{} [{}, {}]".format(*(percent(seen[bound]) for bound in ("value", "low", "high")))
            tested = row["test_accuracy"].get(key)
            assert (cell if tested is None else f"{cell}, {percent(tested['value'])}") in line
    chances = {"zero_shot > start": "P(zero-shot > start)"}
    for count in (8, 32):
        chances[f"transferred {count} > scratch {count}"] = f"P(transferred > scratch), {count} plans"
    for key, title in chances.items():
        (line,) = (line for line in lines if line.startswith(f"| {title} | "))
        assert all("{value:.2f} [{low:.2f}, {high:.2f}]".format(**row["chances"][key]) in line for row in rows)


CARRIED = (("transferred", "transferred"), ("scratch", "from scratch"))


COMPARISON = (DOCS / "comparison.md").read_text()


def line_of(row):
    """A method's line as the pages show it: (accuracies, speed-up)."""
    stages = (row["accuracy"][stage] for stage in ("raw", "bn", "refit", "finetuned"))
    return [f"{100 * stage['mean']:.1f} ± {100 * stage['std']:.1f}" for stage in stages], f"{row['speedup']:.2f}x"


@pytest.mark.parametrize("network", ["resnet20", "vgg11"])
def test_compared_methods_stand_where_the_comparison_puts_them(network):
    chapters = COMPARISON.split("\n## ")
    (chapter,) = (chapter for chapter in chapters if f"compare_fashion_{network}/comparison.json" in chapter)
    rows = result(f"compare_fashion_{network}/comparison.json")["rows"]
    targets = sorted({row["target"] for row in rows})
    assert targets == [0.5, 0.76, 0.9]
    for row in rows:
        title = "**hobs-rspar**" if row["method"] == "hobs-rspar" else row["method"]
        lines = [line for line in chapter.splitlines() if line.startswith(f"| {title} | ")]
        pages = [lines[targets.index(row["target"])]]
        if network == "resnet20" and row["target"] == 0.76:
            pages += [line for line in PAGE.splitlines() if line.startswith(f"| {title} | ") and "±" in line]
            assert len(pages) == 2
        for line in pages:
            cells = [cell.strip() for cell in line.split("|")]
            assert [cell for cell in cells if "±" in cell] == line_of(row)[0]
            assert line_of(row)[1] in cells


def cells_of(line):
    return [cell.strip(" `*") for cell in line.strip("|").split(" | ")]


def test_the_signal_and_the_features_are_those_of_the_files():
    page = (DOCS / "environment.md").read_text()
    lines = [cells_of(line) for line in page.splitlines() if line.startswith("| ")]
    for path in sorted(RESULTS.glob("reward_signal_*.json")):
        signal = json.loads(path.read_text())
        for row in signal["targets"]:
            name = f"{signal['task']}, {row['target']:.0%}".replace("%", " %")
            signals, ranks, *_ = (
                [cell.replace("**", "") for cell in line] for line in lines if name in line[0].replace("**", "")
            )
            default = row["repairs"][0]
            assert signals[1:3] == [f"{default['start']:.4f}", f"{default['spread']:.4f}"]
            assert signals[3:5] == [f"{pick(default['soft_accuracies']):.4f}" for pick in (min, max)]
            assert signals[6:8] == [f"{default[share]:.0%}".replace("%", " %") for share in ("top1_ties", "better")]
            against = {found["second"]: found for found in row["agreements"] if found["first"] == "sequential"}
            found = [against[other] for other in ("sequential_fast", "closed_form", "none", "predicted")]
            assert ranks[1:] == [f"{one['value']:.2f} [{one['low']:.2f}, {one['high']:.2f}]" for one in found]
    files = [result(f"feature_evidence_{task}.json") for task in ("digits", "fashion")]
    for feature in (row["feature"] for row in files[0]["features"]):
        (line,) = (line for line in lines if line[0] == feature and len(line) == 9)
        rows = [next(row for row in file["features"] if row["feature"] == feature) for file in files]
        stated = [float(cell) for cell in line[1:]]
        actual = [number for row in rows for number in (*row["correlations"], row["strength"])]
        assert all(abs(a - b) <= 0.00501 for a, b in zip(stated, actual, strict=True))


def test_the_parity_of_ppo_is_that_of_the_file():
    found, page = result("ppo_parity.json"), (DOCS / "agents.md").read_text()
    for estimate in found["iqm"].values():
        assert "**{value:.1f}** [{low:.1f}, {high:.1f}]".format(**estimate) in page
    assert "{value:.2f} [{low:.2f}, {high:.2f}]".format(**found["probability_rspar_is_better"]) in page


def test_what_methods_cost_is_what_was_measured():
    page = (DOCS / "baselines.md").read_text()
    for row in result("method_costs_digits.json")["rows"]:
        counts = (f"{row[name]:,}" for name in ("images", "backward_passes", "evaluations"))
        assert f"| {row['method']} | {row['processor_seconds']:.1f} | " + " | ".join(counts) + " |" in page
        assert row["processor_seconds"] < 60


@pytest.mark.parametrize("part", ["cuts", "networks"])
def test_the_tables_of_the_reconstruction_are_those_of_the_file(part):
    of_part = reconstruction.NETWORKS if part == "networks" else dict(reconstruction.CUTS)
    cells = [cell for cell in result("reconstruction.json")["cells"] if cell["network"] in of_part]
    _, _, table = PAGE.partition(f"<!-- reconstruction: {part} -->\n")
    rows = [line for line in reconstruction.table(cells).markdown().splitlines() if line.startswith("|")]
    assert table.partition("\n<!-- end -->")[0].splitlines() == rows


def test_a_reconstruction_never_leaves_a_network_further_from_the_dense_one():
    cells = result("reconstruction.json")["cells"]
    assert len({(cell["network"], cell["removed"]) for cell in cells}) >= 12
    for cell in cells:
        assert cell["held_out"]["after"] <= cell["held_out"]["before"]
        assert cell["divergence"]["reconstructed"] <= cell["divergence"]["refit"]
