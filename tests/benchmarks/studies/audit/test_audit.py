"""The audit command: what it writes, shows and refuses."""

import dataclasses
import io
import json

import numpy as np
import pytest
from rich.console import Console

from benchmarks.common.provenance import write_result
from benchmarks.studies.audit.command import main
from benchmarks.studies.audit.plot import plot_audit
from benchmarks.studies.audit.runs import AuditRequest, AuditRun, run_audits
from benchmarks.studies.audit.tables import correlation_table, feature_table
from prune_gym.problem import PruningProblem
from prune_gym.support.stage_progress import StageProgress
from tests.benchmarks import tiny_task


@pytest.fixture(scope="module", autouse=True)
def registered():
    tiny_task.register()


@pytest.fixture(scope="module")
def problem():
    tiny_task.register()
    return PruningProblem(tiny_task.build(), repair="closed_form").load()


@pytest.fixture(scope="module")
def runs():
    tiny_task.register()
    request = AuditRequest("tiny-cnn", seeds=(0, 1), splits=("calibration", "reward"), images=60, channels_per_layer=3)
    with StageProgress(Console(quiet=True)) as progress:
        return run_audits(request, "cpu", progress)


def rendered(table, width=120):
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(table)
    return console.export_text()


# ---------------------------------------------------------------- audits


def test_every_seed_and_split_is_audited_with_the_library_function(runs, problem):
    assert [(run.seed, run.split) for run in runs] == [
        (0, "calibration"),
        (0, "reward"),
        (1, "calibration"),
        (1, "reward"),
    ]
    images = problem.task.reward.subset(slice(60)).batches(60)
    expected = problem.hobs.audit(images, channels_per_layer=3, num_batches=None, seed=0)
    found = runs[1].report
    assert found.images == 60
    assert [removal.units for removal in found.channels] == [removal.units for removal in expected.channels]
    assert [removal.kl for removal in found.cuts] == pytest.approx([removal.kl for removal in expected.cuts], rel=1e-3)
    assert runs[0].dense_accuracy == problem.dense.accuracy


def test_the_command_writes_numbers_and_a_picture_and_shows_both_tables(tmp_path, capsys):
    numbers, picture = tmp_path / "audit.json", tmp_path / "audit.png"
    arguments = ["--task", "tiny-cnn", "--images", "40", "--channels", "2", "--gpu", "cpu", "--threads", "1"]
    assert main([*arguments, "--splits", "reward", "--json", str(numbers), "--plot", str(picture)]) == 0
    content = json.loads(numbers.read_text())
    (run,) = content["runs"]
    assert (run["split"], run["images"], run["seed"]) == ("reward", 40, 0)
    assert len(run["cuts"]) == 3 * len({cut["layer"] for cut in run["cuts"]})
    assert content["versions"]["torch"]
    assert picture.read_bytes().startswith(b"\x89PNG")
    shown = capsys.readouterr().out
    for text in ("cuts of layers", "within layers", "producer-side OBS", "magnitude + refit"):
        assert text in shown


def test_a_single_run_shows_its_interval_and_several_their_range(runs):
    (lone, other) = (run for run in runs if run.split == "reward")
    interval = lone.report.price.across_layers
    assert f"{interval.value:.3f} [{interval.low:.3f}, {interval.high:.3f}]" in rendered(
        correlation_table("reward", [lone])
    )
    values = [run.report.price.across_layers.value for run in (lone, other)]
    expected = f"{np.mean(values):.3f} [{min(values):.3f}, {max(values):.3f}]"
    assert expected in rendered(correlation_table("reward", [lone, other]))


def test_the_tables_fit_a_terminal_of_80_columns(runs):
    for table in (correlation_table("calibration", runs[:1]), feature_table("calibration", runs[:1])):
        assert "…" not in rendered(table, width=80)


def test_feature_errors_are_compared_in_squares_and_in_norms(runs):
    run = runs[0]
    rows = [dataclasses.replace(run.report.features[0], magnitude=0.64, hobs=0.16)]
    table = rendered(
        feature_table(
            "reward", [dataclasses.replace(run, report=dataclasses.replace(run.report, features=tuple(rows)))]
        )
    )
    line = next(line for line in table.splitlines() if "magnitude, no repair" in line)
    assert line.split()[-6:] == ["0.6400", "75.0", "%", "0.800", "50.0", "%"]


def test_the_plot_has_a_row_of_panels_a_split_and_every_layer_in_its_legend(runs):
    reports = {run.split: run.report for run in runs[:2]}
    figure = plot_audit(reports, "tiny")
    assert len(figure.axes) == 4
    labels = {text.get_text() for text in figure.legends[0].get_texts()}
    assert {cut.layer for cut in runs[0].report.cuts} <= labels
    drawn = sum(len(points.get_offsets()) for points in figure.axes[1].collections)
    assert drawn == sum(cut.kl > 0 and cut.predicted > 0 for cut in runs[0].report.cuts)
    with pytest.raises(ValueError, match="no audit"):
        plot_audit({}, "nothing")


def test_results_are_rounded_and_never_half_written(tmp_path):
    path = write_result(tmp_path / "r.json", {"task": "x", "runs": [{"value": 1 / 3, "count": 123456789}]})
    assert json.loads(path.read_text())["runs"] == [{"value": 0.33333, "count": 123456789}]
    with pytest.raises(ValueError, match="JSON"):
        write_result(path, {"value": float("nan")})
    assert json.loads(path.read_text())["task"] == "x"


# ---------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--weights", "absent.safetensors"], "weights"),
        (["--gpu", "7"], "7"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(arguments, message, capsys, monkeypatch):
    assert (
        main(["--task", "digits-resnet20" if "--weights" in arguments else "tiny-cnn", "--threads", "1", *arguments])
        == 2
    )
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error


@pytest.mark.parametrize("arguments", [["--task", "nothing"], ["--task", "tiny-cnn", "--channels", "0"], []])
def test_wrong_options_are_refused_by_the_parser(arguments, capsys):
    with pytest.raises(SystemExit):
        main(arguments)
    assert "usage" in capsys.readouterr().err


def test_a_run_is_typed(runs):
    assert all(isinstance(run, AuditRun) for run in runs)
