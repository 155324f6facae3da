"""README.md: its Python runs, and its methods, options and files are those of the program."""

import re

import pytest

from benchmarks import main
from benchmarks.settings import methods
from tests.pages import ROOT, code_blocks, run_blocks

PAGE = ROOT / "README.md"
SHORTER = {"range(20)": "range(2)", "total_timesteps=100": "total_timesteps=3"}


def test_its_python_runs():
    """As it stands but for two numbers, which would take a minute."""
    code = "\x00".join(code_blocks(PAGE))
    for text, fewer in SHORTER.items():
        assert code.count(text) == 1
        code = code.replace(text, fewer)
    names = run_blocks(code.split("\x00"), PAGE.name)
    assert set(names["env"].unwrapped.budgets) == set(names["env"].unwrapped.problem.layer_names)
    assert names["small"].conv1.out_channels <= 16
    assert names["agent"].num_timesteps == 3


def test_every_method_it_names_exists():
    (row,) = re.findall(r"^\| `--method` \| (.*) \|$", PAGE.read_text(), flags=re.MULTILINE)
    named = re.findall(r"`([\w-]+)`", row)
    assert len(named) > 8
    assert set(named) <= set(methods.method_names())


def test_every_option_of_the_main_job_exists(capsys):
    with pytest.raises(SystemExit):
        main.main(["--help"])
    shown = capsys.readouterr().out
    (line,) = re.findall(r"^prune-gym run (.*)$", PAGE.read_text(), flags=re.MULTILINE)
    options = re.findall(r"--[a-z-]+", line)
    assert len(options) >= 5
    assert all(option in shown for option in options)


def test_make_is_the_first_command_it_shows():
    first, *_ = code_blocks(PAGE, "bash")
    assert first.startswith("make demo")
    assert "make test" in first
    targets = re.findall(r"^make (\w+)", first, flags=re.MULTILINE)
    makefile = (ROOT / "Makefile").read_text()
    assert all(re.search(rf"^{target}:", makefile, flags=re.MULTILINE) for target in targets)
