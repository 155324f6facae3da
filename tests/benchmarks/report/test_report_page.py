"""prune-gym report: one page that holds what the results hold, loads nothing, and survives what is broken."""

import html
import json
import re
import shlex
from html.parser import HTMLParser

import pytest
import torch

from benchmarks import cli
from benchmarks.common.signed import signed, write_signed
from benchmarks.job.pipeline import without_timings
from benchmarks.main import _parser as main_parser
from benchmarks.main import main as run_main
from benchmarks.report.command import main
from benchmarks.studies.agents import command as compare_agents
from benchmarks.studies.methods import command as compare_methods
from benchmarks.sweep.results_table import SCHEMA_VERSION
from prune_gym.saving.checkpoint import save_pruned
from prune_gym.tasks.models import build_model
from tests.benchmarks import result_folders, tiny_task


class Reader(HTMLParser):
    """What a reader meets: text, headings, tables, pictures, links."""

    VOID = ("meta", "img")

    def __init__(self, page):
        super().__init__()
        self.open, self.text, self.ids, self.found = [], [], [], []
        self.feed(page)
        self.close()
        assert not self.open

    def handle_starttag(self, name, attributes):
        self.found.append((name, dict(attributes)))
        if "id" in dict(attributes):
            self.ids.append(dict(attributes)["id"])
        if name not in self.VOID:
            self.open.append(name)

    def handle_endtag(self, name):
        assert self.open.pop() == name

    def handle_data(self, data):
        if "style" not in self.open:
            self.text.append(data)

    def all(self, name):
        return [attributes for found, attributes in self.found if found == name]

    @property
    def words(self):
        return " ".join(" ".join(self.text).split())


def report(folder, *arguments):
    assert main([str(folder), *arguments]) == 0
    return (folder / "report.html").read_text()


def row_of(page, caption_part, name):
    """Cells of a table's row, by a part of the table's caption and the row's name.

    Raises:
        AssertionError: there is no such row.
    """
    for found in re.findall(r"<table>.*?</table>", page, flags=re.DOTALL):
        if caption_part in found:
            for row in re.findall(r"<tr>.*?</tr>", found, flags=re.DOTALL):
                cells = [
                    html.unescape(re.sub(r"<[^>]+>", "", cell))
                    for cell in re.findall(r"<t[hd].*?</t[hd]>", row, flags=re.DOTALL)
                ]
                if cells[0] == name:
                    return cells
    raise AssertionError(f"no row {name!r} in a table {caption_part!r}")


@pytest.fixture(scope="module")
def everything(tmp_path_factory):
    """A folder with results of every kind, and its page."""
    folder = tmp_path_factory.mktemp("all") / "results"
    result_folders.write_runs(folder / "runs")
    result_folders.write_sweep(folder / "grid")
    result_folders.write_ablation(folder / "parts")
    result_folders.write_agents(folder / "agents")
    result_folders.write_methods(folder / "methods")
    return folder, report(folder)


# what the page says


def test_the_headline_has_means_intervals_and_paired_differences(tmp_path):
    page = report(result_folders.write_runs(tmp_path))
    ours = row_of(page, "Dense network", "hobs-uniform")
    assert ours[1] == "5"
    assert re.fullmatch(r"80\.90 \[80\.\d\d, 81\.\d\d\]", ours[2])
    assert ours[6] == "93.00 [93.00, 93.00]"
    assert re.fullmatch(r"-2\.30 \[-2\.\d\d, -2\.\d\d\]", ours[8])
    assert ours[9] == "<0.001"
    assert ours[10:12] == ["75.1", "70.00 k"]
    assert ours[12:14] == ["2.00x", "2.00x"]


def test_one_run_has_no_interval_and_the_page_says_so(tmp_path):
    result_folders.write_run(tmp_path)
    page = report(tmp_path)
    assert row_of(page, "Dense network", "hobs-rspar")[2:9:2] == ["90.00", "92.50", "95.00", "-2.00"]
    assert "one run has none" in page
    assert "Accuracy against FLOPs" not in page, "one target gives points, not a front"


