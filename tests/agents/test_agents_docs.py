"""The blocks of docs/agents.md run as they stand, in order."""

import pytest

from tests.pages import DOCS, code_blocks, run_page

PAGE = DOCS / "agents.md"


def test_the_page_runs(tmp_path, monkeypatch, capsys):
    pytest.importorskip("stable_baselines3")
    monkeypatch.chdir(tmp_path)
    assert len(code_blocks(PAGE)) >= 6
    run_page(PAGE)
    assert (tmp_path / "agent.safetensors").stat().st_size > 0
    assert "runs" in capsys.readouterr().out
