"""The blocks of docs/surgery.md run as they stand, in order."""

import re
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "surgery.md"


def test_the_page_runs(tmp_path, monkeypatch, capsys):
    pytest.importorskip("onnxruntime")
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), flags=re.DOTALL | re.MULTILINE)
    assert len(blocks) >= 8
    namespace = {"__name__": "surgery_page"}
    for block in blocks:
        exec(compile(block, str(PAGE), "exec"), namespace)
    for name in ("small.safetensors", "small.json", "plain.pt", "small.pt2", "small.onnx", "trace.json"):
        assert (tmp_path / "out" / name).stat().st_size > 0
    printed = capsys.readouterr().out
    assert "of the FLOPs removed" in printed
    assert "dense" in printed