def test_runs_that_differ_in_more_than_their_seed_are_never_pooled(tmp_path):
    result_folders.write_run(tmp_path / "a", final=0.9)
    result_folders.write_run(tmp_path / "b", final=0.8)
    page = report(tmp_path)
    assert row_of(page, "Dense network", "hobs-rspar (a)")[6] == "90.00"
    assert row_of(page, "Dense network", "hobs-rspar (b)")[6] == "80.00"


def test_layers_costs_machine_and_seeds_are_there(tmp_path):
    page = report(result_folders.write_runs(tmp_path))
    assert row_of(page, "Channels removed", "layer1.0.conv1")[1:] == ["75.0", "75.0"]
    assert row_of(page, "wall time", "hobs-rspar")[3:7] == ["101", "30.0 s", "20.0 s", "54.0 s"]
    words = Reader(page).words
    assert "Abacus 3000, 2 cores" in words
    assert "1, 2, 3, 4, 5" in words
    assert "torch 2.6.0" in words


def test_a_run_folder_itself_is_a_result_and_shows_its_own_pictures(tmp_path):
    folder = result_folders.write_run(tmp_path)
    (folder / "plots").mkdir()
    (folder / "plots" / "budgets.png").write_bytes(b"PNG")
    page = report(folder)
    assert "Every layer's budget beside the price of its channels" in Reader(page).words
    assert "data:image/png;base64,UE5H" in page


def without(*names, **options):
    """A result of an older version, without some entries."""
    return {name: value for name, value in result_folders.result(**options).items() if name not in names}


def test_every_accuracy_has_the_standard_error_of_the_test_split(tmp_path):
    for seed in (1, 2):
        result_folders.write_run(tmp_path, seed=seed, one_shot=0.9, final=0.95)
    page = report(tmp_path)
    row = row_of(page, "400 test images", "hobs-rspar")
    assert row[2:4] + row[6:8] == ["90.00 [90.00, 90.00]", "1.50", "95.00 [95.00, 95.00]", "1.09"]
    words = Reader(page).words
    for text in ("90.00 % ± 1.50", "95.00 % ± 1.09", "dense 97.00 % ± 0.85", "400 ± is one standard error"):
        assert text in words


def test_runs_that_do_not_say_how_many_images_were_tested_have_no_standard_error(tmp_path):
    result_folders.write_run(tmp_path, seed=1)
    result_folders.write_result(tmp_path, without("test_images", seed=2))
    page = report(tmp_path)
    assert row_of(page, "Dense network", "hobs-rspar")[4].startswith("95.00 [")
    assert "± test set</th>" not in page


def test_reconstruction_is_a_tier_where_a_run_has_it(tmp_path):
    result_folders.write_run(tmp_path / "a")
    result_folders.write_result(tmp_path / "old" / "b", without("reconstructed", method="hobs-uniform"))
    page = report(tmp_path)
    assert row_of(page, "Dense network", "method")[2:8:2] == ["one-shot", "reconstructed", "fine-tuned"]
    assert row_of(page, "Dense network", "hobs-rspar")[2:8:2] == ["90.00", "92.50", "95.00"]
    assert row_of(page, "Dense network", "hobs-uniform")[2:8:2] == ["90.00", "–", "95.00"]
    assert "accuracy, reconstructed" in Reader(page).words
    assert "reconstructed" not in report(tmp_path / "old")


def test_pinned_layers_are_named_with_the_reason(tmp_path):
    pinned = [{"name": "fc", "size": 10, "reason": "gives the network's output <logits>"}]
    result_folders.write_run(tmp_path, pinned=pinned)
    page = report(tmp_path)
    assert row_of(page, "digits: 1 layer", "fc") == ["fc", "10", "gives the network's output <logits>"]
    result_folders.write_run(tmp_path / "none")
    assert "keep all channels" not in report(tmp_path / "none")


