"""The key of measurements covers every module of the package that measuring runs through."""

import ast
from pathlib import Path

import prune_gym
from prune_gym.measuring.measurement_key import MEASURING_CODE

FOLDER = Path(prune_gym.__file__).parent
NO_PART = {
    "support.cache": "keeps results",
    "measuring.curvature_cache": "has a key of its own",
    "support.device": "says where tensors are",
    "support.files": "keeps results",
    "surgery.pruner": "exports networks after they were measured",
    "tasks.task": "what is measured, keyed by its content",
    "envs.reward": "scores what was measured",
}


def imported(name: str) -> set[str]:
    """Modules of the package that a module imports, as ``room.file``."""
    tree = ast.parse((FOLDER / f"{name.replace('.', '/')}.py").read_text())
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("prune_gym."):
            place = node.module.removeprefix("prune_gym.")
            inner = {f"{place}.{alias.name}" for alias in node.names}
            files = {entry for entry in inner if (FOLDER / f"{entry.replace('.', '/')}.py").is_file()}
            names |= files or {place}
    return names


def test_every_module_that_decides_a_measurement_is_in_the_key():
    found, waiting = set(), {"measuring.evaluator", "measuring.predicted"}
    while waiting:
        name = waiting.pop()
        found.add(name)
        waiting |= imported(name) - found - set(NO_PART)
    assert found == set(MEASURING_CODE)
