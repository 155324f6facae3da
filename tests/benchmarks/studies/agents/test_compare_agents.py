"""The comparison of agents: equal budgets, every evaluation kept, a killed study goes on and ends the same."""

import csv
import json

import numpy as np
import pytest
from matplotlib.colors import to_rgb

from benchmarks.files.sign import sign
from benchmarks.stat_tests.samples import few_seeds_are_stated
from benchmarks.studies.agents import cells as agent_cells
from benchmarks.studies.agents.command import main
from benchmarks.studies.agents.config import StudyConfig
from benchmarks.studies.agents.curves import best_so_far, evaluations_to_catch_up
from benchmarks.studies.agents.plots import plot_progress
from benchmarks.studies.agents.policies import policy_table
from benchmarks.studies.agents.tables import study_table, summarise
from prune_gym.measuring.evaluator import Evaluator
from prune_gym.problem import PruningProblem
from tests.benchmarks import tiny_task

STUDY = """\
name: tiny
save_dir: "{folder}"
num_threads: 1
tasks: [tiny-cnn]
targets: [0.6]
seeds: [0, 1]
evaluations: 6
agents: [{{name: rspar, options: {{hidden_dim: 8}}}}, cem, knapsack, ppo]
fronts: {{targets: [0.4, 0.6], evaluations: 8, agents: [rspar, cem], unseen: [0.5]}}
"""


@pytest.fixture(autouse=True)
def surroundings(undrawn):
    tiny_task.register()


def study(tmp_path, name="out"):
    path = tmp_path / f"{name}.yaml"
    path.write_text(STUDY.format(folder=tmp_path / name))
    return path, tmp_path / name


def compare(path, *arguments):
    return main(["--config", str(path), *arguments])


def cells(folder):
    """Every run without its times."""
    found = {}
    for path in sorted((folder / "cells").glob("*.json")):
        cell = json.loads(path.read_text())
        del cell["seconds"]
        cell.pop("sha256", None)
        for row in cell["evaluations"]:
            del row["seconds"]
        found[path.name] = cell
    return found


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    tiny_task.register()
    path, folder = study(tmp_path_factory.mktemp("study"))
    assert compare(path) == 0
    return path, folder


def test_every_agent_measures_its_budget_from_the_same_start(finished):
    runs = cells(finished[1])
    assert len(runs) == 2 * (4 + 2)
    for cell in runs.values():
        count = 8 if len(cell["targets"]) > 1 else 1 if cell["agent"] == "knapsack" else 6
        assert len(cell["evaluations"]) == count
        plans = [(row["run"], tuple(row["kept"])) for row in cell["evaluations"]]
        assert len(set(plans)) == count
        for target, best in cell["best"].items():
            assert best["flops_reduction"] >= float(target)
            assert 0 <= best["test_accuracy"] <= 1
            assert 0 < best["test_soft_accuracy"] < 1
    starts = {tuple(cell["evaluations"][0]["kept"]) for cell in runs.values() if cell["targets"] == [0.6]}
    assert len(starts) == 1


def test_what_it_leaves_behind(finished, capsys):
    path, folder = finished
    assert compare(path) == 0
    shown = capsys.readouterr().out
    assert "12 of 12 cells finished before" in shown
    assert "60 % of the FLOPs removed, 2 runs an agent" in shown
    assert "Hypervolume over all targets" in shown
    assert "The policy alone" in shown
    for name in ("progress-0.6.png", "fronts-tiny-cnn.png"):
        assert (folder / "plots" / name).stat().st_size > 0
    rows = list(csv.DictReader((folder / "evaluations.csv").open()))
    assert len(rows) == 2 * (6 + 6 + 1 + 6 + 8 + 8)
    comparison = json.loads((folder / "comparison.json").read_text())
    row = next(row for row in comparison["rows"] if row["agent"] == "cem" and row["question"] == "0.6")
    metric = row["metrics"]["test_accuracy"]
    assert metric["iqm"]["low"] <= metric["iqm"]["value"] <= metric["iqm"]["high"]
    assert 0 <= metric["improvement"]["value"] <= 1
    assert row["seconds"]["evaluations"] > 0