@pytest.mark.parametrize("registered", [True, False])
def test_the_page_says_how_to_load_the_network(tmp_path, registered, monkeypatch):
    torch.manual_seed(0)
    place = result_folders.write_run(tmp_path / "results")
    factory = "resnet20" if registered else tiny_task.network
    dense = build_model("resnet20") if registered else tiny_task.network()
    save_pruned(place / "pruned", dense, factory=factory)
    page = report(tmp_path / "results")
    (code,) = (block for block in listings(page) if "load_pruned" in block)
    assert len(code.splitlines()) == 3
    monkeypatch.chdir(tmp_path)
    images = torch.randn(2, 1, 32, 32)
    scope = {"images": images, "network": tiny_task.network}
    exec(code, scope)
    torch.testing.assert_close(scope["logits"], dense.eval()(images))


def test_a_network_of_the_users_own_has_its_targets_warnings_and_command(tmp_path):
    prune = {
        "command": "prune-gym prune --model net.pt2 --flops 0.5",
        "asked_for": "at least 50 % of the FLOPs removed",
        "scored_by": "agreement with the dense network",
        "scored_on": "held-out",
        "images": 1000,
        "load": [
            "from prune_gym import load_pruned",
            "from net import make",
            "model = load_pruned('out', factory=make)",
        ],
        "warnings": ["the <reward> images were trained on"],
        "onnx": {"file": "out.onnx"},
    }
    folder = tmp_path / "out"
    folder.mkdir()
    write_signed(folder / "result.json", {**without("test_images", method="knapsack"), "prune": prune})
    page = report(folder)
    words = Reader(page).words
    for text in (
        prune["asked_for"],
        *prune["warnings"],
        "agreement with the dense network on held-out images",
        "out.onnx",
    ):
        assert text in words
    assert commands(page) == [prune["command"].split()]
    assert "\n".join(prune["load"]) in listings(page)
    assert row_of(page, "1,000 test images", "knapsack")[3] == "0.95"
    assert "config.yaml" not in page
    write_signed(folder / "result.json", {**result_folders.result(), "prune": {"command": 3}})
    assert main([str(folder)]) == 2


def test_sections_without_content_are_left_out(tmp_path):
    result_folders.write_run(tmp_path)
    reader = Reader(report(tmp_path))
    titles = re.findall(r'<h2 id="(\w+)"', (tmp_path / "report.html").read_text())
    assert titles == ["short", "results", "layers", "costs", "where", "repeat"]
    assert [link["href"][1:] for link in reader.all("a")][: len(titles)] == titles


def test_a_sweep_shows_rows_failures_and_what_is_missing(everything):
    _, page = everything
    words = Reader(page).words
    assert "Sweep a grid: 2 of 3 cells are finished." in words
    assert "digits hobs-rspar 0.75 seed 3 : ValueError: too <deep>" in words
    assert "prune-gym validate results/grid" in words


def test_run_folders_of_a_sweep_are_not_counted_twice(tmp_path):
    page = report(result_folders.write_sweep(tmp_path, cells=True))
    assert "prune-gym: 2 runs, 1 sweep" in page
    assert row_of(page, "Dense network", "hobs-rspar")[1] == "2"


def test_runs_of_an_ablation_are_its_own(everything):
    _, page = everything
    assert "12.34" not in page
    row = row_of(page, "digits, 75 % of the FLOPs removed", "no_rl")
    assert row[-1] == "uniform budgets instead of R-SPAR's"
    assert re.fullmatch(r"80\.90 \[.*\]", row[1])
    assert row[2].startswith("-9.70 [")


