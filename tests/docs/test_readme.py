"""README.md: its Python runs and its commands exist; docs/run.md: its methods and options are those of the program."""

import re
import shlex

import pytest

from benchmarks import cli, main
from benchmarks.prune.options import parser as prune_parser
from benchmarks.settings import methods
from tests.pages import DOCS, ROOT, code_blocks, run_blocks

PAGE = ROOT / "README.md"
RUN = DOCS / "run.md"
SHORTER = {"flops=0.5)": "flops=0.5, reconstruct=False)", "total_timesteps=100": "total_timesteps=3"}


def test_its_python_runs():
    """As it stands but for two arguments, which would take a minute."""
    code = "\x00".join(code_blocks(PAGE))
    for text, fewer in SHORTER.items():
        assert code.count(text) == 1
        code = code.replace(text, fewer)
    names = run_blocks(code.split("\x00"), PAGE.name)
    assert names["result"].flops_reduction >= 0.5
    assert set(names["env"].unwrapped.budgets) == set(names["env"].unwrapped.problem.layer_names)
    assert names["small"].conv1.out_channels <= 16
    assert names["agent"].num_timesteps == 3


def test_it_is_short_and_says_first_what_one_gets():
    text = PAGE.read_text()
    assert len(text.split()) <= 750
    assert "smaller `torch.nn.Module` back" in text.split("\n\n")[1]


def test_every_command_it_shows_is_one_of_the_program():
    lines = "".join(code_blocks(PAGE, "bash") + code_blocks(PAGE, "")).splitlines()
    commands = [shlex.split(line)[1:] for line in lines if line.startswith("prune-gym ")]
    assert {words[0] for words in commands} <= set(cli.COMMANDS)
    (prune,) = (words[1:] for words in commands if words[0] == "prune")
    assert prune_parser(None).parse_args(prune).flops == "0.5"


def test_every_method_of_a_run_exists():
    (row,) = re.findall(r"^\| `--method` \| (.*) \|$", RUN.read_text(), flags=re.MULTILINE)
    named = re.findall(r"`([\w-]+)`", row)
    assert len(named) > 8
    assert set(named) <= set(methods.method_names())


def test_every_option_of_a_run_exists(capsys):
    with pytest.raises(SystemExit):
        main.main(["--help"])
    shown = capsys.readouterr().out
    (line,) = re.findall(r"^prune-gym run (--config FILE .*)$", RUN.read_text(), flags=re.MULTILINE)
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