def test_runs_that_lack_the_soft_accuracy_on_test_are_tabled_without(finished):
    runs = list(cells(finished[1]).values())
    for run in runs:
        run["seconds"] = {"own": 1.0, "evaluations": 2.0}
    with few_seeds_are_stated():
        before = summarise(runs, "rspar", n_bootstrap=10)
    assert all("test_soft_accuracy" in row["metrics"] for row in before)
    for run in runs:
        if run["agent"] == "cem":
            for scores in (*run["best"].values(), run["hypervolume"] or {}):
                scores.pop("test_soft_accuracy", None)
    with few_seeds_are_stated():
        rows = summarise(runs, "rspar", n_bootstrap=10)
    assert {row["agent"] for row in rows if "test_soft_accuracy" not in row["metrics"]} == {"cem"}
    (line,) = (
        line
        for line in study_table("0.6", [row for row in rows if row["question"] == "0.6"], "rspar").rows
        if line[0] == "cem"
    )
    assert line[4:6] == [None, None]


def test_policies_act_at_targets_never_asked_for(finished):
    runs = cells(finished[1])
    fronts = {name: cell for name, cell in runs.items() if len(cell["targets"]) > 1}
    assert {cell["agent"]: cell["policy"] is None for cell in fronts.values()} == {"rspar": False, "cem": True}
    for cell in fronts.values():
        for row in cell["policy"] or []:
            for who in ("policy", "start", "archive"):
                assert row[who]["flops_reduction"] >= row["target"] - (who == "policy")
                assert 0 < row[who]["soft_accuracy"] < 1
        assert [row["target"] for row in cell["policy"] or []] in ([], [0.4, 0.5, 0.6])
        assert len(cell["evaluations"]) == 8, "what the policy reaches is not part of its budget"


def test_a_killed_study_goes_on_and_ends_the_same(finished, tmp_path, monkeypatch, capsys):
    path, folder = study(tmp_path)
    original, count = Evaluator._measure, 0

    def dying(self, kept):
        nonlocal count
        count += 1
        if count == 11:
            raise KeyboardInterrupt
        return original(self, kept)

    monkeypatch.setattr(Evaluator, "_measure", dying)
    assert compare(path) == 130
    monkeypatch.setattr(Evaluator, "_measure", original)
    before = len(list((folder / "cells").glob("*.json")))
    stored = [file.read_text() for file in folder.glob("plans/*/*.jsonl")]
    assert sum(text.count("\n") for text in stored) == 9  # ten measured: the dense network is no plan
    torn = next(folder.glob("plans/*/*.jsonl"))
    torn.write_text(torn.read_text() + '{"kept": [1, 2')
    assert compare(path) == 0
    assert 0 < before < 12
    assert cells(folder) == cells(finished[1])


def test_plans_are_measured_once_whoever_asks(finished):
    _, folder = finished
    asked = {tuple(row["kept"]) for cell in cells(folder).values() for row in cell["evaluations"]}
    lines = [json.loads(line) for file in folder.glob("plans/*/*.jsonl") for line in file.read_text().splitlines()]
    plans = [tuple(line["kept"]) for line in lines]
    assert len(plans) == len(set(plans))
    assert asked <= set(plans)


def test_runs_can_be_shared(tmp_path):
    path, folder = study(tmp_path)
    arguments = ("fronts.targets=[]", "fronts.agents=[]", "agents=[knapsack, uniform]", "reference=knapsack")
    assert compare(path, "--minutes", "0", *arguments) == 0
    assert not (folder / "cells").exists()
    assert compare(path, "--part", "2/2", *arguments) == 0
    assert len(list((folder / "cells").glob("*.json"))) == 2


def test_runs_of_another_study_are_not_mixed_in(finished, capsys):
    path, _ = finished
    assert compare(path, "evaluations=9") == 2
    assert "different: evaluations" in capsys.readouterr().err
    assert compare(path, "agents=[{name: rspar, options: {hidden_dim: 9}}]", "fronts.agents=[]") == 2
    assert "agent 'rspar'" in capsys.readouterr().err


