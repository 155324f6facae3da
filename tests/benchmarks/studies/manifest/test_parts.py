"""The parts of the evidence: every result has a command, every command is understood, every result is read."""

import json
import shlex

import pytest

from benchmarks.ablation import command as ablation
from benchmarks.fuzz import command as fuzz
from benchmarks.settings.reading import load_config
from benchmarks.studies.agents.config import StudyConfig
from benchmarks.studies.audit import command as audit
from benchmarks.studies.evidence import reward_signal
from benchmarks.studies.manifest.parts import PARTS, PAST, RESULTS, uncited, unmade
from benchmarks.studies.methods import command as methods
from benchmarks.studies.speed import command as speed
from benchmarks.studies.transfer.config import TransferConfig
from tests.pages import ROOT

PARSERS = {
    "benchmarks.ablation": ablation._parser,
    "benchmarks.fuzz": fuzz._parser,
    "benchmarks.studies.audit": audit._parser,
    "benchmarks.studies.evidence.reward_signal": reward_signal._parser,
    "benchmarks.studies.methods": methods._parser,
    "benchmarks.studies.speed": speed._parser,
}


def test_every_result_is_made_by_a_part_and_read_by_a_page():
    assert not unmade()
    assert not uncited()
    assert all((RESULTS / name).is_file() for name in PAST)


@pytest.mark.parametrize("part", PARTS.values(), ids=PARTS)
def test_every_command_runs_a_module_and_says_where_its_results_go(part, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert any("{out}" in command for command in part.commands)
    for command in part.commands:
        flag, module, *arguments = shlex.split(command.format(out=tmp_path))
        path = ROOT.joinpath(*module.split("."))
        assert flag == "-m"
        assert path.with_suffix(".py").is_file() or (path / "__main__.py").is_file()
        if module in PARSERS:
            parser = PARSERS[module]()
            (parser.parse_args if parser._subparsers else parser.parse_intermixed_args)(arguments)
        if module == "benchmarks.main":
            load_config(arguments[1], [arguments[-1]])
        if module in ("benchmarks.studies.agents", "benchmarks.studies.transfer"):
            config = StudyConfig if module.endswith("agents") else TransferConfig
            assert config.load(ROOT / arguments[1], arguments[2:]).save_dir == tmp_path / part.results[0]


def test_the_last_check_made_ten_numbers_again():
    numbers = json.loads((RESULTS / "checked.json").read_text())["numbers"]
    assert len(numbers) >= 10
    assert all(number["same"] for number in numbers)
