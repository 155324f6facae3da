import io
import subprocess
import sys

import pytest
from rich.console import Console

from benchmarks import cli
from benchmarks.task_table import print_tasks
from prune_gym.tasks import registry as tasks
from prune_gym.tasks import task_names
from prune_gym.tasks.named import NAMED_TASKS
from tests.benchmarks import tiny_task


def test_tasks_lists_every_registered_task_with_its_size(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    tiny_task.register()
    assert cli.main(["tasks"]) == 0
    shown = capsys.readouterr().out
    for name in task_names():
        assert name in shown
    (line,) = (line for line in shown.splitlines() if "tiny-cnn" in line)
    assert "32" in line  # channels of its layers: 8 + 12 + 12
    assert "0.5" in line


def test_a_task_that_cannot_be_built_does_not_keep_the_others_from_being_listed(capsys, monkeypatch):
    monkeypatch.setattr(tasks, "_REGISTRY", dict(tasks._REGISTRY))

    def factory():
        raise RuntimeError("no such luck")

    tasks.register_task("unlucky", factory)
    assert cli.main(["tasks"]) == 0
    shown = capsys.readouterr().out
    assert "RuntimeError: no such luck" in shown
    assert "cifar10-resnet20" in shown


def test_names_of_tasks_are_whole_on_any_terminal():
    for width in (80, 110):
        shown = io.StringIO()
        print_tasks(Console(file=shown, width=width))
        lines = shown.getvalue().splitlines()
        for task in NAMED_TASKS:
            (row,) = (line for line in lines if line.startswith(f"{task.name} ") and "M" in line)
            assert str(task.size.layers) in row


def test_the_listing_traces_no_network_and_reads_no_data(monkeypatch, capsys):
    def refused(*arguments, **options):
        raise AssertionError("a network was traced")

    monkeypatch.setattr(tasks, "_REGISTRY", {task.name: tasks._REGISTRY[task.name] for task in NAMED_TASKS})
    monkeypatch.setattr(tasks, "task_structure", refused)
    assert cli.main(["tasks"]) == 0


def test_run_hands_its_arguments_to_the_main_job(monkeypatch):
    received = {}
    monkeypatch.setattr("benchmarks.main.main", lambda argv, prog: received.update(argv=argv, prog=prog) or 7)
    assert cli.main(["run", "--config", "x.yaml", "a.b=1"]) == 7
    assert received == {"argv": ["--config", "x.yaml", "a.b=1"], "prog": "prune-gym run"}


def test_unknown_command_lists_those_there_are(capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["rum"])
    assert stop.value.code == 2
    assert "run" in capsys.readouterr().err


def test_help_names_the_commands_without_loading_pytorch():
    script = (
        "import sys\nfrom benchmarks.cli import main\ntry: main(['--help'])\nfinally: assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    for command in cli.COMMANDS:
        assert command in done.stdout