CARRIED = (
    "agents=[{name: rspar, options: {hidden_dim: 8}}, {name: rspar, label: carried, options: {hidden_dim: 8}, "
    "source: {task: tiny-shallow, targets: [0.4, 0.5], evaluations: 4}}]",
    "fronts.targets=[]",
    "fronts.agents=[]",
    "seeds=[0]",
)


def test_an_agent_that_was_trained_elsewhere_goes_on_from_there(tmp_path, monkeypatch):
    tiny_task.register("tiny-shallow", tiny_task.shallow)
    loaded, load = [], agent_cells.RSPARAgent.load

    def watched(path, num_layers=None, **settings):
        loaded.append((path, num_layers))
        return load(path, num_layers, **settings)

    monkeypatch.setattr(agent_cells.RSPARAgent, "load", watched)
    path, folder = study(tmp_path)
    assert compare(path, *CARRIED) == 0
    shallow, problem = (PruningProblem(name).load() for name in ("tiny-shallow", "tiny-cnn"))
    (carried,) = (cell for cell in cells(folder).values() if cell["agent"] == "carried")
    assert carried["source"] == {"task": "tiny-shallow", "network": shallow.network_key}
    assert len(carried["evaluations"]) == 6, "what it measured before is not part of its budget, nor given to it"
    (file,) = (folder / "agents" / "carried").glob("*.safetensors")
    assert loaded == [(file, problem.num_layers)]
    before, when = cells(folder), file.stat().st_mtime_ns
    next((folder / "cells").glob("*carried*")).unlink()
    assert compare(path, *CARRIED) == 0
    assert cells(folder) == before
    assert file.stat().st_mtime_ns == when, "it is trained once"


@pytest.mark.parametrize(
    ("agent", "message"),
    [
        ("{name: cem, source: {task: digits-resnet20}}", "only rspar carries over"),
        ("{name: rspar, source: {task: digits-resnet2}}", "unknown task 'digits-resnet2'"),
        ("{name: rspar, source: {task: tiny-cnn}}", "plans it measures there would be given to it"),
        ("{name: rspar, source: {task: digits-resnet20, targets: [0.9999]}}", "0.9999"),
    ],
)
def test_a_source_that_cannot_be_is_refused(tmp_path, agent, message, capsys):
    path, folder = study(tmp_path)
    arguments = (f"agents=[{agent}]", f"reference={agent[7:].split(',')[0]}", "fronts.targets=[]", "fronts.agents=[]")
    assert compare(path, *arguments) == 2
    assert message in " ".join(capsys.readouterr().err.split())
    assert not (folder / "cells").exists()


KNAPSACK = ("agents=[knapsack]", "reference=knapsack", "fronts.targets=[]", "fronts.agents=[]")


def retrained(monkeypatch):
    monkeypatch.setattr(PruningProblem, "_build_task", lambda self: tiny_task.another())


def test_cells_of_another_network_are_not_mixed_in(tmp_path, monkeypatch, capsys):
    path, folder = study(tmp_path)
    assert compare(path, *KNAPSACK, "seeds=[0]") == 0
    (first,) = [cell["network"] for cell in cells(folder).values()]
    retrained(monkeypatch)
    second = PruningProblem("tiny-cnn").load().network_key
    assert compare(path, *KNAPSACK, "seeds=[0]") == 0, "tables alone load no network"
    capsys.readouterr()
    assert compare(path, *KNAPSACK, "seeds=[0, 1]") == 2
    said = " ".join(capsys.readouterr().err.split())
    assert first[:12] in said
    assert second[:12] in said
    assert "choose another folder" in said
    assert len(cells(folder)) == 1
    assert first != second


def test_cells_brought_together_from_two_networks_make_no_table(tmp_path, monkeypatch, capsys):
    path, folder = study(tmp_path)
    assert compare(path, *KNAPSACK, "seeds=[0]") == 0
    retrained(monkeypatch)
    assert compare(path, *KNAPSACK, "seeds=[1]", f"save_dir={tmp_path / 'elsewhere'}") == 0
    (cell,) = (tmp_path / "elsewhere" / "cells").glob("*.json")
    (folder / "cells" / cell.name).write_text(cell.read_text())
    assert compare(path, *KNAPSACK) == 2
    assert "measured on different networks" in " ".join(capsys.readouterr().err.split())