def test_agents_and_methods_have_tables_intervals_and_costs(everything):
    _, page = everything
    assert row_of(page, "75 % of the FLOPs removed, 2 runs an agent", "random")[3].startswith("1.00 [")
    assert row_of(page, "Hypervolume over all targets", "rspar")[2].startswith("95.50 [")
    assert row_of(page, "50 % of the FLOPs removed, 2 seeds", "magnitude")[2:4] == [
        "10.00 [10.00, 10.00]",
        "30.00 [30.00, 30.00]",
    ]
    costs = row_of(page, "50 % of the FLOPs removed: size, speed", "hobs-rspar")
    assert costs[1:] == ["50.1", "70.00 k", "2.50x", "20", "40.00 k", "1.50 k", "12.0 s"]
    assert "hrank, 50" not in page
    assert "hrank, 0.5, seed 0: RuntimeError: no &lt;luck&gt;" in page


def test_budgets_of_compared_methods_are_means_over_seeds(everything):
    _, page = everything
    caption = "50 % of the FLOPs removed: channels removed from every layer in percent"
    assert row_of(page, caption, "conv1")[1:] == ["37.5", "37.5"]
    assert row_of(page, caption, "conv2")[1:] == ["0.0", "0.0"]


def test_cells_without_the_layers_sizes_show_numbers_of_channels(tmp_path):
    folder = result_folders.write_methods(tmp_path)
    for path in (folder / "cells").glob("*.json"):
        cell = json.loads(path.read_text())
        cell.pop("channels", None)
        write_signed(path, cell)
    assert row_of(report(folder), "50 % of the FLOPs removed: number of channels", "conv1")[1:] == ["12.0", "12.0"]


def test_cells_of_two_networks_are_named_and_not_averaged(tmp_path):
    folder = result_folders.write_methods(tmp_path / "methods")
    for number, path in enumerate(sorted((folder / "cells").glob("*.json"))):
        cell = json.loads(path.read_text())
        write_signed(path, {**cell, "network": f"{number % 2}" * 64})
    result_folders.write_run(tmp_path / "runs")
    page = report(tmp_path)
    assert "measured on different networks" in Reader(page).words
    with pytest.raises(AssertionError, match="no row 'magnitude'"):
        row_of(page, "50 % of the FLOPs removed, 2 seeds", "magnitude")


def with_weights_of_their_own(folder, weights, accuracy):
    """Cells of a folder once more, for dense weights by seed."""
    for path in (folder / "cells").glob("magnitude-0.5-seed?.json"):
        cell = json.loads(path.read_text())
        cell["accuracy"] = dict.fromkeys(cell["accuracy"], accuracy)
        name = weights[cell["seed"]]
        write_signed(path.with_name(f"{path.stem}-{name}.json"), {**cell, "weights": name})


def test_cells_on_dense_weights_of_their_own_are_kept_apart(tmp_path):
    folder = result_folders.write_methods(tmp_path)
    with_weights_of_their_own(folder, ["first", "second"], accuracy=0.2)
    shared, own = report(folder).split("digits, a dense network of its own for every seed")
    assert "Dense weights: first, second." in own
    caption = "50 % of the FLOPs removed, 2 seeds"
    assert row_of(shared, caption, "magnitude")[1:3] == ["2", "10.00 [10.00, 10.00]"]
    assert row_of(own, caption, "magnitude")[2].startswith("20.00")


def test_a_seed_with_several_dense_weights_is_named_and_not_averaged(tmp_path):
    folder = result_folders.write_methods(tmp_path / "methods")
    for weights in (["first", "second"], ["third", "second"]):
        with_weights_of_their_own(folder, weights, accuracy=0.2)
    result_folders.write_run(tmp_path / "runs")
    page = report(tmp_path)
    assert "cells of seed 0 with the dense weights 'first' and 'third'" in Reader(page).words
    assert "20.00 [" not in page


