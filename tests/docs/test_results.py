"""docs/results.md and README.md: their numbers are those of the result files they name."""

import json

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


def test_the_readme_rounds_what_the_files_say():
    (run,) = result("one_shot_fashion.json")["runs"]
    deepest = run["budgets"][-1]["accuracies"]
    (line,) = (line for line in README.splitlines() if line.startswith("| Fashion-MNIST ResNet-20"))
    for step in STEPS[:3]:
        assert f"{100 * deepest[step]:.1f} %" in line
    speed = {row["name"]: row for row in result("speed_env.json")["rows"]}
    assert round(speed["predicted_steps_per_s_soft"]["value"], -2) == 8800
    assert round(speed["predicted_batched_per_s_soft"]["value"] / 1e6, 1) == 3.3
    repaired = [row for name, row in speed.items() if name.startswith("measured_vs_masked") and "without" not in name]
    passes = [1 / row["ratio"] for row in repaired]
    assert f"{min(passes):.1f} to {max(passes):.0f} passes" in README
    assert "8,800 steps/s" in README
    assert "3.3 million candidates/s" in README


AGENTS = {"rspar": "**R-SPAR**", "gp": "Gaussian process", "cmaes": "CMA-ES", "ppo": "SB3's PPO", "random": "random"}


def test_the_agents_are_worth_what_the_study_says():
    rows = {(row["question"], row["agent"]): row["metrics"]["test_accuracy"] for row in study_rows()}
    for agent, title in AGENTS.items():
        (line,) = (line for line in PAGE.splitlines() if line.startswith(f"| {title} |"))
        (told, *_) = (line for line in (DOCS / "agents.md").read_text().splitlines() if line.startswith(f"| {title} |"))
        for question in ("0.91", "front"):
            if (question, agent) not in rows:
                continue
            metric = rows[question, agent]
            cell = "{} [{}, {}]".format(*(percent(metric["iqm"][key]) for key in ("value", "low", "high")))
            assert cell in line
            if question == "0.91":
                assert cell in told
            if metric["improvement"] is not None:
                assert "{value:.2f} [{low:.2f}, {high:.2f}]".format(**metric["improvement"]) in line


def study_rows():
    return result("compare_agents_fashion/comparison.json")["rows"]


def test_compared_methods_stand_where_the_comparison_puts_them():
    pages = [PAGE, (DOCS / "baselines.md").read_text()]
    for row in result("compare_fashion_resnet20/comparison.json")["rows"]:
        title = "**hobs-rspar**" if row["method"] == "hobs-rspar" else row["method"]
        stages = (row["accuracy"][stage] for stage in ("raw", "bn", "refit", "finetuned"))
        accuracies = [f"{100 * stage['mean']:.1f} ± {100 * stage['std']:.1f}" for stage in stages]
        for page in pages:
            (line,) = (line for line in page.splitlines() if line.startswith(f"| {title} | ") and "±" in line)
            cells = [cell.strip() for cell in line.split("|")]
            assert [cell for cell in cells if "±" in cell] == accuracies
            assert f"{row['speedup']:.2f}x" in cells


def test_the_parity_of_ppo_is_that_of_the_file():
    found, page = result("ppo_parity.json"), (DOCS / "agents.md").read_text()
    for estimate in found["iqm"].values():
        assert "**{value:.1f}** [{low:.1f}, {high:.1f}]".format(**estimate) in page
    assert "{value:.2f} [{low:.2f}, {high:.2f}]".format(**found["probability_rspar_is_better"]) in page