def test_cells_that_do_not_say_their_network_are_tabled_but_not_added_to(tmp_path, monkeypatch, capsys):
    path, folder = study(tmp_path)
    assert compare(path, *KNAPSACK, "seeds=[0]") == 0
    (file,) = (folder / "cells").glob("*.json")
    cell = json.loads(file.read_text())
    del cell["network"], cell["sha256"]  # as earlier versions wrote it
    file.write_text(json.dumps(cell))
    sign(file)
    with monkeypatch.context() as patch:
        patch.setattr(PruningProblem, "load", lambda self: pytest.fail("a network was loaded"))
        assert compare(path, *KNAPSACK, "seeds=[0]") == 0
    assert compare(path, *KNAPSACK, "seeds=[0, 1]") == 2
    assert "do not say which network" in " ".join(capsys.readouterr().err.split())
    assert len(cells(folder)) == 1


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("evaluatons=3", "unknown key 'evaluatons'; did you mean 'evaluations'"),
        ("agents=[cme]", "unknown agent 'cme'; did you mean"),
        ("agents=[{name: cem, optons: {}}]", "unknown key 'agents[0].optons'"),
        ("agents=[{name: rspar, options: {hiden_dim: 3}}]", "did you mean 'hidden_dim'"),
        ("agents=[rspar, rspar]", "two agents are called 'rspar'"),
        ("agents=[{name: rspar, environment: {constrain: hard}}]", "unknown key 'agents[0].environment.constrain'"),
        ("agents=[{name: rspar, environment: {repair: closed_form}}, cem]", "'repair' is the same for all agents"),
        ("environment.reward=accuracy_flop", "did you mean 'accuracy_flops'"),
        ("tasks=[tiny-cn]", "unknown task 'tiny-cn'; did you mean 'tiny-cnn'"),
        ("targets=[1.5]", "targets[0]"),
        ("targets=[0.9999]", "task 'tiny-cnn'"),
        ("reference=gp", "unknown agent 'gp'"),
        ("fronts.evaluations=9", "must be a multiple of the number of its targets"),
        ("fronts.targets=[0.5]", "needs at least two"),
        ("fronts.agents=[cem, cem]", "'fronts.agents' must name each once"),
        ("seeds=[0, 0]", "'seeds' must name each once"),
        ("evaluations=1", "'evaluations' must be greater than or equal to 2"),
    ],
)
def test_bad_input_is_refused_before_anything_runs(override, said, tmp_path, capsys):
    path, folder = study(tmp_path)
    assert compare(path, override) == 2
    assert said in capsys.readouterr().err
    assert not (folder / "cells").exists()


def test_the_best_so_far_counts_plans_on_the_target_only():
    rows = [(1, 0.5, 0.7), (2, 0.9, 0.55), (3, 0.8, 0.61), (4, 0.95, 0.65), (5, 0.6, 0.6)]
    evaluations = [{"index": i, "soft_accuracy": s, "flops_reduction": r} for i, s, r in rows]
    curve = best_so_far({"targets": [0.6], "evaluations": evaluations}, 6)
    np.testing.assert_allclose(curve, [0.5, 0.5, 0.8, 0.8, 0.8, 0.8])


def runs(*curves, task="tiny", target=0.6):
    """Runs at one target whose plans all meet it, by their soft accuracies."""
    return [
        {
            "task": task,
            "targets": [target],
            "evaluations": [
                {"index": index, "soft_accuracy": score, "flops_reduction": target}
                for index, score in enumerate(curve, 1)
            ],
        }
        for curve in curves
    ]


def test_catching_up_counts_evaluations_to_where_the_others_end():
    ours = runs(*5 * [[0.1, 0.4, 0.6, 0.8]])
    assert evaluations_to_catch_up(ours, runs(*5 * [[0.1, 0.2, 0.2, 0.2, 0.2, 0.5]])).value == 3
    assert evaluations_to_catch_up(ours, runs(*5 * [[0.1]])).value == 1
    assert evaluations_to_catch_up(ours, runs(*5 * [[0.1, 0.9]])).value == 5, "one more than the budget"
    assert evaluations_to_catch_up(ours, runs(*5 * [[0.1]], task="other")) is None


