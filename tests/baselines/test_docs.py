"""The code of the guide runs as it stands."""

import pytest

import baselines
from baselines.workshop.registry import _REGISTRY
from tests.pages import DOCS, run_page

GUIDE = DOCS / "baselines.md"


@pytest.mark.filterwarnings("ignore:.*more than 1 % off the target")
def test_code_of_the_guide_runs():
    try:
        names = run_page(GUIDE)
        assert abs(names["info"].flops_reduction - 0.5) <= 0.01
        assert names["repaired"] is not None
        assert "batch-norm-scale" in baselines.available()
    finally:
        _REGISTRY.pop("batch-norm-scale", None)


def test_the_guide_names_every_method():
    text = GUIDE.read_text()
    assert all(f"`{name}`" in text for name in baselines.available())
