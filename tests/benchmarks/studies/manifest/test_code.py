"""Digests of code: what a command can run is found, and only what decides numbers counts."""

import importlib
import sys

import pytest

from benchmarks.studies.manifest.code import Sources
from tests.pages import ROOT

FILES = {
    "hessian/__init__.py": "if TYPE_CHECKING:\n    from hessian.kfac.pass_ import factors\n",
    "hessian/kfac/__init__.py": "",
    "hessian/kfac/pass_.py": '"""Factors."""\n\n\ndef factors():\n    """Say more."""\n    # why\n    return 1\n',
    "hessian/kfac/other.py": "",
    "agents/__init__.py": "",
    "agents/registry.py": 'AGENTS = {"gp": "search.gp"}\n',
    "agents/search/__init__.py": "",
    "agents/search/gp.py": "",
    "agents/search/cem.py": "",
    "benchmarks/__init__.py": "",
    "benchmarks/main.py": "def run():\n    from hessian import factors\n    from agents import registry\n",
    "benchmarks/plugins.py": 'def load(name):\n    importlib.import_module(f"agents.search.{name}")\n',
}


@pytest.fixture
def house(tmp_path):
    for name, text in FILES.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path


def test_imports_faces_registries_and_names_put_together_are_followed(house):
    sources = Sources(house)
    assert sources.closure(["benchmarks.main"]) == [
        *("agents.registry", "agents.search.gp", "benchmarks.main", "hessian.kfac.pass_")
    ]
    assert sources.closure(["benchmarks.plugins"]) == [
        *("agents.search.cem", "agents.search.gp", "benchmarks.plugins"),
    ]


def test_a_digest_changes_with_the_code_and_not_with_what_is_said_of_it(house):
    path = house / "hessian/kfac/pass_.py"
    before = Sources(house).digests(["benchmarks.main"])
    path.write_text('"""Kronecker factors."""\n\ndef factors():\n    return 1\n')
    assert Sources(house).digests(["benchmarks.main"]) == before
    path.write_text(FILES["hessian/kfac/pass_.py"].replace("return 1", "return 2"))
    after = Sources(house).digests(["benchmarks.main"])
    assert {room for room in before if before[room] != after[room]} == {"hessian.kfac"}


def test_every_module_that_a_command_imports_is_found():
    """But for faces, which hold no code, and what Gymnasium makes by an environment's name."""
    name = "benchmarks.studies.methods.study"
    importlib.import_module(name)
    found = Sources(ROOT).closure([name, "benchmarks.studies.methods.command"])
    module = sys.modules[name]
    for used in vars(module).values():
        origin = getattr(used, "__module__", None)
        if isinstance(origin, str) and origin.split(".")[0] in ("hessian", "prune_gym", "baselines", "benchmarks"):
            assert origin in found
    assert {"baselines.methods.amc", "prune_gym.measuring.repair", "hessian.refit.sequential"} <= set(found)