def test_an_agent_can_have_a_budget_of_its_own(tmp_path):
    path, folder = study(tmp_path)
    change = ["agents=[knapsack, {name: random, label: longer, evaluations: 9}]", "reference=knapsack", "seeds=[0]"]
    assert compare(path, *change, "fronts.targets=[]", "fronts.agents=[]") == 0
    lengths = {name: len(cell["evaluations"]) for name, cell in cells(folder).items()}
    assert lengths == {"tiny-cnn-0.6-knapsack-seed0.json": 1, "tiny-cnn-0.6-longer-seed0.json": 9}


def test_entries_stored_before_a_key_existed_are_the_same_agents(tmp_path):
    path, folder = study(tmp_path)
    change = ["agents=[knapsack]", "reference=knapsack", "seeds=[0]", "fronts.targets=[]", "fronts.agents=[]"]
    assert compare(path, *change) == 0
    stored = json.loads((folder / "study.json").read_text())
    del stored["agents"]["knapsack"]["evaluations"], stored["sha256"]
    (folder / "study.json").write_text(json.dumps(stored))
    sign(folder / "study.json")
    assert compare(path, *change) == 0


def test_policies_are_averaged_at_the_same_target_whatever_runs_were_asked():
    def run(*scores):
        plans = [(target, {"soft_accuracy": score}) for target, score in scores]
        rows = [{"target": target, "policy": plan, "start": plan, "archive": None} for target, plan in plans]
        return {"agent": "rspar", "targets": [0.4, 0.8], "policy": rows}

    table = policy_table([run((0.4, 0.9), (0.8, 0.5)), run((0.4, 0.7), (0.6, 0.6), (0.8, 0.3))])
    found = {row[1]: (row[2], row[3], row[-1]) for row in table.texts()}
    assert found == {"0.4": ("yes", "80.00", "2"), "0.6": ("no", "60.00", "1"), "0.8": ("yes", "40.00", "2")}


def test_the_best_agents_stand_first_and_have_their_intervals():
    def run(agent, end, seed):
        scores = (0.1, end + 0.01 * seed)
        rows = [{"index": n, "flops_reduction": 0.6, "soft_accuracy": score} for n, score in enumerate(scores, 1)]
        return {"task": "tiny", "agent": agent, "targets": [0.6], "evaluations": rows}

    ends = {"a": 0.2, "b": 0.7, "c": 0.4, "d": 0.6, "e": 0.5, "f": 0.3}
    (panel,) = plot_progress([run(*end, seed) for end in ends.items() for seed in range(5)], "title").axes
    assert [line.get_label() for line in panel.lines] == ["b", "d", "e", "c", "f", "a"]
    shaded = [tuple(part.get_facecolor()[0][:3]) for part in panel.collections]
    assert shaded == [to_rgb(line.get_color()) for line in panel.lines[:4]]


def test_nothing_to_draw():
    with pytest.raises(ValueError, match="nothing to draw"):
        plot_progress([], "title")


@pytest.mark.parametrize(
    "name", ["compare_digits", "compare_fashion", "compare_fashion_budget", "compare_digits_lambda"]
)
def test_shipped_studies_are_valid(name):
    from benchmarks.configs.files import CONFIG_DIR

    assert StudyConfig.load(CONFIG_DIR / f"{name}.yaml").cells()


def test_cycling_targets_take_turns():
    import gymnasium as gym

    class Recorder(gym.Env):
        action_space = observation_space = gym.spaces.Box(-1, 1, (1,), np.float32)

        def reset(self, *, seed=None, options=None):
            return np.zeros(1), {"target": options["target"]}

    env = agent_cells.CyclingTargets(Recorder(), (0.5, 0.7))
    asked = [env.reset()[1]["target"] for _ in range(3)]
    assert asked == [0.5, 0.7, 0.5]
    assert env.reset(options={"target": 0.9})[1]["target"] == 0.9
    assert env.reset()[1]["target"] == 0.7
