"""docs/development.md: every file, folder, module and command it names exists."""

import ast
import re

import pytest

from tests.pages import DOCS, ROOT, code_blocks, run_page

PAGE = DOCS / "development.md"
PACKAGES = ("hessian", "prune_gym", "agents", "baselines", "benchmarks")
CODE = re.findall(r"`([^`\n]+)`", PAGE.read_text())
PATHS = sorted({code for code in CODE if re.fullmatch(r"\.?[\w./-]+(?:\.(?:py|md|yaml|json|cfg|toml)|/)", code)})
DOTTED = sorted({code for code in CODE if re.fullmatch(rf"(?:{'|'.join(PACKAGES)})(?:\.\w+)+", code)})


def test_it_names_files_and_attributes():
    assert len(PATHS) > 40
    assert len(DOTTED) > 10


@pytest.mark.parametrize("path", PATHS)
def test_a_file_it_names_exists(path):
    assert (ROOT / path).is_dir() if path.endswith("/") else (ROOT / path).is_file()


@pytest.mark.parametrize("name", DOTTED)
def test_a_name_it_gives_is_defined_where_it_says(name):
    place, rest = ROOT, name.split(".")
    while rest and ((place / rest[0]).is_dir() or (place / f"{rest[0]}.py").is_file()):
        place, rest = place / rest[0], rest[1:]
    source = place / "__init__.py" if place.is_dir() else place.with_suffix(".py")
    assert source.is_file()
    assert not rest or rest[0] in _defined(source)


def test_every_bare_name_it_gives_is_somewhere_in_the_code():
    sources = "\n".join(path.read_text() for folder in (*PACKAGES, "tests") for path in (ROOT / folder).rglob("*.py"))
    words = set(re.findall(r"\w+", sources))
    assert {code for code in CODE if re.fullmatch(r"\w*_\w+", code)} <= words


def test_every_test_folder_and_package_has_a_place_in_it():
    folders = {f"{path.name}/" for path in ROOT.iterdir() if (path / "__init__.py").is_file()}
    folders |= {f"tests/{path.name}/" for path in (ROOT / "tests").iterdir() if (path / "__init__.py").is_file()}
    assert folders <= set(PATHS)


@pytest.mark.parametrize("package", PACKAGES)
def test_imports_point_down_as_its_plan_says(package):
    above = {
        "hessian": {"prune_gym", "agents", "baselines", "benchmarks"},
        "prune_gym": {"agents", "baselines", "benchmarks"},
        "agents": {"baselines", "benchmarks"},
        "baselines": {"agents", "benchmarks"},
        "benchmarks": set(),
    }[package]
    for source in (ROOT / package).rglob("*.py"):
        imported = {name.partition(".")[0] for name in _imported(source)}
        assert not imported & above, f"{source.relative_to(ROOT)} imports {sorted(imported & above)}"


def test_entry_points_are_not_libraries():
    """Who imports the command or the pipeline runs it: helpers live below."""
    runs = {
        "benchmarks.main": {"benchmarks/cli.py", "benchmarks/fuzz/crash_jobs.py"},
        "benchmarks.job.pipeline": {
            "benchmarks/main.py",
            "benchmarks/fuzz/crash_jobs.py",
            "benchmarks/studies/engine/run_folders.py",
        },
    }
    for source in (path for package in PACKAGES for path in (ROOT / package).rglob("*.py")):
        for entry in set(_imported(source)) & runs.keys():
            assert source.relative_to(ROOT).as_posix() in runs[entry], f"{source} imports {entry}"


def test_its_python_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run_page(PAGE)


def test_every_module_it_runs_exists():
    commands = re.findall(r"python -m ((?:\w+\.)*\w+)", "\n".join(code_blocks(PAGE, "bash")) + PAGE.read_text())
    assert len(commands) > 3
    for module in {command for command in commands if command.partition(".")[0] in PACKAGES}:
        path = ROOT / module.replace(".", "/")
        assert path.with_suffix(".py").is_file() or (path / "__main__.py").is_file()


def _defined(source):
    """Names that a module assigns, defines, imports or lists in ``__all__`` at its top level."""
    names = set()
    for node in ast.parse(source.read_text()).body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            names.add(node.name)
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            assigned = {target.id for target in targets if isinstance(target, ast.Name)}
            names |= assigned
            if "__all__" in assigned and isinstance(node.value, ast.List):
                names |= {entry.value for entry in node.value.elts if isinstance(entry, ast.Constant)}
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            names |= {alias.asname or alias.name for alias in node.names}
    return names


def _imported(source):
    """Modules that a file imports, inside functions too."""
    for node in ast.walk(ast.parse(source.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module
