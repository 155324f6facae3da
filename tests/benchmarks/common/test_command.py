"""What every command does: help at once, one line for what is wrong, an exit code."""

import subprocess
import sys

import pytest

from benchmarks.common.command import reports_errors
from benchmarks.common.errors import CommandError, InputError, OptionError
from tests.pages import ROOT

COMMANDS = (
    "benchmarks.cli",
    "benchmarks.main",
    "benchmarks.ablation",
    "benchmarks.config_reference",
    "benchmarks.files.sign",
    "benchmarks.layer_table",
    "benchmarks.prune",
    "benchmarks.studies.accelerator",
    "benchmarks.studies.agents",
    "benchmarks.studies.amortised",
    "benchmarks.studies.audit",
    "benchmarks.studies.bench",
    "benchmarks.studies.evidence",
    "benchmarks.studies.evidence.feature_evidence",
    "benchmarks.studies.evidence.main_job",
    "benchmarks.studies.evidence.one_shot",
    "benchmarks.studies.evidence.own_network",
    "benchmarks.studies.evidence.ppo_parity",
    "benchmarks.studies.evidence.reward_signal",
    "benchmarks.studies.ladder",
    "benchmarks.studies.manifest.command",
    "benchmarks.studies.methods",
    "benchmarks.studies.methods.costs",
    "benchmarks.studies.speed",
    "benchmarks.studies.transfer",
    "benchmarks.sweep",
    "benchmarks.sweep.validate",
    "benchmarks.system_eval",
    "benchmarks.train_dense",
)
HEAVY = ("torch", "scipy", "matplotlib", "baselines.workshop", "agents.registry")
HELP = """
import runpy, sys

for module in sys.argv[1].split():
    sys.argv = [module, "--help"]
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as ended:
        assert ended.code == 0, (module, ended.code)
    heavy = [name for name in {heavy} if name in sys.modules]
    assert not heavy, f"{{module}} loads {{heavy}} for its help"
"""


def test_every_command_prints_its_help_without_what_the_work_needs():
    script = HELP.format(heavy=HEAVY)
    done = subprocess.run([sys.executable, "-c", script, " ".join(COMMANDS)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("usage: ") == len(COMMANDS)


SLOW = {
    "benchmarks.fuzz",
    "benchmarks.fuzz.crashes",
    "benchmarks.studies.any_network",
    "benchmarks.studies.any_network.zoo",
    "benchmarks.studies.audit.fidelities",
    "benchmarks.studies.evidence.reconstruction",
}
"""Those whose options stand beside what they measure."""


def test_every_command_is_among_them():
    found = {path.parent for path in (ROOT / "benchmarks").rglob("__main__.py")}
    found |= {
        path.with_suffix("")
        for path in (ROOT / "benchmarks").rglob("*.py")
        if path.name != "__main__.py" and 'if __name__ == "__main__":' in path.read_text()
    }
    assert {".".join(path.relative_to(ROOT).parts) for path in found} == {*COMMANDS, *SLOW}


def failing(error, *expected):
    @reports_errors(*expected, interrupted="stopped")
    def main():
        raise error

    return main


@pytest.mark.parametrize(
    ("error", "expected", "code"),
    [
        (OptionError("--gpu 7: none"), (), 2),
        (InputError("no such key"), (), 2),
        (CommandError("3 cells failed"), (), 1),
        (FileNotFoundError("no file"), (), 2),
        (ValueError("too few"), (ValueError,), 2),
        (KeyError("no task 'x'"), (KeyError,), 2),
    ],
)
def test_what_is_wrong_is_one_line_and_an_exit_code(error, expected, code, capsys):
    assert failing(error, *expected)() == code
    assert capsys.readouterr().err == f"error: {error.args[0]}\n"


def test_other_errors_are_bugs():
    with pytest.raises(ValueError, match="a bug"):
        failing(ValueError("a bug"))()


def test_ctrl_c_says_how_to_go_on(capsys):
    assert failing(KeyboardInterrupt())() == 130
    assert capsys.readouterr().err == "stopped\n"