def test_a_comparison_of_agents_says_how_far_its_ranking_can_be_trusted(tmp_path):
    folder = result_folders.write_agents(tmp_path / "agents")
    assert "Worth of a point" not in report(tmp_path), "two runs an agent make no line"
    for seed in range(2, 8):
        cell = result_folders.agent_cell("random", seed, (0.75,), 0.85 + 0.01 * seed)
        write_signed(folder / "cells" / f"digits-1-random-seed{seed}.json", cell)
    for number, path in enumerate(sorted((folder / "cells").glob("digits-1-*"))):
        cell = json.loads(path.read_text())
        cell["best"]["0.75"]["kept"] = [number]
        write_signed(path, cell)
    row = row_of(report(tmp_path), "Worth of a point of the reward split", "digits")
    assert row[1:4] == ["0.75", "top-1", "10"]


def test_comparisons_without_their_cells_are_shown_from_their_tables(tmp_path):
    from benchmarks.stat_tests.samples import few_seeds_are_stated
    from benchmarks.studies.agents.tables import summarise as agent_rows
    from benchmarks.studies.methods.tables import summarise as method_rows

    for write, rows in ((result_folders.write_agents, agent_rows), (result_folders.write_methods, method_rows)):
        folder = write(tmp_path / write.__name__)
        cells = [json.loads(path.read_text()) for path in sorted((folder / "cells").iterdir())]
        done = [cell for cell in cells if "error" not in cell]
        with few_seeds_are_stated():
            table = rows(done, "rspar") if rows is agent_rows else rows(done)
        write_signed(folder / "comparison.json", {"rows": table})
        for path in (folder / "cells").iterdir():
            path.unlink()
    page = report(tmp_path)
    assert row_of(page, "Hypervolume over all targets", "rspar")[2].startswith("95.50 [")
    assert row_of(page, "50 % of the FLOPs removed, 2 seeds", "magnitude")[1] == "2"
    assert "which are not here" in page


# how to repeat it


def listings(page):
    return [html.unescape(block) for block in re.findall(r"<pre[^>]*><code>(.*?)</code></pre>", page, flags=re.DOTALL)]


def commands(page):
    lines = [line for block in listings(page) for line in block.splitlines()]
    return [shlex.split(line) for line in lines if line.startswith(("prune-gym", "python"))]


def test_every_row_links_to_its_command(everything):
    _, page = everything
    reader = Reader(page)
    links = [attributes["href"][1:] for attributes in reader.all("a")]
    assert len(set(reader.ids)) == len(reader.ids)
    assert set(links) <= set(reader.ids)
    assert sum(name.startswith("repeat-") for name in links) == 4


def test_commands_are_understood_by_what_they_call(everything):
    folder, page = everything
    found = commands(page)
    runs = [words for words in found if words[:2] == ["prune-gym", "run"]]
    assert len(runs) == 3
    for words in runs:
        options = main_parser("x").parse_intermixed_args(words[2:])
        assert (folder.parent / options.config).is_file()
        assert "experiment.save_dir=results/again" in options.overrides
    assert "experiment.random_seeds=[1, 2, 3, 4, 5]" in [word for words in runs for word in words]
    (agents,) = [words for words in found if "benchmarks.studies.agents" in words]
    compare_agents._parser().parse_intermixed_args(agents[3:])
    (methods,) = [words for words in found if "benchmarks.studies.methods" in words]
    at = methods.index("--task")
    methods[at + 1] = "digits-resnet20"
    options = compare_methods._parser().parse_args(methods[3:])
    assert options.methods == ["hobs-rspar", "magnitude"]
    assert options.targets == [0.5, 0.75]


# the page itself


def test_the_page_is_well_formed_accessible_and_loads_nothing(everything):
    _, page = everything
    reader = Reader(page)
    assert reader.all("html") == [{"lang": "en"}]
    assert any("width=device-width" in attributes.get("content", "") for attributes in reader.all("meta"))
    assert len(reader.all("h1")) == 1
    assert len(reader.all("table")) == len(reader.all("caption")) > 8
    assert {attributes["scope"] for attributes in reader.all("th")} == {"col", "row"}
    images = reader.all("img")
    assert len(images) > 8
    assert all(attributes["alt"] and attributes["src"].startswith("data:image/") for attributes in images)
    assert not reader.all("script") + reader.all("link")
    assert "url(" not in page
    assert "prefers-color-scheme: dark" in page
    assert all(not value.startswith("http") for name, tags in reader.found for value in tags.values() if name != "svg")


