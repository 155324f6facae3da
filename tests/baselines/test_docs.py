"""The code of the guide runs as it stands."""

import re
from pathlib import Path

import pytest

import baselines

GUIDE = Path(__file__).parents[2] / "docs" / "baselines.md"


@pytest.mark.filterwarnings("ignore:.*more than 1 % off the target")
def test_code_of_the_guide_runs():
    names: dict = {}
    try:
        for block in re.findall(r"```python\n(.*?)```", GUIDE.read_text(), flags=re.DOTALL):
            exec(compile(block, str(GUIDE), "exec"), names)
        assert abs(names["info"].flops_reduction - 0.5) <= 0.01
        assert names["repaired"] is not None
        assert "batch-norm-scale" in baselines.available()
    finally:
        from baselines.registry import _REGISTRY

        _REGISTRY.pop("batch-norm-scale", None)


def test_the_guide_names_every_method():
    text = GUIDE.read_text()
    assert all(f"`{name}`" in text for name in baselines.available())
