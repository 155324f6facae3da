"""The pages of agents, methods and the environment: their numbers are those of the result files they name."""

import json

from tests.docs.numbers import ONE_LINE, PAGES, RESULTS, interval, percent, result, row_of

AGENTS = {
    "rspar": "**R-SPAR**",
    "gp": "Gaussian process",
    "cmaes": "CMA-ES",
    "cem": "CEM",
    "ppo": "SB3's PPO",
    "random": "random",
    "knapsack": "knapsack",
    "uniform": "equal ratios",
}


def study_rows(network):
    rows = result(f"compare_agents_fashion{network}/comparison.json")["rows"]
    return {(row["question"], row["agent"]): row for row in rows}


def iqm(row):
    return row["metrics"]["test_accuracy"]["iqm"]["value"]


def test_the_agents_stand_where_the_study_puts_them():
    rows = study_rows("_refit")
    for agent, title in AGENTS.items():
        row, cells = rows["0.91", agent], row_of(PAGES["agents"], title)
        assert cells[1].startswith(percent(iqm(row)))
        if agent not in ("knapsack", "uniform"):
            assert cells[1] == interval({key: 100 * row["metrics"]["test_accuracy"]["iqm"][key] for key in BOUNDS})
        if agent != "rspar":
            assert cells[2] == interval(row["metrics"]["test_accuracy"]["improvement"])


BOUNDS = ("value", "low", "high")


def test_the_other_studies_of_agents_say_what_their_files_say():
    page, package = ONE_LINE["agents"], study_rows("_package")
    ends = (percent(iqm(package["0.91", agent])) for agent in ("rspar", "gp", "cmaes"))
    assert (
        "R-SPAR ends at {} % in less than half the time, and draws with the Gaussian process ({} %) and "
        "CMA-ES ({} %)".format(*ends)
    ) in page
    fronts = (percent(iqm(package["front", agent])) for agent in ("rspar", "gp", "cmaes", "knapsack"))
    assert "R-SPAR {}, eight Gaussian processes {}, CMA-ES {}, knapsack {}".format(*fronts) in page
    tests = [iqm(row) for row in study_rows("_refit_084").values()]
    assert f"between {percent(min(tests))} and {percent(max(tests))} %" in page
    on_vgg = study_rows("_vgg11")
    assert f"R-SPAR is first with {percent(max(map(iqm, on_vgg.values())))} %" in page
    assert max(on_vgg, key=lambda key: iqm(on_vgg[key]))[1] == "rspar"
    budget = study_rows("_budget")
    ours, ppo = budget["0.91", "rspar"], budget["0.91", "ppo-500"]
    assert f"{ppo['caught_up']['value']:.0f} [{ppo['caught_up']['low']:.0f}, never]" in page
    assert f"On test they draw: {percent(iqm(ours))} and {percent(iqm(ppo))}" in page


def test_the_parity_of_ppo_is_that_of_the_file():
    found = result("ppo_parity.json")
    for estimate in found["iqm"].values():
        assert "**{value:.1f}** [{low:.1f}, {high:.1f}]".format(**estimate) in ONE_LINE["agents"]
    assert interval(found["probability_rspar_is_better"]) in ONE_LINE["agents"]


def test_what_carries_over_is_what_was_measured():
    rows = result("transfer_digits/transfer.json")["rows"]
    plans = {"start": "knapsack start", "zero_shot": "zero-shot"}
    plans |= {"transferred 32": "transferred, 32 plans", "scratch 32": "from scratch, 32 plans"}
    for key, title in plans.items():
        (line,) = (line for line in PAGES["agents"].splitlines() if line.startswith(f"| {title} | "))
        for row in rows:
            seen = row["soft_accuracy"][key]
            cell = "{} [{}, {}]".format(*(percent(seen[bound]) for bound in BOUNDS))
            tested = row["test_accuracy"].get(key)
            assert (cell if tested is None else f"{cell}, {percent(tested['value'])}") in line


def test_what_was_tried_is_what_the_files_say():
    page = ONE_LINE["agents"]
    swapped = {row["variant"]: row["truth"]["value"] for row in result("alternatives_fashion.json")["rows"]}
    plain = swapped["no reward model (plain PPO, 16 steps an update)"]
    assert f"({percent(swapped['R-SPAR'])} against {percent(plain)}," in page
    assert f"worst of all ({percent(min(swapped.values()))})" in page
    found = {row["repair"]: row for row in result("signal_limits_fashion.json")["rows"] if is_reward_on_test(row)}
    leads = [percent(found[repair]["lead_needed"]) for repair in ("sequential_fast", "sequential")]
    assert "shrinks from {} to {} points".format(*leads) in page


