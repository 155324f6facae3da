"""The key of measurements covers every module of the package that measuring runs through."""

import ast
from pathlib import Path

import prune_gym
from prune_gym.measuring.measurement_key import MEASURING_CODE

FOLDER = Path(prune_gym.__file__).parent
NO_PART = {
    "cache": "keeps results",
    "curvature_cache": "has a key of its own",
    "device": "says where tensors are",
    "files": "keeps results",
    "pruner": "exports networks after they were measured",
    "pruning_task": "what is measured, keyed by its content",
    "reward": "scores what was measured",
}


def imported(name: str) -> set[str]:
    tree = ast.parse((FOLDER / f"{name}.py").read_text())
    froms = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module]
    names = {node.module.removeprefix("prune_gym.") for node in froms if node.module.startswith("prune_gym.")}
    return names | {alias.name for node in froms if node.module == "prune_gym" for alias in node.names}


def test_every_module_that_decides_a_measurement_is_in_the_key():
    found, waiting = set(), {"evaluator", "predicted"}
    while waiting:
        name = waiting.pop()
        found.add(name)
        waiting |= imported(name) - found - set(NO_PART)
    assert found == set(MEASURING_CODE)
