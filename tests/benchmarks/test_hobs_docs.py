"""The block of docs/hobs.md runs as it stands."""

import re
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "hobs.md"


def test_the_page_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (block,) = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), flags=re.DOTALL | re.MULTILINE)
    namespace = {"__name__": "hobs_page"}
    exec(compile(block, str(PAGE), "exec"), namespace)
    assert set(namespace["prices"]) == {group.name for group in namespace["hobs"].groups}
    assert namespace["plan"]
    assert namespace["plan_by_flops"]
    assert (tmp_path / "analysis.safetensors").stat().st_size > 0
