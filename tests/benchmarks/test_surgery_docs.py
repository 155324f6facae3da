"""The blocks of docs/surgery.md run as they stand, in order."""

import pytest

from tests.pages import DOCS, code_blocks, run_page

PAGE = DOCS / "surgery.md"


def test_the_page_runs(tmp_path, monkeypatch, capsys):
    pytest.importorskip("onnxruntime")
    monkeypatch.chdir(tmp_path)
    assert len(code_blocks(PAGE)) >= 8
    run_page(PAGE)
    for name in ("small.safetensors", "small.json", "plain.pt", "small.pt2", "small.onnx"):
        assert (tmp_path / "out" / name).stat().st_size > 0
    printed = capsys.readouterr().out
    assert "of the FLOPs removed" in printed
    assert "ms more than promised" in printed