def is_reward_on_test(row):
    return (row["metric"], row["where"], row["images"]) == ("test_accuracy", "reward split", 2000)


def test_the_signal_of_the_reward_is_that_of_the_files():
    seen = 0
    for path in sorted(RESULTS.glob("reward_signal_*.json")):
        signal = json.loads(path.read_text())
        for row in signal["targets"]:
            name = f"{signal['task']}, {row['target']:.0%}".replace("%", " %")
            if f"| {name} |" not in PAGES["environment"]:
                continue
            seen += 1
            default = row["repairs"][0]
            (fast,) = (
                found
                for found in row["agreements"]
                if (found["first"], found["second"]) == ("sequential", "sequential_fast")
            )
            _, *cells = row_of(PAGES["environment"], name)
            shares = [f"{default[share]:.0%}".replace("%", " %") for share in ("top1_ties", "better")]
            numbers = [f"{default['start']:.4f}", f"{default['spread']:.4f}", *shares, interval(fast)]
            assert cells == numbers
    assert seen == 8


def test_the_speed_of_the_environment_is_that_of_the_file():
    speed = {row["name"]: row for row in result("speed_env.json")["rows"]}
    page = ONE_LINE["environment"]
    assert f"{round(speed['predicted_steps_per_s_soft']['value'], -2):,.0f} steps a second" in page
    assert f"{speed['predicted_batched_per_s_soft']['value'] / 1e6:.1f} million a second" in page
    shown = {f"{row['ratio']:.2f}x" for name, row in speed.items() if name.startswith("measured_vs_masked")}
    table = PAGES["environment"].partition("| repair | 50 %")[2].partition("\n\n")[0]
    stated = [cell.strip() for cell in table.replace("\n", "").split("|") if cell.strip().endswith("x")]
    assert len(stated) == 6
    assert set(stated) <= shown


def test_what_methods_cost_is_what_was_measured():
    rows = {row["method"]: row for row in result("method_costs_digits.json")["rows"]}
    seconds = {name: row["processor_seconds"] for name, row in rows.items()}
    longest = max(seconds, key=seconds.get)
    page = ONE_LINE["baselines"]
    assert longest == "autocompress"
    assert (
        f"from {seconds['magnitude']:.1f} processor seconds (magnitude) to {seconds[longest]:.1f} (AutoCompress, "
        f"which measures {rows[longest]['evaluations']} plans)"
    ) in page
    assert min(seconds.values()) >= seconds["magnitude"] - 0.05


def test_what_is_known_beforehand_is_what_was_measured():
    summary = result("amortised/first/first_plans.json")["summary"]
    assert sum(found["networks"] for found in summary if found["plan"] == "amortised") == 30
    for found in summary:
        if found["plan"] == "uniform":
            continue
        title = {"linear": "linear correction", "amortised": "pretrained"}[found["plan"]]
        percents = "{value:.0f} [{low:.0f}, {high:.0f}]".format(
            **{end: 100 * value for end, value in found["better"].items()}
        )
        gained = "{value:.2f} [{low:.2f}, {high:.2f}]".format(
            **{end: 100 * value for end, value in found["test_soft_gain"].items()}
        )
        row = f"| {title} | {percents} | {interval(found['score'])} | {gained} |"
        assert row in PAGES["agents"], row
    assert len(result("amortised/lesson.json")["variants"]["attention"]["networks"]) == 60


def test_the_clean_test_is_what_was_measured():
    found = result("amortised/fresh/fresh.json")
    first = {(row["group"], row["plan"]): row for row in found["first"]}
    searches = {(row["agent"], row["group"]): row for row in found["searches"]}
    for group in ("known kinds", "held-out kinds"):
        plans = [interval(first[group, plan]["score"]) for plan in ("linear", "amortised")]
        ends = [
            " / ".join(f"{searches[agent, group]['scores'][look]['value']:.2f}" for agent in ("gp", "pretrained"))
            for look in ("8", "32")
        ]
        ours = first[group, "amortised"]
        better = "{value:.0f} [{low:.0f}, {high:.0f}]".format(**{end: 100 * it for end, it in ours["better"].items()})
        row = f"| {group} ({ours['networks']}) | {better} | {' | '.join((*plans, *ends))} |"
        assert row in PAGES["agents"], row
    assert f"{len(found['networks'])} networks on digits" in PAGES["agents"]