def test_the_same_results_give_the_same_text_and_tables(tmp_path):
    result_folders.write_runs(tmp_path)
    first, second = (re.sub(r'src="data:[^"]*"', "", report(tmp_path)) for _ in range(2))
    assert first == second


HOSTILE = '"><script>document.title="hacked"</script><img src=x onerror=alert(1)> & \'$(rm -rf)`'


def test_hostile_names_stay_text(tmp_path):
    folder = tmp_path / "<b>bold"
    versions = {HOSTILE: HOSTILE}
    options = {"method": HOSTILE, "task": HOSTILE, "versions": versions, "machine": HOSTILE, "budgets": {HOSTILE: 0.5}}
    result_folders.write_run(folder / "a", config=HOSTILE, **options)
    result_folders.write_run(folder / "b", config=HOSTILE, **options)
    rows = result_folders.ablation_rows()
    rows[1]["variant"] = rows[1]["summary"] = HOSTILE
    result_folders.write_ablation(folder / "parts", rows)
    page = report(folder)
    reader = Reader(page)
    assert not reader.all("script") + reader.all("b")
    assert all(attributes["src"].startswith("data:") for attributes in reader.all("img"))
    assert all("onerror" not in attributes for _, attributes in reader.found)
    assert HOSTILE in "".join(reader.text)


# bad input


def test_a_folder_without_results_names_what_was_looked_for(tmp_path, capsys):
    (tmp_path / "notes.txt").write_text("nothing")
    assert main([str(tmp_path)]) == 2
    shown = capsys.readouterr().err
    for name in ("seed_<n>/result.json", "results.csv", "ablation.json", "study.json"):
        assert name in shown
    assert not (tmp_path / "report.html").exists()


def test_no_such_folder_and_files_are_refused(tmp_path, capsys):
    assert main([str(tmp_path / "nowhere")]) == 2
    assert "does not exist" in capsys.readouterr().err
    (tmp_path / "file").write_text("")
    assert main([str(tmp_path / "file")]) == 2
    assert "name its folder" in capsys.readouterr().err


BROKEN = {
    "cut short": '{"dense": {',
    "not an object": "[1, 2]",
    "NaN": json.dumps(result_folders.result(final=float("nan"))),
    "of another version": json.dumps(signed({"accuracy": 0.9})),
    "no fraction": json.dumps(signed(result_folders.result(final=95.0))),
    "without a checksum": json.dumps(result_folders.result()),
}


@pytest.mark.parametrize("content", BROKEN.values(), ids=BROKEN)
def test_a_broken_run_is_named_and_the_others_are_shown(content, tmp_path, capsys):
    result_folders.write_run(tmp_path, seed=1)
    (tmp_path / "seed_2").mkdir()
    (tmp_path / "seed_2" / "result.json").write_text(content)
    page = report(tmp_path)
    assert row_of(page, "Dense network", "hobs-rspar")[1] == "1"
    assert "Left out" in page
    assert "seed_2/result.json" in page
    assert "left out: seed_2/result.json" in capsys.readouterr().err


def test_where_nothing_is_readable_the_reasons_are_given(tmp_path, capsys):
    (tmp_path / "seed_2").mkdir()
    (tmp_path / "seed_2" / "result.json").write_text("{")
    assert main([str(tmp_path)]) == 2
    assert "seed_2/result.json is damaged" in capsys.readouterr().err


