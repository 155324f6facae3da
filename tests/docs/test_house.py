"""The house plan: how full a room may be, and which way imports point."""

import ast
import functools
from pathlib import Path

import pytest

from tests.docs.rooms import PAGE, chapter
from tests.pages import ROOT

ROOMS = {
    "hessian": (
        "",
        "audit",
        "pricing",
        "refit",
        "kfac",
        "obs",
        "patches",
        "discovery",
        "channels",
        "provenance",
        "support",
    ),
    "prune_gym": (
        "",
        "suite",
        "envs",
        "pruning",
        "bench",
        "problem",
        "measuring",
        "measuring.stacked",
        "saving",
        "surgery",
        "reconstruction",
        "tasks.family",
        "tasks",
        "training",
        "allocation",
        "cost",
        "data",
        "support",
    ),
    "agents": ("", "rspar", "amortised", "ppo", "search", "model", "interface"),
    "baselines": ("", "methods", "workshop"),
    "benchmarks": (
        "fuzz",
        "",
        "prune",
        "report",
        "studies",
        "studies.audit",
        "studies.evidence",
        "studies.manifest",
        "studies.amortised",
        "studies.bench",
        "studies.transfer",
        "studies.ladder",
        "studies.agents",
        "studies.methods",
        "studies.any_network",
        "studies.accelerator",
        "studies.speed",
        "system_eval",
        "ablation",
        "sweep",
        "studies.engine",
        "job",
        "files",
        "visualization",
        "settings",
        "stat_tests",
        "metrics",
        "common",
        "configs",
    ),
}
"""Rooms of every floor, top first: a room imports from those after it, and from its own files."""

MOST_FILES = 12


def _room(module):
    """The floor and room of a module's dotted name; a floor's own files are its room ``""``."""
    floor, *rest = module.split(".")
    while rest and ".".join(rest) not in ROOMS[floor]:
        rest = rest[:-1]
    return floor, ".".join(rest)


def _modules():
    for floor in ROOMS:
        for path in sorted((ROOT / floor).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            yield ".".join(parts).removesuffix(".__init__"), path


MODULES = dict(_modules())


def _imports(path):
    """Modules of the house that a file imports when it runs or for its types, faces' lazy names left out."""
    is_face = path.name == "__init__.py"
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and not is_face:
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield inner if inner in MODULES else node.module
        elif isinstance(node, ast.Import) and not is_face:
            yield from (alias.name for alias in node.names)


@functools.cache
def _graph():
    """Module -> modules it imports; made when it is asked for, because every test process collects this file."""
    return {name: {found for found in _imports(path) if found in MODULES} for name, path in MODULES.items()}


def test_every_folder_with_code_is_a_room_of_the_plan():
    folders = {tuple(path.parent.relative_to(ROOT).parts) for path in MODULES.values()}
    assert {(floor, ".".join(rest)) for floor, *rest in folders} == {
        (f, r) for f, rooms in ROOMS.items() for r in rooms
    }


@pytest.mark.parametrize("floor", ROOMS)
def test_no_room_holds_more_files_than_a_glance_takes_in(floor):
    for room in ROOMS[floor]:
        folder = Path(ROOT, floor, *room.split("."))
        assert len(list(folder.glob("*.py"))) <= MOST_FILES, folder


@pytest.mark.parametrize("floor", ROOMS)
def test_rooms_import_from_those_below_them(floor):
    order = ROOMS[floor]
    up = [
        f"{name} imports {found}"
        for name, imported in _graph().items()
        for found in sorted(imported)
        if _room(name)[0] == floor == _room(found)[0] and order.index(_room(found)[1]) < order.index(_room(name)[1])
    ]
    assert not up


def test_no_import_leads_back_to_where_it_started():
    graph, finished, path = _graph(), set(), []

    def visit(name):
        assert name not in path, " -> ".join([*path[path.index(name) :], name])
        if name in finished:
            return
        path.append(name)
        for found in sorted(graph[name]):
            visit(found)
        path.pop()
        finished.add(name)

    for name in graph:
        visit(name)


@pytest.mark.parametrize("name", [name for name, path in MODULES.items() if path.name == "__init__.py"])
def test_the_face_of_a_room_holds_no_code(name):
    """A face may name things, lazily, and (``prune_gym``) register the environments; everything else has a file."""
    defined = {
        node.name for node in ast.walk(ast.parse(MODULES[name].read_text())) if isinstance(node, ast.FunctionDef)
    }
    assert defined <= {"prune_gym": {"register_envs"}}.get(name, set())


@pytest.mark.parametrize("floor", ROOMS)
def test_the_developer_guide_lists_every_room_with_what_its_face_says(floor):
    assert chapter(floor, ROOMS[floor]) in PAGE.read_text(), "python -m tests.docs.rooms writes the tables anew"