def test_rows_of_another_version_undefined_or_repeated_are_named(tmp_path):
    folder = result_folders.write_sweep(tmp_path)
    lines = (folder / "results.csv").read_text().splitlines()
    nan = lines[1].replace(",0.951,", ",nan,").replace(",1,0.7512", ",7,0.7512")
    missing = lines[1].replace(",0.951,", ",,").replace(",1,0.7512", ",8,0.7512")
    text = "\n".join([*lines, lines[1], f"9{lines[1][1:]}", nan, missing]) + "\n"
    (folder / "results.csv").write_text(result_folders.signed_again(text))
    page = report(folder)
    words = Reader(page).words
    assert "row 3 of results.csv repeats the run" in words
    assert f"row 4 of results.csv has schema version 9; this version of the project reads {SCHEMA_VERSION}" in words
    assert "row 5 of results.csv: the value of final_accuracy is not a finite number" in words
    assert "row 6 of results.csv: the value of 'final_accuracy' is missing" in words
    assert row_of(page, "Dense network", "hobs-rspar")[1] == "2"


def test_broken_studies_cost_only_themselves(everything, tmp_path):
    result_folders.write_run(tmp_path / "runs")
    result_folders.write_ablation(tmp_path / "parts")
    damaged = tmp_path / "parts" / "ablation" / "ablation.json"
    damaged.write_text(re.sub(r'("mean": )[0-9.]+', r"\1NaN", damaged.read_text(), count=1))
    result_folders.write_ablation(tmp_path / "old", [{"variant": "full"}])
    agents = result_folders.write_agents(tmp_path / "agents")
    (agents / "cells" / "digits-1-rspar-seed0.json").write_text("{")
    methods = result_folders.write_methods(tmp_path / "methods")
    (methods / "study.json").write_text("{")
    page = report(tmp_path)
    words = Reader(page).words
    assert "parts/ablation/ablation.json is damaged or cannot be read" in words
    assert "(NaN is no number)" in words
    assert "old/ablation/ablation.json was written by another version of the project" in words
    assert "agents/cells/digits-1-rspar-seed0.json is damaged" in words
    assert "methods/study.json is damaged" in words
    assert row_of(page, "75 % of the FLOPs removed, 2 runs an agent", "rspar")[1] == "1"
    assert row_of(page, "Dense network", "hobs-rspar")[1] == "1"


def test_a_page_that_cannot_be_written_leaves_the_old_one(tmp_path, monkeypatch, capsys):
    result_folders.write_run(tmp_path)
    page = tmp_path / "page.html"
    page.write_text("old")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("prune_gym.support.files.os.fsync", full)
    assert main([str(tmp_path), "--out", str(page)]) == 2
    assert "no space left" in capsys.readouterr().err.lower()
    assert page.read_text() == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["page.html", "seed_1"]


# the real thing


def test_a_real_run_becomes_a_page_whose_command_repeats_it(tmp_path, monkeypatch):
    tiny_task.register()
    threads = torch.get_num_threads()
    config = tmp_path / "tiny.yaml"
    config.write_text(tiny_task.CONFIG.format(save_dir=(tmp_path / "results").as_posix()))
    assert run_main(["--config", str(config), "--threads", "1", "pruning.method=hobs-uniform"]) == 0
    out = tmp_path / "elsewhere" / "page.html"
    assert cli.main(["report", str(tmp_path / "results"), "--out", str(out)]) == 0
    stored = json.loads((tmp_path / "results" / "seed_3" / "result.json").read_text())
    page = out.read_text()
    row = row_of(page, "Dense network", "hobs-uniform")
    images = stored["test_images"]
    for place, stage in ((2, "one_shot"), (4, "reconstructed"), (6, "final")):
        share = stored[stage]["accuracy"]
        assert row[place : place + 2] == [f"{100 * share:.2f}", f"{100 * (share * (1 - share) / images) ** 0.5:.2f}"]
    words = Reader(page).words
    assert stored["machine"] in words
    assert f"{images} test images" in words
    assert "left out" not in page.lower()
    monkeypatch.chdir(tmp_path)
    (words,) = commands(page)
    assert cli.main(words[1:]) == 0
    torch.set_num_threads(threads)
    again = json.loads((tmp_path / "results" / "again" / "seed_3" / "result.json").read_text())
    assert without_timings(again) == without_timings(stored)
